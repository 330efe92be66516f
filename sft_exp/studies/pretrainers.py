"""Which pretrainer? All methods with one recipe, by strategy and number of labels."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any, ClassVar

from sft_exp.compare.comparison import Job, percent
from sft_exp.core.arms import MAIN
from sft_exp.errors import require
from sft_exp.reports.drawing import FAINT, PALETTE, Picture, new_figure, png, style
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
from sft_exp.verdict import WITHHELD, Comparison, Report, judge

Use = tuple[str, str]  # (labels a class, strategy)
Faults = dict[int, list[str]]  # seed -> how the training of each label draw failed
Scores = dict[int, list[float]]  # seed -> accuracy of each label draw
Arm = tuple[Scores, Faults]
# a frozen random encoder; training from scratch where the strategy trains the encoder
CONTROL = "none"


@dataclass
class Pretrainers(Study):
    reserved_keys: ClassVar[dict[str, str]] = {
        "pretrainer": "study.pretrainers",
        "labels": "study.labels",
        "strategy": "study.strategies",
        "seed": "study.seeds",
    }

    pretrainers: list[str] = field(default_factory=lambda: ["none", "vae"])
    labels: list[Any] = field(default_factory=lambda: [10, "all"])  # a class
    strategies: list[str] = field(default_factory=lambda: ["linear", "knn", "full"])
    # the strategies for which the gain over pretrainer=none is judged
    verdicts: list[str] = field(default_factory=lambda: ["full"])
    seeds: int = 3  # pretraining seeds
    # a pretrainer, label count or strategy -> the overrides that it alone needs
    recipes: dict[str, list[str]] = field(default_factory=lambda: {})
    margin: float = 0.005  # of accuracy: a difference within it is too small to matter

    def __post_init__(self):
        super().__post_init__()
        require(
            CONTROL in self.pretrainers,
            "pretrainers",
            self.pretrainers,
            f"a list with {CONTROL}, the control of the others",
        )
        require(bool(self.labels), "labels", self.labels, "a list of label counts a class, or all")
        require(bool(self.strategies), "strategies", self.strategies, "a list of strategies")
        rest = set(self.verdicts) - set(self.strategies)
        require(not rest, "verdicts", self.verdicts, f"some of {', '.join(self.strategies)}")
        require(self.seeds > 1, "seeds", self.seeds, "2 or more: one seed says nothing of another")
        require(self.margin >= 0, "margin", self.margin, "0 or more")

    def jobs(self, corpus, base):
        return [
            [
                f"seed={seed}",
                *self.taking("pretrainer", name),
                *self.taking("labels", count),
                *self.taking("strategy", strategy),
            ]
            for seed in range(self.seeds)
            for name in self.pretrainers
            for count in self.labels
            for strategy in self.strategies
        ]

    def taking(self, key: str, value: Any) -> list[str]:
        """The overrides of one value of one axis."""
        return [f"{key}={value}", *self.recipes.get(str(value), [])]

    def conclude(self, jobs, looks=(), trials=None):
        scores = by_use(jobs)
        uses = [
            use
            for n in self.labels
            for s in self.strategies
            if CONTROL in scores.get(use := (str(n), s), {})
        ]
        names = [
            n for n in self.pretrainers if all(len(scores[use].get(n, {})) > 1 for use in uses)
        ]
        order = sorted(names, key=lambda n: -mean(scores[uses[0]][n]))
        judged_uses = [use for use in uses if use[1] in self.verdicts]
        faults = faults_of(jobs)
        broken = {
            use: {name: how for name, of in by.items() if (how := failed(of))}
            for use, by in faults.items()
        }
        report = self.judged(scores, faults, judged_uses, names, jobs)
        gains: dict[Use, dict[str, dict[str, Any]]] = {use: {} for use in judged_uses}
        for (use, name), verdict in report.verdicts.items():
            gains[use][name] = {k: v for k, v in verdict.record().items() if k != "text"}
        seconds = pretraining_seconds(jobs)
        seeds = {n: min(len(scores[use][n]) for use in uses) for n in names}
        draws = {n: len(next(iter(scores[n, s][CONTROL].values()))) for n, s in uses}
        drawn = ", ".join(f"{d} at {n}" for n, d in draws.items())
        return Conclusion(
            f"Pretrainers on {jobs[0].settings['dataset']}",
            [
                *(best(use, scores[use], names) for use in uses),
                *(sentence(use, of) for use, of in gains.items() if of),
            ],
            (
                [
                    "pretrainer",
                    *map(name_of, uses),
                    *(h for u in judged_uses for h in (f"gain, {name_of(u)}", "")),
                    "seeds",
                    "seconds",
                ],
                [
                    [
                        name,
                        *(percent(mean(scores[use][name])) for use in uses),
                        *(text for of in gains.values() for text in gain_cells(of.get(name))),
                        str(seeds[name]),
                        f"{seconds[name]:.0f}" if name in seconds else "",
                    ]
                    for name in order
                ],
            ),
            [*map(name_of, uses), "seeds", "seconds"],
            [
                f"{CONTROL} is the control: a frozen random encoder, or training from scratch where the "
                "strategy trains the encoder. Gains over it are of the same seed and label draw.",
                *report.notes,
                f"{few_to_many(seeds.values())} seeds of pretraining, draws of labels: {drawn}.",
                *(f"{name}: {' '.join(recipe)}" for name, recipe in self.recipes.items()),
                *(
                    f"{spoken(use)}: {name} {how}."
                    for use, of in broken.items()
                    for name, how in of.items()
                ),
                f"seconds: of one pretraining. Cost of all jobs: {cost(jobs):.0f} s of computing.",
            ],
            [dots(scores, uses, order)],
            {
                **judgement_record(report, jobs),
                "pretrainers": {
                    name: {
                        "seconds": seconds.get(name),
                        "seeds": seeds[name],
                        "scores": {name_of(use): scores[use][name] for use in uses},
                        "gains": {
                            name_of(use): of[name] for use, of in gains.items() if name in of
                        },
                    }
                    for name in order
                },
            },
        )

    def judged(
        self,
        scores: dict[Use, dict[str, Scores]],
        faults: dict[Use, dict[str, Faults]],
        uses: list[Use],
        names: list[str],
        jobs: list[Job],
    ) -> Report[tuple[Use, str]]:
        """The report on all pretrainers but the control, for the uses whose gains are judged."""
        setting = setting_of(jobs, self.margin)
        comparisons = {}
        for use in uses:
            for name in (n for n in names if n != CONTROL):
                comparisons[use, name] = compared(
                    (scores[use][name], faults[use][name]),
                    (scores[use][CONTROL], faults[use][CONTROL]),
                    group=use,
                    all_labels=use[0] == "all" and setting.ratio == 0,
                )
        if not comparisons:
            return Report({}, None, None, ())
        return judge(comparisons, setting, archive_of(self.archive), [dataset_of(jobs)])


def compared(of: Arm, control: Arm, **facts: Any) -> Comparison:
    """Two arms over the seeds that both have."""
    (scores, faults), (control_scores, control_faults) = of, control
    seeds = [seed for seed in sorted(scores) if seed in control_scores]
    return health.noted(
        Comparison(
            [scores[seed] for seed in seeds], [control_scores[seed] for seed in seeds], **facts
        ),
        [faults[seed] for seed in seeds],
        [control_faults[seed] for seed in seeds],
    )


def by_use(jobs: list[Job]) -> dict[Use, dict[str, Scores]]:
    """use -> pretrainer -> its scores, for the seeds that the control has too, in their order."""
    by: dict[Use, dict[str, Scores]] = {}
    for job in jobs:
        use = str(job.settings["labels"]), str(job.settings["strategy"])
        scores = by.setdefault(use, {}).setdefault(str(job.settings["pretrainer"]), {})
        scores[int(job.settings["seed"])] = job.outcome.draws[MAIN]
    for of in by.values():
        known = sorted(of.get(CONTROL, {}))
        of.update(
            {
                name: {seed: scores[seed] for seed in known if seed in scores}
                for name, scores in of.items()
            }
        )
    return by


def faults_of(jobs: list[Job]) -> dict[Use, dict[str, Faults]]:
    """use -> pretrainer -> seed -> how its fine-tunings failed."""
    by: dict[Use, dict[str, Faults]] = {}
    for job in jobs:
        of = by.setdefault((str(job.settings["labels"]), str(job.settings["strategy"])), {})
        seed = int(job.settings["seed"])
        of.setdefault(str(job.settings["pretrainer"]), {})[seed] = job.faults(MAIN)
    return by


def failed(faults: Faults) -> str:
    """How trainings of an arm failed, over all seeds and draws; empty if none did."""
    return health.said([fault for draws in faults.values() for fault in draws])


def mean(scores: Scores) -> float:
    return fmean(a for draws in scores.values() for a in draws)


def few_to_many(counts: Iterable[int]) -> str:
    least, *rest = sorted(set(counts))
    return f"{least} to {rest[-1]}" if rest else str(least)


def gain_cells(gain: dict[str, Any] | None) -> list[str]:
    if gain is None or gain["word"] == WITHHELD:
        return ["", gain["word"] if gain else ""]
    middle = percent(gain["difference"], "+")
    if gain["low"] is None:
        return [middle, gain["word"]]
    return [f"{middle} ({percent(gain['low'], '+')} to {percent(gain['high'], '+')})", gain["word"]]


def name_of(use: Use) -> str:
    return f"{use[0]}: {use[1]}"


def best(use: Use, scores: dict[str, Scores], names: list[str]) -> str:
    first, *_ = sorted(names, key=lambda n: -mean(scores[n]))
    reached, base = percent(mean(scores[first])), percent(mean(scores[CONTROL]))
    return f"{spoken(use)}: {first} is best, {reached} % ({CONTROL}: {base} %)."


def sentence(use: Use, gains: dict[str, dict[str, Any]]) -> str:
    """Which pretrainers have which word."""
    by_word = "; ".join(
        f"{word}: {', '.join(n for n, gain in gains.items() if gain['word'] == word)}"
        for word in sorted({gain["word"] for gain in gains.values()})
    )
    return f"{spoken(use)}, against {CONTROL}: {by_word}."


def spoken(use: Use) -> str:
    return f"{use[1]}, {labels_said(use[0])}"


def pretraining_seconds(jobs: list[Job]) -> dict[str, float]:
    """Mean computing time of each pretrainer's pretrainings, in seconds."""
    folders: dict[str, dict[str, float]] = {}
    for job in jobs:
        if stage := job.outcome.stages.pretrain:
            seconds = folders.setdefault(str(job.settings["pretrainer"]), {})
            seconds[stage.folder] = stage.seconds
    return {name: fmean(of.values()) for name, of in folders.items()}


def dots(scores: dict[Use, dict[str, Scores]], uses: list[Use], order: list[str]) -> Picture:
    """A plot with a row for each pretrainer and a dot for each use."""
    from matplotlib import rc_context

    with rc_context(style()):
        figure, axes = new_figure(1.2 + 0.3 * len(order))
        for use, colour in zip(uses, PALETTE * 2, strict=False):
            x = [100 * mean(scores[use][name]) for name in order]
            axes.plot(x, range(len(order)), "o", color=colour, markersize=5, label=name_of(use))
        for n in range(len(order)):
            axes.axhline(n, color=FAINT, linewidth=0.4, zorder=0)
        axes.set_yticks(range(len(order)), order)
        axes.invert_yaxis()
        axes.set_xlabel("test accuracy (%)")
        axes.grid(axis="x")
        figure.legend(fontsize=8, ncols=3, loc="outside lower center")
    return Picture(
        "pretrainers", "Every pretrainer", "Means over seeds and label draws.", png(figure)
    )
