"""Training curves read from metrics.jsonl and monitors.jsonl, and whether they have converged."""

import json
from collections.abc import Sequence
from math import sqrt
from pathlib import Path
from statistics import fmean, variance

MONITORS = "monitors.jsonl"  # in a pretraining's folder: one row per evaluation of the features
SHARE = 0.05  # share of a loss's whole decrease
RISEN = 3.0  # factor on the first loss
LEAST = 1.0  # nats, or squared spreads of the labels: smaller first losses count as this
EXPLODED = 1e6  # a fine-tuning that works has a smaller mean loss
# nats: each label has a probability of about 0.99; below, cross-entropy falls for ever, to no end
LEARNT = 0.01


def read(folder: Path) -> list[dict[str, float]]:
    """The rows of a stage folder's metrics.jsonl; none if nothing was trained by gradient."""
    file = folder / "metrics.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def record(folder: Path) -> list[dict[str, float]]:
    """All rows that a tracker shows: metrics and, for a pretraining, monitors."""
    return joined(read(folder), folder)


def joined(rows: list[dict[str, float]], folder: Path) -> list[dict[str, float]]:
    """The rows in order of steps, each with the monitors' values at its step.

    Values newer than the last row are left out: a resumed training has not reached them yet.
    """
    file = folder / MONITORS
    looks = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    end = rows[-1]["step"] if rows else 0
    by_step = {row["step"]: row for row in rows}
    for look in looks:
        step = look["step"]
        if step is not None and step <= end:
            by_step[step] = {**by_step.get(step, {}), **monitored(look)}
    return [by_step[step] for step in sorted(by_step)]


def monitored(look: dict[str, float]) -> dict[str, float]:
    """A row of monitors.jsonl under the tracker's names: `monitor/probe`, `monitor/rank`, ..."""
    step = look["step"]
    start = {"epoch": 0.0, "images": 0} if step == 0 else {}
    return {
        "step": step,
        **start,
        **{f"monitor/{name}": value for name, value in look.items() if name != "step"},
    }


def column(rows: list[dict[str, float]], name: str) -> tuple[list[int], list[float]]:
    """(steps, values) of one metric, which need not be in every row."""
    present = [row for row in rows if name in row]
    return [int(row["step"]) for row in present], [row[name] for row in present]


def converged(losses: list[list[float]]) -> bool:
    """Whether the losses of these trainings have together stopped falling and none has `exploded`.

    Each list holds one training's losses in order of steps. They have not converged if the mean of
    the last quarter is above LEARNT, and is below the mean of the quarter before it both by more
    than SHARE of the decrease from the first quarter to the last (an exponential decrease then
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
    return fmean(last) < LEARNT or drop <= max(SHARE * whole_drop, 2 * error)


def exploded(loss: list[float]) -> bool:
    """Whether a loss ended far above its start or any sensible value: flat, yet not converged."""
    return ended(loss) > min(RISEN * max(abs(loss[0]), LEAST), EXPLODED)


def ended(values: Sequence[float]) -> float:
    """The mean of the last quarter of a curve."""
    return fmean(values[-max(1, len(values) // 4) :])


def quarters(loss: list[float]) -> tuple[float, float, float, float]:
    """Means of the first, third and last quarter, and the variance of the last two's difference."""
    n = len(loss) // 4
    third, last = loss[-2 * n : -n], loss[-n:]
    return fmean(loss[:n]), fmean(third), fmean(last), (variance(third) + variance(last)) / n
