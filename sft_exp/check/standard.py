"""The points of docs/standard.md by number, and what a result is given for each."""

from collections.abc import Iterable
from dataclasses import dataclass

from sft_exp.verdict import STANDARD

VERSION = STANDARD
POINTS = {
    "1.1": "labels learnt from lie inside the budget",
    "1.2": "labels chosen by lie inside the budget",
    "2.1": "no image is both learnt from and tested, by name",
    "2.2": "nor by content",
    "2.3": "groups lie whole on one side",
    "2.4": "no test image is pretrained on",
    "2.5": "near copies are counted, with the accuracy without them",
    "3.1": "test images enter evaluations alone",
    "3.2": "every arm has the same search, and its choice lies inside the grid",
    "4.1": "pretrained and scratch differ in the initial weights alone",
    "4.2": "frozen encoders did not move",
    "4.3": "the pretrained weights arrived",
    "4.4": "scratch and the floors stand beside the result",
    "4.5": "the result beats its floors",
    "4.6": "no word is given on an arm whose training failed",
    "5.1": "every training ran to the end of its budget",
    "5.2": "the compared arms had converged",
    "6.1": "stored folders hold what they were sealed with",
    "6.2": "scores follow from predictions",
    "6.3": "every draw is reported, and arms are paired",
    "6.4": "every seed and job is reported",
    "6.5": "data, draws and predictions can be made again",
    "7.1": "the interval follows from the draws",
    "7.2": "the word follows from the interval",
    "7.3": "runs are compared, not images",
    "8.1": "what is stated is what was run",
    "8.2": "labels, draws, seeds, validation, data and cost are stated",
}


@dataclass(frozen=True)
class Grade:
    """One point for one result."""

    point: str
    passed: bool | None  # None: what is there cannot show it
    reason: str = ""  # why not
    of: str = ""  # the run, where several are graded


def ok(point: str, faults: Iterable[str]) -> Grade:
    """Passed without faults; else failed, with the first ones as the reason."""
    found = list(dict.fromkeys(faults))
    more = f"; and {len(found) - 3} more" if len(found) > 3 else ""
    return Grade(point, not found, "; ".join(found[:3]) + more)


def unknown(point: str, why: str) -> Grade:
    return Grade(point, None, why)
