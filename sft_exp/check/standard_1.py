"""The rule of versions 1.0 and 1.1 of the standard, for results that state no later version.

Intervals have Satterthwaite's degrees of freedom. A report declares some comparisons primary; their
intervals hold simultaneously with 95 %. docs/verdict.md says what version 2.0 does instead, and why.
New results are not judged by this module.

Shape legend: S pretraining seeds, D labelled splits. A gain is (pretrained - scratch) with the same
seed and draw.
"""

from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import sqrt
from typing import TypeVar

import numpy as np

from sft_exp.verdict import WITHHELD

LEVEL = 0.95
SILENT_LEVEL = 0.99  # of the other comparisons, if no primary one helped or hurt
MARGIN = 0.005
Gains = Sequence[Sequence[float]]  # [S][D]
Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class Verdict:
    """The verdict on one comparison, as versions 1.0 and 1.1 of the standard state it."""

    word: str
    difference: float
    low: float | None  # None for a single run, which has no interval
    high: float | None
    level: float

    def withheld(self, failed: bool) -> "Verdict":
        """The verdict itself, or no verdict if the control's training has `failed`."""
        return replace(self, word=WITHHELD) if failed else self


def interval(gains: Gains, ratio: float = 0.0, level: float = LEVEL) -> tuple[float, float, float]:
    """(mean, low, high) of the interval of a level; infinite bounds for a single gain.

    It is a paired t interval if there is one seed or one draw, else that of the analysis of
    variance of the crossed factors, with Nadeau and Bengio's correction for folds of one data set
    (`ratio` = images tested / trained on).
    """
    d_SD = np.asarray(gains, dtype=float)
    seeds, draws = d_SD.shape
    mean = float(d_SD.mean())
    if seeds == 1 or draws == 1:
        if d_SD.size < 2:
            return mean, float("-inf"), float("inf")
        correction = ratio if seeds == 1 else 0.0
        half = quantile(d_SD.size - 1, level) * sqrt(
            float(d_SD.var(ddof=1)) * (1 / d_SD.size + correction)
        )
        return mean, mean - half, mean + half
    mean_S, mean_D = d_SD.mean(1), d_SD.mean(0)
    residual_SD = d_SD - mean_S[:, None] - mean_D + mean
    dof_seeds, dof_draws = seeds - 1, draws - 1
    dof_residual = dof_seeds * dof_draws
    # mean squares of the two factors and of their interaction
    ms_seeds = draws * mean_S.var(ddof=1)
    ms_draws = seeds * mean_D.var(ddof=1)
    ms_residual = (residual_SD**2).sum() / dof_residual
    total = max(ms_seeds + ms_draws - ms_residual, ms_seeds, ms_draws)
    if total <= 0:
        return mean, mean, mean
    if total > max(ms_seeds, ms_draws):
        degrees = total**2 / (
            ms_seeds**2 / dof_seeds + ms_draws**2 / dof_draws + ms_residual**2 / dof_residual
        )
    else:
        degrees = dof_seeds if ms_seeds >= ms_draws else dof_draws
    half = quantile(max(degrees, min(seeds, draws) - 1), level) * sqrt(
        total / d_SD.size + ratio * mean_D.var(ddof=1)
    )
    return mean, mean - half, mean + half


def quantile(degrees: float, level: float) -> float:
    """The two-sided quantile of Student's t distribution."""
    from scipy.special import stdtrit

    return float(stdtrit(degrees, (1 + level) / 2))


def judge(gains: Gains, ratio: float, margin: float = MARGIN, level: float = LEVEL) -> Verdict:
    """The verdict on one comparison; *cannot tell* if all gains are equal."""
    mean, low, high = interval(gains, ratio, level)
    flat = [gain for row in gains for gain in row]
    equal = max(flat) - min(flat) < 1e-9
    word = "cannot tell" if equal else word_of(low, high, margin)
    single = len(flat) == 1
    return Verdict(word, mean, None if single else low, None if single else high, level)


def word_of(low: float, high: float, margin: float) -> str:
    """The word that an interval supports."""
    if -margin <= low and high <= margin:
        return "too small to matter"
    return "helped" if low > 0 else "hurt" if high < 0 else "cannot tell"


def judge_all(
    family: Mapping[Key, Gains], primary: Collection[Key], ratio: float, margin: float = MARGIN
) -> dict[Key, Verdict]:
    """The verdicts of a report.

    Primary comparisons share LEVEL; the others share LEVEL if a primary one helped or hurt, else
    SILENT_LEVEL.
    """
    level = bonferroni(LEVEL, len(primary))
    first = {k: judge(family[k], ratio, margin, level) for k in family if k in primary}
    decided = any(v.word in ("helped", "hurt") for v in first.values())
    level = bonferroni(LEVEL if decided or not first else SILENT_LEVEL, len(family) - len(first))
    return {
        k: first[k] if k in first else judge(g, ratio, margin, level) for k, g in family.items()
    }


def bonferroni(level: float, comparisons: int) -> float:
    """The level of each of several intervals that hold simultaneously with `level`."""
    return 1 - (1 - level) / max(1, comparisons)
