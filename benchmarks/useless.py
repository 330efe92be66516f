"""A pretraining that is none, through 200 studies: how often does the interval of its gain contain zero?

Planted are an encoder's weights from another random stream than scratch's, after zero steps. Every study of digits has its own
seeds, label draws and trainings, linear heads and whole networks in turn, crossed and judged as `study=label_efficiency` does.
"""

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
from sft_exp.store.store import Request
from sft_exp.training.context import Context
from sft_exp.verdict import interval

STUDIES, SEEDS, DRAWS = 200, 5, 4
PLANTED = [
    "pretrainer=ae",
    "pretrain.steps=0",
    "monitors=false",
    "labels=5",
    "val=none",
    "finetune.steps=20",
    "controls=[scratch]",
]
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
    start = folder / f"start-{seed}"
    start.mkdir()
    pretrain.run(start, {**job.requests["pretrain"][0], "seed": seed}, ctx)
    planted, scratch = (job.requests["finetune"][job.arms[arm][0]] for arm in (MAIN, SCRATCH))
    draws = range(study * DRAWS, (study + 1) * DRAWS)
    return [
        accuracy({**planted, "seed": seed, "draw": d, "start": start}, ctx, folder)
        - accuracy({**scratch, "seed": seed, "draw": d}, ctx, folder)
        for d in draws
    ]


def accuracy(request: Request, ctx: Context, folder: Path) -> float:
    draw = splits.make(ctx.corpus(request["dataset"]), request["labels"], request["draw"])
    model = finetune.learn(folder, request, ctx, draw.labelled, draw.pool)
    return models.measure(model, draw.test, ctx.device)[0]["accuracy"]
