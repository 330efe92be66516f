"""A training's record read back: its curves, and whether they had stopped falling."""

import json
from collections.abc import Sequence
from math import sqrt
from pathlib import Path
from statistics import fmean, variance

MONITORS = "monitors.jsonl"  # in a pretraining's folder: one row for each look at the features
SHARE = 0.05  # of a loss's whole fall
RISEN = 3.0  # times the first loss
LEAST = 1.0  # nats, or squared spreads of the labels: smaller first losses count as this
EXPLODED = 1e6  # no mean loss of a fine-tuning that works is this large
# nats: each label is given a probability of about 0.99; cross-entropy falls for ever below, to no
# effect
LEARNT = 0.01


def read(folder: Path) -> list[dict[str, float]]:
    """The rows of a stage folder's metrics.jsonl; none where nothing was trained by gradient."""
    file = folder / "metrics.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def record(folder: Path) -> list[dict[str, float]]:
    """Everything that a tracker shows of a training: its metrics and, of a pretraining, its monitors."""
    return joined(read(folder), folder)


def joined(rows: list[dict[str, float]], folder: Path) -> list[dict[str, float]]:
    """The rows in the order of steps, each with what the monitors saw at its step. Looks that are newer than the
    last row are left out: a training that continues from these rows has not reached them yet."""
    file = folder / MONITORS
    looks = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    end = rows[-1]["step"] if rows else 0
    found = {row["step"]: row for row in rows}
    for look in looks:
        if look["step"] is not None and look["step"] <= end:
            found[look["step"]] = {**found.get(look["step"], {}), **monitored(look)}
    return [found[step] for step in sorted(found)]


def monitored(look: dict[str, float]) -> dict[str, float]:
    """A row of monitors.jsonl under the names that a tracker shows: `monitor/probe`, `monitor/rank`, ..."""
    step = look["step"]
    begin = {"epoch": 0.0, "images": 0} if step == 0 else {}
    return {
        "step": step,
        **begin,
        **{f"monitor/{name}": value for name, value in look.items() if name != "step"},
    }


def column(rows: list[dict[str, float]], name: str) -> tuple[list[int], list[float]]:
    """(steps, values) of one metric, which need not be in every row."""
    found = [row for row in rows if name in row]
    return [int(row["step"]) for row in found], [row[name] for row in found]


def converged(losses: list[list[float]]) -> bool:
    """Whether the losses of these trainings (one list each, in the order of steps) had stopped falling, taken together, and
    none of them had risen instead (`exploded`).

    They have not if the mean of the last quarter lies above LEARNT, and below the mean of the quarter before it by more
    than SHARE of the fall from the first quarter to the last (an exponential fall then fits fewer than five of its time
    constants) and by more than twice the standard error of that difference. A record too short to have quarters shows
    nothing, so it has not either; trainings without a record (heads solved in closed form) have.
    """
    losses = [loss for loss in losses if loss]
    if not losses:
        return True
    if any(map(exploded, losses)):
        return False
    if min(map(len, losses)) < 8:
        return False
    first, third, last, noise = zip(*map(quarters, losses), strict=True)
    drop, fall = fmean(third) - fmean(last), fmean(first) - fmean(last)
    return fmean(last) < LEARNT or drop <= max(SHARE * fall, 2 * sqrt(sum(noise)) / len(losses))


def exploded(loss: list[float]) -> bool:
    """Whether a loss ended far above where it began, or beyond any sensible number: flat there, it has still not converged."""
    return ended(loss) > min(RISEN * max(abs(loss[0]), LEAST), EXPLODED)


def ended(values: Sequence[float]) -> float:
    """The mean of a record's last quarter."""
    return fmean(values[-max(1, len(values) // 4) :])


def quarters(loss: list[float]) -> tuple[float, float, float, float]:
    """Means of the first, third and last quarter, and the variance of the difference of the last two."""
    n = len(loss) // 4
    third, last = loss[-2 * n : -n], loss[-n:]
    return fmean(loss[:n]), fmean(third), fmean(last), (variance(third) + variance(last)) / n
