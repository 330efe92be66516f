"""Extrapolates scores at several label counts to an interval for a larger one.

The error falls as a power law, e(n) = a + b n^-c (arXiv:1712.00409, section 2), where a is the
irreducible error. A least-squares fit would hide how poorly a few counts determine a and c, so
every (a, c) of a grid is weighted by its likelihood at the best b; the forecast is the mixture. A
single labelled split varies around that curve by the spread of the draws.
"""

from dataclasses import dataclass

import numpy as np

LEVEL = 0.95
# deviation of measured curves from a power law, as a share of the error (docs/decisions/0020)
MISFIT = 0.01
ASYMPTOTES, EXPONENTS = 40, np.geomspace(0.05, 1.5, 40)  # the grid: A values of a, C values of c
SAMPLES = 4000  # of the mixture


@dataclass(frozen=True)
class Forecast:
    """The expected accuracy of one labelled split, as fractions."""

    count: int  # number of labels
    mean: float  # median of the forecast
    low: float  # bounds of the 95 % interval
    high: float


def forecast(scores: dict[int, list[float]], count: int) -> Forecast:
    """Forecast the accuracy of one labelled split of `count` labels.

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
    power_ACK = n ** -c[..., None]  # [A, C, K]
    weight = noise_K**-2
    excess_ACK = mean_K - a[..., None]
    information_AC = (weight * power_ACK**2).sum(-1)
    b = (weight * power_ACK * excess_ACK).sum(-1) / information_AC
    chi2_AC = (weight * (excess_ACK - b[..., None] * power_ACK) ** 2).sum(-1)
    likelihood = np.exp(-(chi2_AC - chi2_AC.min()) / 2).ravel()

    rng = np.random.default_rng(0)
    sampled = rng.choice(likelihood.size, SAMPLES, p=likelihood / likelihood.sum())
    slope = b.ravel()[sampled] + rng.standard_normal(SAMPLES) / np.sqrt(
        information_AC.ravel()[sampled]
    )
    curve = a.ravel()[sampled] + slope * float(count) ** -c.ravel()[sampled]
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
