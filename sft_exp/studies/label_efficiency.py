"""How much does pretraining add, at which number of labels?

The design is pretrainers x label counts x pretraining seeds x labelled splits.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from math import inf, isfinite
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from sft_exp.compare.comparison import Job, percent
from sft_exp.core.arms import FLOORS, LONG, MAIN, MORE_FLOORS, SCRATCH
from sft_exp.errors import require
from sft_exp.reports.drawing import FAINT, INK, PALETTE, Picture, new_figure, png, style
from sft_exp.reports.page import Grid
from sft_exp.sweep.study import (
    Conclusion,
    Study,
    archive_of,
    cost,
    dataset_of,
    judgement_record,
    labels_said,
    setting_of,
)
from sft_exp.training import health
from sft_exp.verdict import (
    WITHHELD,
    Archive,
    Comparison,
    Report,
    Setting,
    Verdict,
    interval,
    judge,
    primary_weights,
)
from sft_exp.verdict.sequential import LOOKS, Look, conclude, spent, take
from sft_exp.verdict.words import finite
from sft_exp.verdict.worth import Worth, worth

if TYPE_CHECKING:
    from sft_exp.config.schema import Experiment
    from sft_exp.data.corpus import Corpus

Cell = tuple[str, str]  # (pretrainer, labels)
HEAD = [
    "pretrainer",
    "labels",
    "pretrained",
    "scratch",
    "gain",
    "low",
    "high",
    "verdict",
    "worth",
    "best baseline",
]
NUMBERS = [
    "labels", "pretrained", "scratch", "gain", "low", "high", "frozen_svm", "frozen_linear",
    "frozen_spread", LONG,
]  # fmt: skip


@dataclass
class LabelEfficiency(Study):
    reserved_keys: ClassVar[dict[str, str]] = {
        "pretrainer": "study.pretrainers",
        "labels": "study.labels",
        "seed": "study.seeds",
        "draws": "no value, the looks of study.until=decided set it",
    }

    pretrainers: list[str] = field(default_factory=lambda: ["vae"])
    # label counts a class; counts that exceed the smallest class are left out
    labels: list[Any] = field(default_factory=lambda: [1, 2, 5, 10, 20, 50, 100, 500, "all"])
    # pretraining seeds; with draws=8 gains of a point are found more often than by 5 seeds and 6 draws
    # at the same cost (docs/verdict.md, section 11)
    seeds: int = 4
    # the label count whose verdicts have 80 % of the error rate, declared before anything runs
    primary: Any = 10
    # public weights (a file, or torchvision:resnet18), used as they are and to start each pretrainer
    weights: str | None = None
    # at the primary label count also scratch_long: scratch with the pretraining's images in addition
    long: bool = True
    margin: float = 0.005  # of accuracy: a difference within it is too small to matter
    # design: the seeds and draws given; decided: more of both, look by look, until every verdict is
    # decided or hopeless
    until: str = "design"

    def __post_init__(self):
        super().__post_init__()
        require(self.until in ("design", "decided"), "until", self.until, "design or decided")
        require(
            self.budget is None or self.until == "decided",
            "budget",
            self.budget,
            "null, unless study.until=decided",
        )
        require(bool(self.pretrainers), "pretrainers", self.pretrainers, "a list of pretrainers")
        require(bool(self.labels), "labels", self.labels, "a list of label counts a class, or all")
        require(self.seeds > 1, "seeds", self.seeds, "2 or more: one seed says nothing of another")
        require(self.margin >= 0, "margin", self.margin, "0 or more")

    def jobs(self, corpus, base):
        if self.until == "decided":
            return []
        return [overrides for _, overrides in self.crossed(corpus, base, self.seeds)]

    def looks(self, corpus, base):
        if self.until == "design":
            return []
        return [
            [(key, [*job, f"draws={draws}"]) for key, job in self.crossed(corpus, base, seeds)]
            for seeds, draws in LOOKS
        ]

    def crossed(
        self, corpus: "Corpus", base: "Experiment", seeds: int
    ) -> list[tuple[str, list[str]]]:
        """Label counts x seeds x pretrainings: (the comparison that a job belongs to, overrides)."""
        from sft_exp.data import splits  # late: imports torch

        smallest_class = splits.most_per_class(corpus)
        counts = [str(n) for n in self.labels if not isinstance(n, int) or n <= smallest_class]
        valid = f"counts of 1 to {smallest_class} a class, or all"
        require(bool(counts), "labels", self.labels, valid)
        primary = str(self.primary) if str(self.primary) in counts else counts[len(counts) // 2]
        return [
            (
                key((pretraining_of(dict(o.split("=", 1) for o in pretraining)), count)),
                [
                    f"labels={count}",
                    f"seed={seed}",
                    *pretraining,
                    *self.controls(base, count == primary),
                ],
            )
            for seed in range(seeds)
            for count in counts
            for pretraining in self.pretrainings()
        ]

    def pretrainings(self) -> list[list[str]]:
        """Overrides of each pretraining: every pretrainer, and with `weights` also the weights as
        they are and every pretrainer started from them."""
        plain = [[f"pretrainer={p}"] for p in self.pretrainers]
        if self.weights is None:
            return plain
        start = f"pretrainer.init={self.weights}"
        return [*plain, ["pretrainer=checkpoint", start], *([*p, start] for p in plain)]

    def controls(self, base: "Experiment", primary: bool) -> list[str]:
        """The override of a job's controls, where it differs from the command's.

        Scratch is always needed, because gains are measured against it. scratch_long costs as much
        as a pretraining for each seed and runs at the primary label count alone.
        """
        if base.controls is True:  # the default controls, which include scratch
            return []
        controls = list(base.controls or [])
        extra = [SCRATCH] * (SCRATCH not in controls) + [LONG] * (
            self.long and primary and LONG not in controls
        )
        return [f"controls=[{','.join([*controls, *extra])}]"] if extra else []

    def look(self, jobs, history, design):
        cells, setting = by_cell(jobs, each=True), setting_of(jobs, self.margin)
        comparisons = comparisons_of(arms_of(cells), self.primary_of(cells), setting.ratio > 0)
        return take(
            history,
            {key(cell): comparison for cell, comparison in comparisons.items()},
            design,
            setting,
            archive_of(self.archive),
            [dataset_of(jobs)],
        )

    def primary_of(self, cells: dict[Cell, list[Job]]) -> str:
        """The label count declared primary, or the middle one if that was not run."""
        return str(self.primary) if any(n == str(self.primary) for _, n in cells) else middle(cells)

    def conclude(self, jobs, looks=(), trials=None):
        cells = by_cell(jobs, each=bool(looks))
        primary = self.primary_of(cells)
        gains = {cell: [gain(j) for j in rows] for cell, rows in cells.items()}
        report = judged(
            arms_of(cells),
            primary,
            setting_of(jobs, self.margin),
            archive_of(self.archive),
            dataset_of(jobs),
            looks,
        )
        verdicts = report.verdicts
        first = [c for c in cells if c[1] == primary] + [c for c in cells if c[1] != primary]
        sets = {str(j.settings.get("dataset")) for j in jobs}
        designs = sorted({(len(of), len(of[0])) for of in gains.values()})
        sizes = " or ".join(f"{s} pretraining seeds and {d} label draws" for s, d in designs)
        worths = {cell: worth_of(cell, cells) for cell in cells}
        return Conclusion(
            f"Label efficiency on {', '.join(sorted(sets))}",
            [
                f"{name(c)}{' (primary)' if c[1] == primary else ''}: {verdicts[c].text}"
                for c in first
            ],
            with_other_arms(
                HEAD, [row(c, cells, verdicts[c], worths[c]) for c in cells], list(cells.values())
            ),
            NUMBERS,
            [
                f"Paired over {sizes}, crossed. "
                "At labels=all there is one label set, and intervals cover seeds alone.",
                f"labels={primary} was declared primary beforehand: its verdicts have 80 % of the "
                "report's error rate of 5 %.",
                *report.notes,
                *looked(looks),
                "worth: how many times the labels the same model from scratch needs for this score "
                f"(arXiv:2003.14323); {len(cells)} intervals that hold together at 95 %.",
                f"Cost of the pretrained arms: {cost(jobs):.0f} s of computing.",
                *failed(cells),
                *departures(jobs),
            ],
            details=[
                f"{name(c)}: {' '.join(notes)}" for c in first if (notes := verdicts[c].notes)
            ],
            pictures=draw(cells, verdicts),
            facts={
                "primary": primary,
                **judgement_record(report, jobs),
                "looks": [seen.record() for seen in looks],
                "cells": [
                    {
                        "pretrainer": p,
                        "labels": n,
                        **verdicts[p, n].record(),
                        "worth": finite(asdict(w)) if (w := worths[p, n]) else None,
                        "gains": gains[p, n],
                        "floor": floor(of),
                        **{arm: accuracy(of, arm) for arm in of[0].outcome.draws},
                    }
                    for (p, n), of in cells.items()
                ],
            },
        )


class Arms(NamedTuple):
    """Scores of the two arms of a cell, and how their trainings failed, by seed and draw [S][D]."""

    pretrained: list[list[float]]
    scratch: list[list[float]]
    pretrained_faults: list[list[str]]
    scratch_faults: list[list[str]]

    @classmethod
    def of(cls, jobs: list[Job]) -> "Arms":
        pretrained, scratch = ([j.outcome.draws[arm] for j in jobs] for arm in (MAIN, SCRATCH))
        faults = [[j.faults(arm) for j in jobs] for arm in (MAIN, SCRATCH)]
        return cls(pretrained, scratch, *faults)


def arms_of(cells: Mapping[Cell, list[Job]]) -> dict[Cell, Arms]:
    return {cell: Arms.of(jobs) for cell, jobs in cells.items()}


def comparisons_of(cells: Mapping[Cell, Arms], primary: str, folds: bool) -> dict[Cell, Comparison]:
    """The comparisons of all cells; those at the primary label count weigh more."""
    weights = primary_weights([labels == primary for _, labels in cells])
    return {
        (pretrainer, labels): health.noted(
            Comparison(
                arms.pretrained,
                arms.scratch,
                group=labels,
                weight=weight,
                all_labels=labels == "all" and not folds,
            ),
            arms.pretrained_faults,
            arms.scratch_faults,
        )
        for ((pretrainer, labels), arms), weight in zip(cells.items(), weights, strict=True)
    }


def judged(
    cells: Mapping[Cell, Arms],
    primary: str,
    setting: Setting,
    archive: Archive | None,
    dataset: str,
    looks: Sequence[Look] = (),
) -> Report[Cell]:
    """The report on all cells; after looks each verdict is that of the look which decided it."""
    comparisons = comparisons_of(cells, primary, setting.ratio > 0)
    if not looks:
        return judge(comparisons, setting, archive, [dataset])
    named = {key(cell): cell for cell in cells}
    report = conclude(
        looks, {key(c): of for c, of in comparisons.items()}, setting, archive, [dataset]
    )
    verdicts = {named[name]: verdict for name, verdict in report.verdicts.items()}
    return Report(verdicts, report.archive, report.scale, report.notes)


def key(cell: Cell) -> str:
    """The name of a comparison in looks.json."""
    return f"{cell[0]}, {cell[1]}"


def by_cell(jobs: list[Job], each: bool = False) -> dict[Cell, list[Job]]:
    """Jobs by pretrainer and label count, in the order of their seeds.

    By default a cell has the seeds that all cells share. With `each` it has all of its own seeds,
    each with the largest number of draws that was run, because the cells of a study that goes on
    end at different looks.
    """
    by_seed: dict[Cell, dict[Any, Job]] = {}
    for job in sorted(jobs, key=lambda j: j.settings.get("draws") or 0):
        cell = pretraining_of(job.settings), str(job.settings["labels"])
        by_seed.setdefault(cell, {})[job.settings["seed"]] = job
    common = set.intersection(*(set(seeds) for seeds in by_seed.values()))
    order = sorted(by_seed, key=lambda c: (c[0], labels_of(next(iter(by_seed[c].values())))))
    return {
        cell: [by_seed[cell][seed] for seed in sorted(by_seed[cell] if each else common)]
        for cell in order
    }


def pretraining_of(settings: Mapping[str, Any]) -> str:
    """A pretraining's name: `simclr`, or with initial weights `simclr from resnet18.safetensors`."""
    name, start = str(settings["pretrainer"]), settings.get("pretrainer.init")
    return f"{name} from {Path(str(start)).name}" if start else name


def looked(looks: Sequence[Look]) -> list[str]:
    """Notes on the looks of a study: their number, the alpha spent, and what was stopped."""
    if not looks:
        return []
    last = looks[-1]
    stopped = sorted(map(str, last.hopeless)) or ["none"]
    return [
        f"{len(looks)} of at most {len(LOOKS)} looks were taken, the last at {last.seeds} seeds and "
        f"{last.draws} draws; {100 * spent(looks):.2g} of the 5 % are spent. Each verdict is that of "
        "the look which decided it. Stopped because more runs would hardly be enough to tell: "
        f"{'; '.join(stopped)}."
    ]


def middle(cells: dict[Cell, list[Job]]) -> str:
    counts = list(dict.fromkeys(n for _, n in cells))
    return counts[len(counts) // 2]


def labels_of(job: Job) -> float:
    """Labelled images a class, on average; all labelled images where there are no classes."""
    return job.outcome.data.labelled / job.outcome.data.strata


def failed_in(jobs: list[Job], arm: str) -> str:
    """How trainings of an arm of a cell failed, over all seeds and draws; empty if none did."""
    return health.said([fault for job in jobs for fault in job.faults(arm)])


def gain(job: Job) -> list[float]:
    draws = job.outcome.draws
    return [a - b for a, b in zip(draws[MAIN], draws[SCRATCH], strict=True)]


def accuracy(jobs: list[Job], arm: str) -> float:
    return fmean(a for j in jobs for a in j.outcome.draws[arm])


def name(cell: Cell) -> str:
    pretrainer, labels = cell
    return f"{pretrainer}, {labels_said(labels)}"


def row(
    cell: Cell, cells: dict[Cell, list[Job]], verdict: Verdict, worth: Worth | None
) -> list[str]:
    jobs, spoke = cells[cell], verdict.word != WITHHELD
    curve = not any(
        failed_in(of, SCRATCH) for (pretrainer, _), of in cells.items() if pretrainer == cell[0]
    )
    return [
        *cell,
        percent(accuracy(jobs, MAIN)),
        percent(accuracy(jobs, SCRATCH)),
        *(
            percent(v, "+") if spoke and isfinite(v) else ""
            for v in (verdict.difference, verdict.low, verdict.high)
        ),
        verdict.word,
        times(worth) if curve and worth else "",
        " ".join(f"{arm} {percent(score)}" for arm, score in floor(jobs).items()),
    ]


def with_other_arms(head: list[str], body: list[list[str]], cells: Sequence[list[Job]]) -> Grid:
    """The table with columns of the further arms: frozen pretrained encoders, and scratch_long."""
    more = [
        arm
        for arm in NUMBERS
        if arm not in head and any(arm in jobs[0].outcome.draws for jobs in cells)
    ]
    columns = [
        [percent(accuracy(jobs, arm)) if arm in jobs[0].outcome.draws else "" for arm in more]
        for jobs in cells
    ]
    return [*head, *more], [[*row, *of] for row, of in zip(body, columns, strict=True)]


def floor(jobs: list[Job]) -> dict[str, float]:
    """The best baseline, {arm: accuracy}: of the controls without pretraining, but scratch."""
    reached = {
        arm: accuracy(jobs, arm) for arm in jobs[0].outcome.draws if arm in (*FLOORS, *MORE_FLOORS)
    }
    best = max(reached, key=lambda arm: reached[arm], default=None)
    return {best: reached[best]} if best else {}


def failed(cells: dict[Cell, list[Job]]) -> list[str]:
    """A note on the cells whose pretrained model does not beat its baselines."""
    low = [
        name(c)
        for c, jobs in cells.items()
        if accuracy(jobs, MAIN) <= max(floor(jobs).values(), default=-1.0)
    ]
    return [f"Failed to learn (does not beat its best baseline): {'; '.join(low)}."] if low else []


def departures(jobs: list[Job]) -> list[str]:
    """Notes on departures from the standard, and on test images that resemble training images."""
    copies = max(j.outcome.data.copies for j in jobs)
    notes = (
        [f"{copies} test images are copies, exact or near, of images that may be learnt from."]
        if copies
        else []
    )
    if any(j.settings.get("val") == "full" for j in jobs):
        notes.append("val=full: validation uses labels outside the budget.")
    if any(j.settings.get("protocol.transductive") for j in jobs):
        notes.append(
            "protocol.transductive=true: test images, without their labels, may have been pretrained on."
        )
    return notes


def worth_of(cell: Cell, cells: dict[Cell, list[Job]]) -> Worth | None:
    """How many times the labels scratch needs to be as accurate; None with one label count."""
    by_count = {labels_of(jobs[0]): jobs for (p, _), jobs in cells.items() if p == cell[0]}
    if len(by_count) < 2:
        return None
    seeds = min(len(jobs) for jobs in by_count.values())  # cells may have ended at different looks
    draws = min(len(j.outcome.draws[MAIN]) for jobs in by_count.values() for j in jobs)
    pretrained = [j.outcome.draws[MAIN][:draws] for j in cells[cell][:seeds]]
    scratch = {
        n: [j.outcome.draws[SCRATCH][:draws] for j in jobs[:seeds]] for n, jobs in by_count.items()
    }
    return worth(pretrained, scratch, labels_of(cells[cell][0]), 0.05 / len(cells))


def times(worth: Worth) -> str:
    """A worth as a cell of the table: `2.3x (1.4 to 4.1)`."""
    if worth.beyond:
        return f"{'at least' if worth.beyond > 0 else 'at most'} {worth.times:.2g}x"
    # two digits, without an exponent for hundreds
    high = f"{float(f'{worth.high:.2g}'):g}" if worth.high < 1e4 else "no bound"
    return f"{worth.times:.2g}x ({worth.low:.2g} to {high})"


def draw(cells: dict[Cell, list[Job]], verdicts: dict[Cell, Verdict]) -> list[Picture]:
    from matplotlib import rc_context

    with rc_context(style()):
        return [curves(cells), differences(cells, verdicts)]


def curves(cells: dict[Cell, list[Job]]) -> Picture:
    figure, axes = new_figure(4.2)
    pretrainers = list(dict.fromkeys(p for p, _ in cells))
    lines = {p: (p, MAIN) for p in pretrainers}
    arms = dict.fromkeys(arm for jobs in cells.values() for arm in jobs[0].outcome.draws)
    lines |= {
        arm: (pretrainers[0], arm) for arm in arms if arm in (SCRATCH, LONG, *FLOORS, *MORE_FLOORS)
    }
    lines |= {
        f"{p}, {arm}": (p, arm) for arm in arms if arm.startswith("frozen") for p in pretrainers
    }
    for (label, (pretrainer, arm)), colour in zip(lines.items(), PALETTE * 2, strict=False):
        rows = [
            jobs
            for (p, _), jobs in cells.items()
            if p == pretrainer and arm in jobs[0].outcome.draws
        ]
        x = [labels_of(jobs[0]) for jobs in rows]
        bands = [interval([j.outcome.draws[arm] for j in jobs]) for jobs in rows]
        style = "-" if arm in (MAIN, SCRATCH) else ":"
        axes.plot(
            x,
            [100 * b[0] for b in bands],
            style,
            color=colour,
            linewidth=1.6,
            marker="o",
            markersize=3,
            label=label,
        )
        if arm in (MAIN, SCRATCH):
            axes.fill_between(
                x,
                [100 * b[1] for b in bands],
                [100 * b[2] for b in bands],
                color=colour,
                alpha=0.15,
                linewidth=0,
            )
    labels_axis(axes, cells)
    job = next(iter(cells.values()))[0]
    axes.set_ylabel(f"test {job.score_name} (%)")
    axes.grid(axis="y")
    figure.legend(fontsize=8, ncols=3, loc="outside lower center")
    caption = (
        "Means over seeds and draws; a band is their 95 % interval. Dotted: baselines, other arms."
    )
    return Picture(
        job.score,
        f"{job.score_name[0].upper()}{job.score_name[1:]} against labels",
        caption,
        png(figure),
    )


def differences(cells: dict[Cell, list[Job]], verdicts: dict[Cell, Verdict]) -> Picture:
    figure, axes = new_figure(3.0)
    pretrainers = list(dict.fromkeys(p for p, _ in cells))
    axes.axhline(0, color=INK, linewidth=0.8)
    for i, (pretrainer, colour) in enumerate(zip(pretrainers, PALETTE * 2, strict=False)):
        points = [
            (labels_of(jobs[0]), verdicts[c])
            for c, jobs in cells.items()
            if c[0] == pretrainer and verdicts[c].word != WITHHELD
        ]
        x = [n * 1.06 ** (i - (len(pretrainers) - 1) / 2) for n, _ in points]
        y = [100 * v.difference for _, v in points]
        reach = [100 * (v.high - v.difference) if v.high < inf else 0.0 for _, v in points]
        axes.errorbar(
            x,
            y,
            reach,
            fmt="o-",
            color=colour,
            markersize=4,
            linewidth=1.2,
            elinewidth=1,
            capsize=2,
            label=pretrainer,
        )
    labels_axis(axes, cells)
    axes.set_ylabel("gain over scratch (points)")
    axes.grid(axis="y", color=FAINT, alpha=0.3)
    axes.legend(fontsize=8)
    caption = "Mean difference to the same model from scratch, with the interval of the verdict."
    return Picture("gain", "Gain against labels", caption, png(figure))


def labels_axis(axes: Any, cells: dict[Cell, list[Job]]) -> None:
    ticks = {labels_of(jobs[0]): n for (_, n), jobs in cells.items()}
    axes.set_xscale("log")
    axes.set_xticks(list(ticks), list(ticks.values()))
    axes.minorticks_off()
    axes.set_xlabel("labels a class")
