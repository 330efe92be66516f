"""Mean squares of a crossed design, and an interval for its grand mean with few degrees of freedom.

Shape legend: S pretraining seeds, D labelled splits; leading axes (...) are independent designs.
The model of a gain is

    d_sd = mean + seed_s + draw_d + rest_sd,

with independent seed, draw and rest of variances v_S, v_D and v_E. Seeds and draws are random
samples: the interval covers the mean over other seeds and other draws.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

SEED, DRAW, REST = range(3)  # the order of the three mean squares
SMALLEST_P = 1e-12


def mean_squares(gains: ArrayLike, kept: ArrayLike | None = None) -> tuple[Floats, Floats]:
    """Mean squares [..., 3] of seeds, draws and rest of gains [..., S, D], and their degrees of
    freedom [..., 3].

    `kept` [..., S] says which seeds count; by default all do. A factor with one level has no mean
    square: its degrees of freedom and its value are 0. (Searle, Casella & McCulloch, Variance
    Components, 1992, chapter 4. Expectations: v_E + D v_S, v_E + S v_D, v_E.)
    """
    x = np.asarray(gains, float)
    draws = x.shape[-1]
    weight = (
        np.ones(x.shape[:-1])
        if kept is None
        else np.broadcast_to(np.asarray(kept, float), x.shape[:-1])
    )
    seeds = weight.sum(-1)
    seed_means = x.mean(-1)
    draw_means = np.einsum("...sd,...s->...d", x, weight) / seeds[..., None]
    mean = draw_means.mean(-1)
    seed_square = draws * (weight * (seed_means - mean[..., None]) ** 2).sum(-1)
    draw_square = seeds * ((draw_means - mean[..., None]) ** 2).sum(-1)
    rest = x - seed_means[..., None] - draw_means[..., None, :] + mean[..., None, None]
    rest_square = np.einsum("...sd,...s->...", rest**2, weight)
    degrees = np.stack(
        [seeds - 1, np.full(seeds.shape, draws - 1.0), (seeds - 1) * (draws - 1)], -1
    )
    return np.stack([seed_square, draw_square, rest_square], -1) / np.maximum(degrees, 1), degrees


def grand_mean(gains: ArrayLike, kept: ArrayLike | None = None) -> Floats:
    """Mean [...] of gains [..., S, D] over the draws and the seeds that count."""
    x = np.asarray(gains, float).mean(-1)
    if kept is None:
        return x.mean(-1)
    weight = np.broadcast_to(np.asarray(kept, float), x.shape)
    return (x * weight).sum(-1) / weight.sum(-1)


def half_width(variances: ArrayLike, degrees: ArrayLike, alpha: ArrayLike) -> Floats:
    """Half the width [...] of the interval of level 1 - alpha for a mean of variance V_S + V_D - V_E.

    `variances` [..., 3] are the mean squares divided by S D, `degrees` [..., 3] their degrees of
    freedom. With t_X Student's two-sided quantile at the degrees of X,

        half^2 = max(t_S^2 V_S,  t_D^2 V_D,  t_S^2 V_S + t_D^2 V_D - min(t)^2 V_E).

    Each variance keeps the quantile of its own degrees (Banerjee, Sankhya 22, 1960, whose interval
    for a sum of variances never covers less than its level; the subtracted term takes the smallest
    quantile). Satterthwaite's single t fails with few seeds and many draws: if the seeds' mean
    square is small by chance, the sum gets the draws' degrees.

    A component that was not sampled has variance 0 and 0 degrees, and does not contribute.
    """
    v, f = np.asarray(variances, float), np.asarray(degrees, float)
    t2 = squared_quantile(f, np.asarray(alpha, float)[..., None])
    parts = t2 * v
    least = np.where(f > 0, t2, np.inf).min(-1)
    least = np.where(np.isfinite(least), least, 0.0)
    crossed = parts[..., SEED] + parts[..., DRAW] - least * v[..., REST]
    return np.sqrt(np.maximum(np.maximum(parts[..., SEED], parts[..., DRAW]), crossed))


def squared_quantile(degrees: ArrayLike, alpha: ArrayLike) -> Floats:
    """Square of Student's two-sided quantile of level 1 - alpha; 0 where there are no degrees of freedom."""
    from scipy.special import stdtrit

    f = np.asarray(degrees, float)
    with np.errstate(over="ignore"):
        return np.where(f > 0, stdtrit(np.maximum(f, 1e-9), np.asarray(alpha, float) / 2) ** 2, 0.0)


def p_value(
    distance: ArrayLike, variances: ArrayLike, degrees: ArrayLike, largest: float = 1.0
) -> Floats:
    """The p value [...] of the two-sided test that inverts `half_width`.

    It is the smallest alpha whose interval is no wider than `distance` [...] to each side, found by
    bisection of log alpha between SMALLEST_P and 1, to a relative error of 1e-9 and never below the
    exact value. Values above `largest` are returned as 1, which saves time in simulations.
    """
    a, v, f = (
        np.abs(np.asarray(distance, float)),
        np.asarray(variances, float),
        np.asarray(degrees, float),
    )
    f = np.broadcast_to(f, v.shape)
    p = np.ones(a.shape)
    below = np.asarray((a > 0) & (a >= half_width(v, f, np.asarray(largest))))
    if not below.any():
        return p
    a, v, f = a[below], v[below], f[below]
    low, high = np.full(a.shape, np.log(SMALLEST_P)), np.full(a.shape, np.log(largest))
    high[a >= half_width(v, f, np.exp(low))] = np.log(SMALLEST_P)
    while (high - low).max(initial=0.0) > 1e-9:
        middle = (low + high) / 2
        inside = a >= half_width(v, f, np.exp(middle))
        high, low = np.where(inside, middle, high), np.where(inside, low, middle)
    p[below] = np.exp(high)
    return p


def weighted_holm(
    p: ArrayLike, weights: ArrayLike, alpha: float = 0.05
) -> tuple[NDArray[np.bool_], Floats]:
    """Which of m hypotheses are rejected [..., m], and the share of alpha [..., m] that each was
    last tested at.

    The step-down test of Holm (Scandinavian Journal of Statistics 6, 1979) with weights [m]:
    hypothesis i is rejected if p_i <= alpha w_i / (sum of the weights not yet rejected), until no
    more are. The chance of any false rejection is at most alpha, whichever hypotheses are true and
    however the p values depend on each other.
    """
    p = np.asarray(p, float)
    w = np.broadcast_to(np.asarray(weights, float), p.shape)
    rejected = np.zeros(p.shape, bool)
    share = alpha * w / w.sum(-1, keepdims=True)
    while True:
        new = ~rejected & (p <= share)
        if not new.any():
            return rejected, share
        rejected |= new
        left = np.where(rejected, 0.0, w).sum(-1, keepdims=True)
        share = np.where(rejected, share, alpha * w / np.where(left > 0, left, 1.0))
