"""Public weights as they are, or continued on one's own images? Against each other and scratch.

Every arm has the same encoder, prepares images in the same way and is fine-tuned equally; the arms
differ in what the fine-tuning starts from.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from sft_exp.compare.comparison import Job, percent
from sft_exp.core.arms import MAIN, SCRATCH
from sft_exp.errors import require
from sft_exp.studies.pretrainers import (
    Faults,
    Scores,
    compared,
    gain_cells,
    mean,
    pretraining_seconds,
)
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
from sft_exp.verdict import Comparison, Report, judge

AS_THEY_ARE = "checkpoint"  # the pretrainer that takes weights and trains nothing
BASELINES = (SCRATCH, AS_THEY_ARE)
NOTHING_TO_CONTINUE = ("none", AS_THEY_ARE, "imagenet")

Key = tuple[str, str, str]  # (labels, arm, the arm that it is compared with)


@dataclass
class PublicToOwn(Study):
    reserved_keys: ClassVar[dict[str, str]] = {
        "pretrainer": "study.pretrainers",
        "pretrainer.init": "study.weights",
        "labels": "study.labels",
        "seed": "study.seeds",
    }

    # any value of pretrainer.init; imagenet = ImageNet's weights of the chosen encoder
    weights: str = "imagenet"
    # methods that continue the weights on the unlabelled images
    pretrainers: list[str] = field(default_factory=lambda: ["vicreg"])
    labels: list[Any] = field(default_factory=lambda: [10])  # a class
    seeds: int = 3  # of continued pretraining and of fine-tuning
    margin: float = 0.005  # of accuracy: a difference within it is too small to matter

    def __post_init__(self) -> None:
        super().__post_init__()
        require(bool(self.weights), "weights", self.weights, "a value of pretrainer.init")
        idle = [name for name in self.pretrainers if name in NOTHING_TO_CONTINUE]
        valid = "a list of methods that continue the weights, such as vicreg or simclr"
        require(bool(self.pretrainers) and not idle, "pretrainers", self.pretrainers, valid)
        require(bool(self.labels), "labels", self.labels, "a list of label counts a class, or all")
        require(self.seeds > 1, "seeds", self.seeds, "2 or more: one seed says nothing of another")
        require(self.margin >= 0, "margin", self.margin, "0 or more")

    def jobs(self, corpus, base):
        return [
            [
                f"seed={seed}",
                f"labels={count}",
                f"pretrainer={name}",
                f"pretrainer.init={self.weights}",
            ]
            for seed in range(self.seeds)
            for count in self.labels
            for name in (AS_THEY_ARE, *self.pretrainers)
        ]

    def conclude(self, jobs, looks=(), trials=None):
        scores, faults = by_arm(jobs)
        counts = [str(n) for n in self.labels if len(scores.get((str(n), AS_THEY_ARE), {})) > 1]
        arms = [
            arm
            for arm in (*BASELINES, *self.pretrainers)
            if all(len(scores.get((n, arm), {})) > 1 for n in counts)
        ]
        report = self.judged(scores, faults, counts, arms, jobs)
        gains = {
            key: {name: value for name, value in verdict.record().items() if name != "text"}
            for key, verdict in report.verdicts.items()
        }
        seconds = pretraining_seconds(jobs)
        baselines = [arm for arm in arms if arm in BASELINES]
        heads = [h for n in counts for h in heads_of(n, baselines)]
        return Conclusion(
            f"Public weights on {jobs[0].settings['dataset']}",
            [self.sentence(key, scores, gain) for key, gain in gains.items()],
            (
                ["start", *heads, "seconds"],
                [
                    [
                        self.name(arm),
                        *(cell for n in counts for cell in cells(n, arm, baselines, scores, gains)),
                        f"{seconds[arm]:.0f}" if arm in self.pretrainers and arm in seconds else "",
                    ]
                    for arm in arms
                ],
            ),
            [*(labels_said(n) for n in counts), "seconds"],
            [
                "All arms have the encoder and the preparation of images that the weights are of, "
                "and are fine-tuned equally on the same labelled splits.",
                *report.notes,
                f"seconds: of continuing the weights once. All jobs: {cost(jobs):.0f} s.",
            ],
            facts={
                **judgement_record(report, jobs),
                "weights": self.weights,
                "scores": {n: {arm: scores[n, arm] for arm in arms} for n in counts},
                "gains": [
                    {"labels": n, "arm": arm, "against": baseline, **gain}
                    for (n, arm, baseline), gain in gains.items()
                ],
            },
        )

    def judged(
        self,
        scores: dict[tuple[str, str], Scores],
        faults: dict[tuple[str, str], Faults],
        counts: list[str],
        arms: list[str],
        jobs: list[Job],
    ) -> Report[Key]:
        """The report on every arm against every baseline that stands before it."""
        setting = setting_of(jobs, self.margin)
        comparisons: dict[Key, Comparison] = {}
        for n in counts:
            for place, arm in enumerate(arms):
                for baseline in (b for b in arms[:place] if b in BASELINES):
                    comparisons[n, arm, baseline] = compared(
                        (scores[n, arm], faults[n, arm]),
                        (scores[n, baseline], faults[n, baseline]),
                        group=(n, baseline),
                        all_labels=n == "all" and setting.ratio == 0,
                    )
        if not comparisons:
            return Report({}, None, None, ())
        return judge(comparisons, setting, archive_of(self.archive), [dataset_of(jobs)])

    def name(self, arm: str) -> str:
        """An arm in words."""
        if arm == SCRATCH:
            return "from scratch"
        return "weights as they are" if arm == AS_THEY_ARE else f"weights continued by {arm}"

    def sentence(
        self, key: Key, scores: dict[tuple[str, str], Scores], gain: dict[str, Any]
    ) -> str:
        """The word on one comparison, with both accuracies and the interval."""
        n, arm, baseline = key
        interval, word = gain_cells(gain)
        own, other = percent(mean(scores[n, arm])), percent(mean(scores[n, baseline]))
        difference = f", {interval} points" if interval else ""
        return (
            f"{labels_said(n)}: {self.name(arm)} {own} %, {self.name(baseline)} {other} %"
            f"{difference}: {word}."
        )


def by_arm(
    jobs: list[Job],
) -> tuple[dict[tuple[str, str], Scores], dict[tuple[str, str], Faults]]:
    """(labels, arm) -> the test scores by seed, and likewise how trainings failed.

    The arm from scratch is the same in all jobs of a seed; there is none if `controls` leaves it out.
    """
    scores: dict[tuple[str, str], Scores] = {}
    faults: dict[tuple[str, str], Faults] = {}
    for job in jobs:
        n, seed = str(job.settings["labels"]), int(job.settings["seed"])
        for arm, name in ((MAIN, str(job.settings["pretrainer"])), (SCRATCH, SCRATCH)):
            if arm not in job.outcome.draws:
                continue
            scores.setdefault((n, name), {})[seed] = job.outcome.draws[arm]
            faults.setdefault((n, name), {})[seed] = job.faults(arm)
    return scores, faults


OVER = {SCRATCH: "over scratch", AS_THEY_ARE: "over the weights as they are"}  # heads of columns


def heads_of(labels: str, baselines: Sequence[str]) -> list[str]:
    """The heads of the columns of one label count."""
    return [labels_said(labels), *(head for baseline in baselines for head in (OVER[baseline], ""))]


def cells(
    labels: str,
    arm: str,
    baselines: Sequence[str],
    scores: dict[tuple[str, str], Scores],
    gains: dict[Key, dict[str, Any]],
) -> list[str]:
    """An arm's cells in these columns."""
    over = [cell for b in baselines for cell in gain_cells(gains.get((labels, arm, b)))]
    return [percent(mean(scores[labels, arm])), *over]
