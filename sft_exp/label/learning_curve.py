"""Extrapolates scores at several label counts to an interval for a larger one.

The error falls as a power law, e(n) = a + b n^-c (arXiv:1712.00409, section 2), where a is the
irreducible error. A least-squares fit would hide how poorly a few counts determine a and c, so
every (a, c) of a grid is weighted by its likelihood at the best b; the forecast is the mixture. A
single labelled split varies around that curve by the spread of the draws.
"""

from dataclasses import dataclass

import numpy as np

LEVEL = 0.95
# deviation of real curves from a power law, as a share of the error: see docs/decisions/0020
MISFIT = 0.01
ASYMPTOTES, EXPONENTS = 40, np.geomspace(0.05, 1.5, 40)
SAMPLES = 4000


@dataclass(frozen=True)
class Forecast:
    count: int
    mean: float  # accuracy of one labelled split, a fraction
    low: float  # of the 95 % interval
    high: float


def forecast(scores: dict[int, list[float]], count: int) -> Forecast:
    """The accuracy of one labelled split of `count` labels.

    Args:
        scores: label count -> the draws' accuracies, fractions; at least two counts and three
            draws.
        count: the label count to extrapolate to.
    """
    n = np.array(sorted(scores), dtype=float)
    error_KD = 1 - np.array([scores[int(k)] for k in n])
    draws = error_KD.shape[1]
    mean_K = error_KD.mean(1)
    spread_K = error_KD.std(1, ddof=1)
    noise_K = np.sqrt(spread_K**2 / draws + (MISFIT * mean_K) ** 2 + 1e-6)

    a, c = np.meshgrid(
        np.linspace(0, 1, ASYMPTOTES, endpoint=False) * mean_K.min(), EXPONENTS, indexing="ij"
    )
    falls = n ** -c[..., None]  # [A, C, K]
    weight = noise_K**-2
    above = mean_K - a[..., None]
    information = (weight * falls**2).sum(-1)
    b = (weight * falls * above).sum(-1) / information
    misfit = (weight * (above - b[..., None] * falls) ** 2).sum(-1)
    plausible = np.exp(-(misfit - misfit.min()) / 2).ravel()

    rng = np.random.default_rng(0)
    drawn = rng.choice(plausible.size, SAMPLES, p=plausible / plausible.sum())
    slope = b.ravel()[drawn] + rng.standard_normal(SAMPLES) / np.sqrt(information.ravel()[drawn])
    curve = a.ravel()[drawn] + slope * float(count) ** -c.ravel()[drawn]
    single = (
        1
        - curve * (1 + MISFIT * rng.standard_normal(SAMPLES))
        - spread_at(n, spread_K, count) * rng.standard_normal(SAMPLES)
    )
    low, high = np.quantile(single, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]).clip(0, 1)
    return Forecast(count, float(np.median(single)), float(low), float(high))


def spread_at(n: np.ndarray, spread_K: np.ndarray, count: int) -> float:
    """The standard deviation over draws at `count` labels, extrapolated from those at `n` by a
    power between 0 and -1."""
    x, y = np.log(n), np.log(spread_K.clip(1e-4))
    slope = float(
        np.clip(((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum(), -1, 0)
    )
    return float(np.exp(y.mean() + slope * (np.log(count) - x.mean())))
