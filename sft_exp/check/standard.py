"""The points of docs/standard.md by number, and the grade of a result for one point."""

from collections.abc import Iterable
from dataclasses import dataclass

from sft_exp.verdict import STANDARD

VERSION = STANDARD
POINTS = {
    "1.1": "labels learnt from are within the budget",
    "1.2": "labels used for validation are within the budget",
    "2.1": "no image is both learnt from and tested, by name",
    "2.2": "no image is both learnt from and tested, by content",
    "2.3": "no group is split between training and test",
    "2.4": "no test image is pretrained on",
    "2.5": "near copies are counted, with the accuracy without them",
    "3.1": "test images are used for evaluation alone",
    "3.2": "every arm has the same search, and its choice lies inside the grid",
    "4.1": "pretrained and scratch differ in the initial weights alone",
    "4.2": "frozen encoders did not change",
    "4.3": "the pretrained weights were loaded",
    "4.4": "scratch and the baselines are reported with the result",
    "4.5": "the result beats its baselines",
    "4.6": "no word is given on an arm whose training failed",
    "5.1": "every training ran to the end of its budget",
    "5.2": "the compared arms had converged",
    "6.1": "stored folders are unchanged since they were sealed",
    "6.2": "scores follow from predictions",
    "6.3": "every draw is reported, and arms are paired",
    "6.4": "every seed and job is reported",
    "6.5": "data, draws and predictions can be made again",
    "7.1": "the interval follows from the draws",
    "7.2": "the word follows from the interval",
    "7.3": "runs are compared, not images",
    "8.1": "the stated configuration is the one that was run",
    "8.2": "labels, draws, seeds, validation, data and cost are stated",
}


@dataclass(frozen=True)
class Grade:
    """The grade of one result for one point."""

    point: str
    passed: bool | None  # None: the artefacts cannot show it
    reason: str = ""  # why it failed, or why it cannot be graded
    of: str = ""  # the run, where several are graded


def ok(point: str, faults: Iterable[str]) -> Grade:
    """Passed if there are no faults; else failed, with the first three as the reason."""
    distinct = list(dict.fromkeys(faults))
    more = f"; and {len(distinct) - 3} more" if len(distinct) > 3 else ""
    return Grade(point, not distinct, "; ".join(distinct[:3]) + more)


def unknown(point: str, why: str) -> Grade:
    """A point that cannot be graded."""
    return Grade(point, None, why)
