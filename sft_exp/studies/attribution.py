"""Where did the points come from? Arms that change one thing at a time, from a linear model on pixels upwards."""

from dataclasses import dataclass, field
from itertools import pairwise
from statistics import fmean
from typing import Any, ClassVar

from sft_exp.compare.comparison import Job, percent
from sft_exp.core.arms import MAIN
from sft_exp.errors import require
from sft_exp.reports.drawing import FAINT, INK, LINES, STYLE, Picture, blank, png
from sft_exp.sweep.study import Conclusion, Study, cost
from sft_exp.training import health
from sft_exp.verdict.crossed import LEVEL, WITHHELD, interval, shared, word_of

Levels = dict[str, list[list[float]]]  # arm, from the bottom up -> accuracies [S][D]
WORDS = {"helped": "adds", "hurt": "costs"}
HEAD = ["arm", "accuracy", "step", "low", "high", "verdict"]


@dataclass
class Attribution(Study):
    instead: ClassVar[dict[str, str]] = {
        "seed": "study.seeds",
        "pretrainer": "study.pretrainer",
        "task": "study.task",
        "finetune.steps": "study.short and study.long",
    }

    pretrainer: str = "simclr"  # of the step `pretraining`
    task: str = "fixmatch"  # of the step `semi_supervised`
    short: int = 300  # steps of fine-tuning, up to the step `schedule`
    long: int = 3_000  # and from it on
    floors: list[str] = field(
        default_factory=lambda: ["raw_pixels", "pca_svm"]
    )  # controls below the network, in order
    steps: dict[str, list[str]] = field(
        default_factory=lambda: {}
    )  # name -> the overrides it adds to those of the steps before
    seeds: int = 3
    margin: float = 0.005  # of accuracy: a step within it is too small to matter

    def __post_init__(self):
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
                controls = ",".join(self.floors if n == 0 else [])
                every.append(
                    [
                        f"seed={seed}",
                        f"name={name}",
                        f"controls=[{controls}]",
                        *(f"{k}={v}" for k, v in taken.items()),
                    ]
                )
        return every

    def conclude(self, jobs):
        levels = self.levels(jobs)
        names = list(levels)
        level = shared(LEVEL, len(names) - 1)
        broken = failures(jobs)
        steps = [
            judged(levels[a], levels[b], level, self.margin, a in broken)
            for a, b in pairwise(names)
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
                *(
                    sentence(name, step, 100 * level)
                    for name, step in zip(names[1:], steps, strict=True)
                ),
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
                "Each arm changes one thing of the arm before it; another order would share the points out otherwise. "
                f"Paired over {seeds} seeds and {draws} label draws, crossed; the {len(steps)} intervals hold simultaneously at "
                f"{100 * LEVEL:g} %.",
                *(f"{name}: {' '.join(overrides)}" for name, overrides in self.steps.items()),
                *(
                    f"{name} {how}, so the step from it is not judged."
                    for name, how in broken.items()
                ),
                f"Cost: {cost(jobs):.0f} s of computing.",
            ],
            [waterfall(reached, steps)],
            {
                "arms": {n: reached[n] for n in names},
                "levels": levels,
                "steps": dict(zip(names[1:], steps, strict=True)),
            },
        )

    def levels(self, jobs: list[Job]) -> Levels:
        """Accuracies of every arm that has results, of the seeds that all arms have."""
        found: dict[str, dict[int, list[float]]] = {
            name: {} for name in (*self.floors, *self.steps)
        }
        for job in jobs:
            draws, name = job.result["draws"], job.result["config"]["name"]
            for arm, values in {
                name: draws[MAIN],
                **{a: draws[a] for a in self.floors if a in draws},
            }.items():
                found[arm][int(job.settings["seed"])] = values
        found = {name: of for name, of in found.items() if of}
        seeds = sorted(set.intersection(*(set(of) for of in found.values())))
        return {name: [of[seed] for seed in seeds] for name, of in found.items()}


def changed(taken: dict[str, str], overrides: list[str]) -> dict[str, str]:
    """With these overrides too. Another option of a group takes away what was set inside the old one."""
    for override in overrides:
        key, _, value = override.partition("=")
        taken = {k: v for k, v in taken.items() if not k.startswith(f"{key}.")} | {key: value}
    return taken


def failures(jobs: list[Job]) -> dict[str, str]:
    """arm -> how its fine-tunings failed, of all seeds and draws; only those that did."""
    faults: dict[str, list[str]] = {}
    for job in jobs:
        faults.setdefault(job.result["config"]["name"], []).extend(job.faults(MAIN))
    return {name: how for name, found in faults.items() if (how := health.said(found))}


def judged(
    before: list[list[float]],
    after: list[list[float]],
    level: float,
    margin: float,
    broken: bool = False,
) -> dict[str, Any]:
    """The step from one arm to the next; it gets no word where the training of the arm before it is broken."""
    gains = [
        [b - a for a, b in zip(*rows, strict=True)] for rows in zip(before, after, strict=True)
    ]
    mean, low, high = interval(gains, level=level)
    return {
        "difference": mean,
        "low": low,
        "high": high,
        "level": level,
        "word": WITHHELD if broken else word_of(low, high, margin),
    }


def sentence(name: str, step: dict[str, Any], level: float) -> str:
    mean, low, high = numbers(step)
    said = f"{mean} points ({level:.3g} % interval {low} to {high})"
    return (
        f"{name} {WORDS[step['word']]}: {said}."
        if step["word"] in WORDS
        else f"{name}: {step['word']}, {said}."
    )


def numbers(step: dict[str, Any]) -> list[str]:
    return [percent(step[key], "+") for key in ("difference", "low", "high")]


def waterfall(reached: dict[str, float], steps: list[dict[str, Any]]) -> Picture:
    """One bar an arm: from the accuracy before it to its own, with the step's interval."""
    from matplotlib import rc_context

    names = list(reached)
    with rc_context(STYLE):
        figure, axes = blank(0.8 + 0.42 * len(names))
        values = [100 * v for v in reached.values()]
        least = max(0.0, min(values) - 10)
        for n, value in enumerate(values):
            begin = values[n - 1] if n else least
            colour = LINES[0] if not n else LINES[2] if value >= begin else LINES[1]
            axes.barh(n, value - begin, left=begin, color=colour, height=0.62)
            said = f"{value:.1f}"
            if n:
                step = steps[n - 1]
                axes.plot(
                    [begin + 100 * step["low"], begin + 100 * step["high"]],
                    [n, n],
                    color=INK,
                    linewidth=1.1,
                )
                axes.plot([begin, begin], [n - 1, n], color=FAINT, linewidth=0.7)
                said += f"  ({percent(step['difference'], '+')})"
            axes.text(
                1.02, n, said, va="center", fontsize=8, transform=axes.get_yaxis_transform()
            )  # where no line goes
        axes.set_yticks(range(len(names)), names)
        axes.invert_yaxis()
        axes.set_xlim(least, 100)
        axes.set_xticks([t for t in range(0, 101, 10) if t >= least])
        axes.set_xlabel("test accuracy (%)")
        axes.grid(axis="x")
    caption = "Each bar changes one thing of the bar above it. Lines: the interval of that step, simultaneous over all steps."
    return Picture("waterfall", "Where the points come from", caption, png(figure))
