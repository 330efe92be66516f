"""Which of several settings is best, which others may be, and how optimistic is the best score?

A setting that was picked because it scored best is not a single comparison: its score is the largest
of k. To judge a pick against a control, judge all k settings in one report: their intervals hold
simultaneously, so that the pick's holds too.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from sft_exp.errors import DataError
from sft_exp.verdict.archive import Prior
from sft_exp.verdict.design import Floats
from sft_exp.verdict.evidence import Moments, weigh

RESAMPLES = 1000


@dataclass(frozen=True)
class Pick:
    best: int  # index of the setting with the largest mean
    # a confidence set of the truly best setting
    contenders: tuple[int, ...]
    optimism: float  # expected excess of the best mean over the true mean of its setting


def pick(
    scores: Sequence[ArrayLike],
    prior: Prior | None = None,
    tested: int | None = None,
    proportion: bool = True,
    alpha: float = 0.05,
) -> Pick:
    """The best of k settings by scores [S, D] each, paired by seed and draw; higher is better.

    A setting is no contender if the best one beats it in a one-sided test at alpha / (k - 1). The
    set of contenders then contains the truly best setting in 1 - alpha of cases: it is left out only
    if one of the k - 1 others is falsely found better (Gupta, Technometrics 7, 1965, with
    Bonferroni's bound in the place of a common variance).

    The optimism is that of a bootstrap of the selection: seeds and draws are resampled, and the mean
    of the winner in the resample is compared with its mean in the data (Efron & Gong, The American
    Statistician 37, 1983). With one run of each setting it is unknown and 0.

    Raises:
        DataError: no setting, or settings of different seeds or draws.
    """
    try:
        x = np.stack([np.asarray(s, float) for s in scores])
    except ValueError as e:
        raise DataError(f"settings are compared on the same seeds and draws: {e}") from e
    if x.ndim != 3 or not np.isfinite(x).all():
        raise DataError("a setting has finite scores [seeds][draws]")
    means = x.mean((1, 2))
    best, count = int(means.argmax()), len(x)
    if x[0].size == 1 or count == 1:
        return Pick(best, tuple(range(count)), 0.0)
    others = [n for n in range(count) if n != best]
    moments = Moments.of([x[best] - x[n] for n in others])
    expected = (
        prior.expected(means[best], means[others], moments.seeds, moments.draws, tested, proportion)
        if prior
        else None
    )
    evidence = weigh(moments, prior, expected, known_scale=proportion)
    half = evidence.half(np.array([min(1.0, 2 * alpha / len(others))]))
    beaten = (evidence.mean > half) & ~evidence.without_noise()
    contenders = sorted([best, *(n for n, worse in zip(others, beaten, strict=True) if not worse)])
    return Pick(best, tuple(contenders), optimism(x))


def optimism(scores: Floats) -> float:
    """The optimism of the best mean of scores [k, S, D], by resampling seeds and draws.

    A resampled factor of n levels varies less than it should by (n - 1) / n, for which the
    deviations are widened.
    """
    rng = np.random.default_rng(0)
    _, seeds, draws = scores.shape
    means = scores.mean((1, 2))
    widened = [np.sqrt(n / (n - 1)) if n > 1 else 0.0 for n in (seeds, draws)]
    by_seed = (scores.mean(2) - means[:, None]) * widened[0]
    by_draw = (scores.mean(1) - means[:, None]) * widened[1]
    rest = scores - scores.mean(2)[:, :, None] - scores.mean(1)[:, None, :] + means[:, None, None]
    took = [rng.multinomial(n, np.full(n, 1 / n), RESAMPLES) / n for n in (seeds, draws)]
    moved = took[0] @ by_seed.T + took[1] @ by_draw.T
    moved += (
        np.einsum("bs,ksd,bd->bk", took[0], rest, took[1])
        * max(widened[0], 1.0)
        * max(widened[1], 1.0)
    )
    winner = (means + moved).argmax(1)
    return float(np.take_along_axis(moved, winner[:, None], 1).mean())
