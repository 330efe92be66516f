"""Training curves read from metrics.jsonl and monitors.jsonl, and whether they have converged."""

import json
from collections.abc import Sequence
from math import sqrt
from pathlib import Path
from statistics import fmean, variance
from typing import Any

from sft_exp.errors import StorageError

MONITORS = "monitors.jsonl"  # in a pretraining's folder: one row per evaluation of the features
# a loss has converged if its last decrease is a smaller share of its whole decrease
DECREASE_SHARE = 0.05
RISE_FACTOR = 3.0  # a loss has exploded if it ends above its first value times this factor,
MIN_FIRST_LOSS = (
    1.0  # where a smaller first value counts as this (nats, or variances of the labels),
)
EXPLODED = 1e6  # or above this: the mean loss of a fine-tuning that works is smaller
# nats; each label then has a probability of about 0.99, and a further decrease has no effect
ZERO_LOSS = 0.01


def read(folder: Path) -> list[dict[str, float]]:
    """The rows of a stage folder's metrics.jsonl; none if nothing was trained by gradient."""
    return rows_of(folder / "metrics.jsonl")


def rows_of(file: Path) -> list[dict[str, Any]]:
    """The rows of a .jsonl file; none if there is no file. StorageError if it is damaged."""
    try:
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    except ValueError as error:
        raise StorageError(f"{file}: damaged, its lines are not JSON") from error


def read_with_monitors(folder: Path) -> list[dict[str, float]]:
    """All rows that a tracker shows: metrics and, for a pretraining, values of monitors."""
    return with_monitors(read(folder), rows_of(folder / MONITORS))


def with_monitors(
    rows: list[dict[str, float]], evaluations: list[dict[str, Any]]
) -> list[dict[str, float]]:
    """The rows in order of steps, each with the monitors' values at its step.

    Values newer than the last row are left out: a resumed training has not reached them yet.
    """
    end = rows[-1]["step"] if rows else 0
    by_step = {row["step"]: row for row in rows}
    for evaluation in evaluations:
        step = evaluation["step"]
        if step is not None and step <= end:
            by_step[step] = {**by_step.get(step, {}), **monitor_row(evaluation)}
    return [by_step[step] for step in sorted(by_step)]


def monitor_row(evaluation: dict[str, float]) -> dict[str, float]:
    """A row of monitors.jsonl with the tracker's names: `monitor/probe`, `monitor/rank`, ..."""
    step = evaluation["step"]
    start = {"epoch": 0.0, "images": 0} if step == 0 else {}
    return {
        "step": step,
        **start,
        **{f"monitor/{name}": value for name, value in evaluation.items() if name != "step"},
    }


def column(rows: list[dict[str, float]], name: str) -> tuple[list[int], list[float]]:
    """(steps, values) of one metric, which need not be in every row."""
    present = [row for row in rows if name in row]
    return [int(row["step"]) for row in present], [row[name] for row in present]


def converged(losses: list[list[float]]) -> bool:
    """Whether the losses of these trainings have together stopped falling and none has `exploded`.

    Each list holds one training's losses in order of steps. They have not converged if the mean of
    the last quarter is above ZERO_LOSS, and is below the mean of the quarter before it both by more
    than DECREASE_SHARE of the decrease from the first quarter to the last (an exponential decrease then
    covers fewer than five of its time constants) and by more than twice the standard error of that
    difference. Curves of fewer than eight values have not converged either; trainings without a
    curve (heads fitted in closed form) have.
    """
    losses = [loss for loss in losses if loss]
    if not losses:
        return True
    if any(map(exploded, losses)):
        return False
    if min(map(len, losses)) < 8:
        return False
    first, third, last, noise = zip(*map(quarters, losses), strict=True)
    drop, whole_drop = fmean(third) - fmean(last), fmean(first) - fmean(last)
    error = sqrt(sum(noise)) / len(losses)
    return fmean(last) < ZERO_LOSS or drop <= max(DECREASE_SHARE * whole_drop, 2 * error)


def exploded(loss: list[float]) -> bool:
    """Whether a loss ended far above its start or above any sensible value.

    Such a loss may be flat, but it has not converged.
    """
    return final_mean(loss) > min(RISE_FACTOR * max(abs(loss[0]), MIN_FIRST_LOSS), EXPLODED)


def final_mean(values: Sequence[float]) -> float:
    """The mean of the last quarter of a curve."""
    return fmean(values[-max(1, len(values) // 4) :])


def quarters(loss: list[float]) -> tuple[float, float, float, float]:
    """Means of the first, third and last quarter, and the variance of the last two's difference."""
    n = len(loss) // 4
    third, last = loss[-2 * n : -n], loss[-n:]
    return fmean(loss[:n]), fmean(third), fmean(last), (variance(third) + variance(last)) / n
