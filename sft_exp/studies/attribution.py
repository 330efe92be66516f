"""Which change added how many points? Arms that change one thing at a time, from raw pixels up."""

from dataclasses import dataclass, field
from itertools import pairwise
from statistics import fmean
from typing import Any, ClassVar

from sft_exp.compare.comparison import Job, percent
from sft_exp.core.arms import MAIN
from sft_exp.errors import require
from sft_exp.reports.drawing import FAINT, INK, PALETTE, Picture, new_figure, png, style
from sft_exp.studies.pretrainers import failed
from sft_exp.sweep.study import (
    Conclusion,
    Study,
    archive_of,
    cost,
    dataset_of,
    judgement_record,
    setting_of,
)
from sft_exp.training import health
from sft_exp.verdict import Archive, Comparison, Report, Setting, judge

Levels = dict[str, list[list[float]]]  # arm, from the bottom up -> accuracies [S][D]
WORDS = {"helped": "adds", "hurt": "costs"}
HEAD = ["arm", "accuracy", "step", "low", "high", "verdict"]


@dataclass
class Attribution(Study):
    reserved_keys: ClassVar[dict[str, str]] = {
        "seed": "study.seeds",
        "pretrainer": "study.pretrainer",
        "task": "study.task",
        "finetune.steps": "study.short and study.long",
    }

    pretrainer: str = "simclr"  # of the step `pretraining`
    task: str = "fixmatch"  # of the step `semi_supervised`
    short: int = 300  # steps of fine-tuning, up to the step `schedule`
    long: int = 3_000  # and from it on
    # baselines below the network, in order
    baselines: list[str] = field(default_factory=lambda: ["raw_pixels", "pca_svm"])
    # name -> the overrides that it adds to those of the steps before
    steps: dict[str, list[str]] = field(default_factory=lambda: {})
    seeds: int = 3
    margin: float = 0.005  # of accuracy: a step within it is too small to matter

    def __post_init__(self):
        super().__post_init__()
        require(
            len(self.steps) > 1, "steps", self.steps, "two steps or more, each a list of overrides"
        )
        require(self.seeds > 1, "seeds", self.seeds, "2 or more: one seed says nothing of another")
        require(self.margin >= 0, "margin", self.margin, "0 or more")

    def jobs(self, corpus, base):
        every = []
        for seed in range(self.seeds):
            taken: dict[str, str] = {}
            for n, (name, overrides) in enumerate(self.steps.items()):
                taken = changed(taken, overrides)
                controls = ",".join(self.baselines if n == 0 else [])
                every.append(
                    [
                        f"seed={seed}",
                        f"name={name}",
                        f"controls=[{controls}]",
                        *(f"{k}={v}" for k, v in taken.items()),
                    ]
                )
        return every

    def conclude(self, jobs, looks=(), trials=None):
        levels = self.levels(jobs)
        names = list(levels)
        faults = faults_of(jobs)
        broken = {name: how for name in names if (how := failed(faults.get(name, {})))}
        setting = setting_of(jobs, self.margin)
        all_labels = jobs[0].settings["labels"] == "all" and setting.ratio == 0
        report = judged(
            levels, faults, all_labels, setting, archive_of(self.archive), dataset_of(jobs)
        )
        steps = [
            {k: v for k, v in verdict.record().items() if k != "text"}
            for verdict in report.verdicts.values()
        ]
        reached = {name: fmean(a for row in rows for a in row) for name, rows in levels.items()}
        most = max(range(len(steps)), key=lambda n: steps[n]["difference"])
        seeds, draws = len(levels[names[0]]), len(levels[names[0]][0])
        settings = jobs[0].settings
        about = f"{settings['dataset']}, labels={settings['labels']}"
        return Conclusion(
            f"Where the points come from: {about}",
            [
                f"From {percent(reached[names[0]])} % ({names[0]}) to {percent(reached[names[-1]])} % ({names[-1]}); "
                f"the largest step is {names[most + 1]}, {percent(steps[most]['difference'], '+')} points.",
                *(sentence(name, step) for name, step in zip(names[1:], steps, strict=True)),
            ],
            (
                HEAD,
                [[names[0], percent(reached[names[0]]), "", "", "", ""]]
                + [
                    [name, percent(reached[name]), *numbers(s), WORDS.get(s["word"], s["word"])]
                    for name, s in zip(names[1:], steps, strict=True)
                ],
            ),
            ["accuracy", "step", "low", "high"],
            [
                "Each arm changes one thing of the arm before it; in another order the steps would "
                f"get other shares of the points. Paired over {seeds} seeds and {draws} label draws, crossed.",
                *report.notes,
                *(f"{name}: {' '.join(overrides)}" for name, overrides in self.steps.items()),
                *(f"{name} {how}." for name, how in broken.items()),
                f"Cost: {cost(jobs):.0f} s of computing.",
            ],
            [waterfall(reached, steps)],
            {
                "arms": {n: reached[n] for n in names},
                "levels": levels,
                **judgement_record(report, jobs),
                "steps": dict(zip(names[1:], steps, strict=True)),
            },
        )

    def levels(self, jobs: list[Job]) -> Levels:
        """Accuracies of every arm that has results, for the seeds that all arms share."""
        by_seed: dict[str, dict[int, list[float]]] = {
            name: {} for name in (*self.baselines, *self.steps)
        }
        for job in jobs:
            draws, name = job.outcome.draws, job.outcome.config["name"]
            arms = {name: draws[MAIN], **{a: draws[a] for a in self.baselines if a in draws}}
            for arm, accuracies in arms.items():
                by_seed[arm][int(job.settings["seed"])] = accuracies
        by_seed = {arm: seeds for arm, seeds in by_seed.items() if seeds}
        shared = sorted(set.intersection(*map(set, by_seed.values())))
        return {arm: [seeds[seed] for seed in shared] for arm, seeds in by_seed.items()}


def changed(taken: dict[str, str], overrides: list[str]) -> dict[str, str]:
    """The overrides so far and these. Another option of a configuration group removes the keys
    that were set inside the old one."""
    for override in overrides:
        key, _, value = override.partition("=")
        taken = {k: v for k, v in taken.items() if not k.startswith(f"{key}.")} | {key: value}
    return taken


Faults = dict[str, dict[int, list[str]]]  # arm -> seed -> how its trainings failed, of each draw


def faults_of(jobs: list[Job]) -> Faults:
    faults: Faults = {}
    for job in jobs:
        name, seed = job.outcome.config["name"], int(job.settings["seed"])
        faults.setdefault(name, {})[seed] = job.faults(MAIN)
    return faults


def judged(
    levels: Levels,
    faults: Faults,
    all_labels: bool,
    setting: Setting,
    archive: Archive | None,
    dataset: str,
) -> Report[str]:
    """The report on all steps. A step is named by its arm; its control is the arm before it."""
    seeds = sorted(set.intersection(*(set(of) for of in faults.values()))) if faults else []

    def rows(arm: str) -> list[list[str]]:
        sound = [[""] * len(draws) for draws in levels[arm]]
        return [faults[arm][seed] for seed in seeds] if arm in faults else sound

    steps = {
        after: health.noted(
            Comparison(levels[after], levels[before], all_labels=all_labels),
            rows(after),
            rows(before),
        )
        for before, after in pairwise(levels)
    }
    return judge(steps, setting, archive, [dataset])


def sentence(name: str, step: dict[str, Any]) -> str:
    """`pretraining adds: +2.2 points (+1.4 to +3.1).`"""
    mean, low, high = numbers(step)
    gain = f"{mean} points" + (f" ({low} to {high})" if low else "")
    if step["word"] in WORDS:
        return f"{name} {WORDS[step['word']]}: {gain}."
    return f"{name}: {step['word']}, {gain}."


def numbers(step: dict[str, Any]) -> list[str]:
    """The mean and the interval's ends in points; empty texts where there is no interval."""
    values = (step[key] for key in ("difference", "low", "high"))
    return ["" if v is None else percent(v, "+") for v in values]


def waterfall(reached: dict[str, float], steps: list[dict[str, Any]]) -> Picture:
    """One bar an arm, from the accuracy of the arm before it to its own, with the interval."""
    from matplotlib import rc_context

    names = list(reached)
    with rc_context(style()):
        figure, axes = new_figure(0.8 + 0.42 * len(names))
        values = [100 * v for v in reached.values()]
        least = max(0.0, min(values) - 10)
        for n, value in enumerate(values):
            begin = values[n - 1] if n else least
            colour = PALETTE[0] if not n else PALETTE[2] if value >= begin else PALETTE[1]
            axes.barh(n, value - begin, left=begin, color=colour, height=0.62)
            label = f"{value:.1f}"
            if n:
                step = steps[n - 1]
                if step["low"] is not None:
                    ends = [begin + 100 * step["low"], begin + 100 * step["high"]]
                    axes.plot(ends, [n, n], color=INK, linewidth=1.1)
                axes.plot([begin, begin], [n - 1, n], color=FAINT, linewidth=0.7)
                label += f"  ({percent(step['difference'], '+')})"
            # to the right of the axes, where no line is drawn
            axes.text(1.02, n, label, va="center", fontsize=8, transform=axes.get_yaxis_transform())
        axes.set_yticks(range(len(names)), names)
        axes.invert_yaxis()
        axes.set_xlim(least, 100)
        axes.set_xticks([t for t in range(0, 101, 10) if t >= least])
        axes.set_xlabel("test accuracy (%)")
        axes.grid(axis="x")
    caption = (
        "Each bar changes one thing of the bar above it. "
        "Lines: the interval of that step, simultaneous over all steps."
    )
    return Picture("waterfall", "Where the points come from", caption, png(figure))
