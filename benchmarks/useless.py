"""A pretraining that is none, through 200 studies: how often does the interval of its gain contain zero?

Planted are an encoder's weights from another random stream than scratch's, after zero steps. Every study of digits has its own
seeds, label draws and trainings, linear heads and whole networks in turn, crossed and judged as `study=label_efficiency` does.

    python -m benchmarks useless              studies of one design
    python -m benchmarks useless_until        100 studies that go on until they are decided
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from sft_exp.config import build, compose
from sft_exp.core.arms import MAIN, SCRATCH
from sft_exp.core.tracker import Tracker
from sft_exp.data import splits
from sft_exp.jobs import prepare
from sft_exp.jobs.stage_requests import Job
from sft_exp.stages import finetune, pretrain
from sft_exp.stages import model as models
from sft_exp.stages.features import STORED
from sft_exp.store.store import Request
from sft_exp.training.context import Context
from sft_exp.verdict import Comparison, Setting, interval, sequential
from sft_exp.verdict.archive import frozen

STUDIES, SEEDS, DRAWS = 200, 5, 4
SEQUENTIAL = 100  # studies that go on until they are decided
PLANTED = [
    "pretrainer=ae", "pretrain.steps=0", "monitors=false", "labels=5", "val=none",
    "finetune.steps=20", "controls=[scratch]",
]  # fmt: skip
STRATEGIES = ("linear", "full")


def main(root: Path) -> None:
    for strategy in STRATEGIES:
        found = list(intervals(strategy, STUDIES // len(STRATEGIES)))
        inside = sum(low <= 0 <= high for _, low, high in found)
        wide = 100 * sum(high - low for _, low, high in found) / len(found) / 2
        print(
            f"  strategy={strategy:8} {inside} of {len(found)} intervals contain zero; they reach {wide:.1f} points on average"
        )


def intervals(strategy: str, studies: int) -> Iterator[tuple[float, float, float]]:
    values, choices = compose.compose([*PLANTED, f"strategy={strategy}"])
    job = prepare.prepare(build.experiment(values, choices))
    ctx = Context.on(job.experiment.hardware, Tracker())
    for n in range(studies):
        with TemporaryDirectory() as folder:
            yield interval([gains(job, ctx, Path(folder), n, n * SEEDS + s) for s in range(SEEDS)])


def gains(job: Job, ctx: Context, folder: Path, study: int, seed: int) -> list[float]:
    """Accuracy of the planted weights minus that of scratch, one a label draw of this study."""
    draws = [*range(study * DRAWS, (study + 1) * DRAWS)]
    return [planted - scratch for planted, scratch in both(job, ctx, folder, seed, draws)]


def until_decided(root: Path) -> None:
    """How many studies of `study.until=decided` say that the planted pretraining helped or hurt?"""
    for strategy in STRATEGIES:
        ends = list(looks_of(strategy, SEQUENTIAL // len(STRATEGIES)))
        words = Counter(word for word, _ in ends)
        cost = sum(seeds * draws for _, (seeds, draws) in ends) / len(ends)
        shown = ", ".join(f"{word} {count}" for word, count in words.most_common())
        print(f"  strategy={strategy:8} {shown}; {cost:.0f} fine-tunings of each arm on average")


def looks_of(strategy: str, studies: int) -> Iterator[tuple[str, tuple[int, int]]]:
    """(the word, seeds and draws of the last look) of each study."""
    values, choices = compose.compose([*PLANTED, f"strategy={strategy}"])
    job = prepare.prepare(build.experiment(values, choices))
    ctx = Context.on(job.experiment.hardware, Tracker())
    most_seeds, most_draws = sequential.LOOKS[-1]
    for n in range(studies):
        with TemporaryDirectory() as folder:
            scores: dict[tuple[int, int], tuple[float, float]] = {}
            history: list[sequential.Look] = []
            for seeds, draws in sequential.LOOKS:
                for s in range(seeds):
                    missing = [d for d in range(draws) if (s, d) not in scores]
                    seed, numbers = n * most_seeds + s, [n * most_draws + d for d in missing]
                    found = both(job, ctx, Path(folder), seed, numbers)
                    scores |= {(s, d): pair for d, pair in zip(missing, found, strict=True)}
                planted, scratch = (
                    [[scores[s, d][arm] for d in range(draws)] for s in range(seeds)]
                    for arm in (0, 1)
                )
                setting = Setting(tested=len(job.corpus.tested))
                comparison = {"planted": Comparison(planted, scratch)}
                look = sequential.take(
                    history, comparison, (seeds, draws), setting, frozen(), ["digits"]
                )
                history.append(look)
                if not look.going:
                    break
        yield look.words["planted"], (look.seeds, look.draws)


def both(
    job: Job, ctx: Context, folder: Path, seed: int, draws: list[int]
) -> list[tuple[float, float]]:
    """(accuracy of the planted weights, of scratch), one pair a label draw."""
    start = folder / f"start-{seed}"
    if not start.exists():
        start.mkdir()
        pretrain.run(start, {**job.requests["pretrain"][0], "seed": seed}, ctx)
    planted, scratch = (job.requests["finetune"][job.arms[arm][0]] for arm in (MAIN, SCRATCH))
    return [
        (
            accuracy({**planted, "seed": seed, "draw": d, "start": start}, ctx, folder),
            accuracy({**scratch, "seed": seed, "draw": d}, ctx, folder),
        )
        for d in draws
    ]


def accuracy(request: Request, ctx: Context, folder: Path) -> float:
    request = {key: value for key, value in request.items() if key != STORED}  # no store is used
    draw = splits.make(ctx.corpus(request["dataset"]), request["labels"], request["draw"])
    model = finetune.learn(folder, request, ctx, draw.labelled, draw.pool)
    return models.measure(model, draw.test, ctx.device)[0]["accuracy"]
