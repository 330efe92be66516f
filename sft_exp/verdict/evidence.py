"""The evidence on m comparisons of a report: means, mean squares of their errors, degrees of freedom.

Shape legend: m comparisons of a report, S seeds, D draws; leading axes (...) are independent
reports, as simulations need.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sft_exp.verdict.archive import Prior
from sft_exp.verdict.design import (
    DRAW,
    REST,
    SEED,
    Floats,
    grand_mean,
    half_width,
    mean_squares,
    p_value,
)

OUTLIER = 3.0  # a mean square counts in the study scale as at most this many medians of its group
PER_COMPARISON = 0.2  # degrees borrowed for each comparison, on top of one
# degrees of freedom of the assumption that a study spreads as much as the archive says; they slow
# the lowering of the scale
CAUTION = 8.0


@dataclass(frozen=True)
class Moments:
    """Means and mean squares of m comparisons.

    Where all reports have one design, `degrees`, `seeds` and `draws` may have leading axes of size
    1, so that quantiles are computed once.
    """

    mean: Floats  # [..., m]
    squares: Floats  # [..., m, 3]
    degrees: Floats  # [..., m, 3]
    seeds: Floats  # [..., m]
    draws: Floats  # [..., m]

    @classmethod
    def of(
        cls, gains: Sequence[ArrayLike], kept: Sequence[ArrayLike | None] | None = None
    ) -> "Moments":
        """The moments of m arrays of gains [..., S, D], which may differ in S and D.

        `kept` [..., S] says which seeds count; by default all do.
        """
        means, squares, degrees, seeds, draws = [], [], [], [], []
        for x, keep in zip(gains, kept or [None] * len(gains), strict=True):
            s, f = mean_squares(x, keep)
            means.append(grand_mean(x, keep))
            squares.append(s)
            degrees.append(f)
            seeds.append(f[..., SEED] + 1)
            draws.append(f[..., DRAW] + 1)
        return cls(
            *(
                np.stack(x, axis)
                for x, axis in ((means, -1), (squares, -2), (degrees, -2), (seeds, -1), (draws, -1))
            )
        )


@dataclass(frozen=True)
class Evidence:
    """Ingredients of every interval and test of m comparisons."""

    mean: Floats  # [..., m]
    # [..., m, 3]: mean squares over the number of gains; 0 for factors that the interval leaves out
    variances: Floats
    degrees: Floats  # [..., m, 3]
    # [..., m, 3]: the factors on the archive's mean squares; 1 without an archive
    scale: Floats

    def half(self, alpha: ArrayLike) -> Floats:
        """Half the width [..., m] of each interval of level 1 - alpha [..., m]."""
        return half_width(self.variances, self.degrees, alpha)

    def p_difference(self, largest: float = 1.0) -> Floats:
        """p value [..., m] of the two-sided test that the mean is 0."""
        return p_value(self.mean, self.variances, self.degrees, largest)

    def p_equivalence(self, margin: float, largest: float = 1.0) -> Floats:
        """p value [..., m] of two one-sided tests that the mean lies outside of +-margin.

        At 0.05 the interval of level 0.90 lies inside (Schuirmann, Journal of Pharmacokinetics and
        Biopharmaceutics 15, 1987).
        """
        room = margin - np.abs(self.mean)
        both = p_value(np.maximum(room, 0.0), self.variances, self.degrees, min(1.0, 2 * largest))
        return np.where(room > 0, both / 2, 1.0)

    def without_noise(self) -> NDArray[np.bool_]:
        """Comparisons [..., m] without any spread: their interval of width 0 proves nothing."""
        return self.variances.max(-1) <= 0


def weigh(
    moments: Moments,
    prior: Prior | None,
    expected: Floats | None = None,
    groups: Sequence[object] | None = None,
    *,
    other_seeds: bool = True,
    sampled_draws: ArrayLike | None = None,
    ratio: float = 0.0,
    known_scale: bool = True,
) -> Evidence:
    """Combine the mean squares of the gains with those `expected` [..., m, 3] by a prior.

    With f degrees of freedom of an observed mean square MS, d those that the prior is worth and
    lambda the study scale, the moderated mean square (d lambda expected + f MS) / (d + f) has d + f
    degrees (Smyth 2004). d is the prior's own for components of which the report has no degrees,
    else `borrowed_degrees`.

    Args:
        groups: of each comparison, its group, which shares a control (usually the label count).
        other_seeds: whether the means are those over other seeds, which needs two seeds or a prior.
        sampled_draws: of each comparison, whether the draws are a sample; false with all labels.
        ratio: of folds of one data set, test images over labelled images of a fold. Their training sets
            overlap, so that the draws' variance grows by the factor 1 + D ratio (Nadeau & Bengio,
            Machine Learning 52, 2003, equation 5).
        known_scale: false for scores that are not proportions: the prior then gives ratios alone.
    """
    squares, degrees = moments.squares, moments.degrees
    scale = np.ones(squares.shape)
    if prior is not None:
        assert expected is not None
        scale = study_scale(squares, degrees, expected, groups, known_scale)
        worth = np.where(degrees > 0, borrowed_degrees(prior, squares.shape[-2]), prior.degrees)
        squares = (degrees * squares + worth * scale * expected) / (degrees + worth)
        degrees = degrees + worth
    size = (moments.seeds * moments.draws)[..., None]
    shape = moments.degrees.shape[:-1]
    draws = moments.degrees[..., DRAW] > 0 if prior is None else np.ones(shape, bool)
    if sampled_draws is not None:
        draws = draws & np.asarray(sampled_draws)
    seeds = (
        (moments.degrees[..., SEED] > 0) | (prior is not None)
        if other_seeds
        else np.zeros(shape, bool)
    )
    covered = np.stack([seeds, draws, seeds & draws], -1)
    inflation = np.ones(degrees.shape)
    inflation[..., DRAW] = 1 + moments.draws * ratio
    return Evidence(
        moments.mean,
        np.where(covered, squares / size * inflation, 0.0),
        np.where(covered, degrees, 0.0),
        scale,
    )


def borrowed_degrees(prior: Prior, comparisons: int) -> float:
    """Degrees of freedom that a report borrows for a component that it has measured itself.

    They are few for few comparisons, which cannot show that a prior is wrong.
    """
    return min(prior.degrees, 1 + PER_COMPARISON * comparisons)


def interval(
    values: ArrayLike, ratio: float = 0.0, alpha: float = 0.05
) -> tuple[float, float, float]:
    """Mean, lower and upper end of the interval of level 1 - alpha for values [S, D], without an
    archive: for the scores of one arm, a band of a figure, a difference other than the gain.

    It covers other seeds and other draws, each where there are several. A single value has no
    interval: its ends are infinite.
    """
    x = np.atleast_2d(np.asarray(values, float))
    mean = float(x.mean())
    if x.size == 1:
        return mean, -np.inf, np.inf
    half = float(weigh(Moments.of([x]), None, ratio=ratio).half(np.array([alpha]))[0])
    return mean, mean - half, mean + half


def study_scale(
    squares: Floats,
    degrees: Floats,
    expected: Floats,
    groups: Sequence[object] | None = None,
    known: bool = True,
) -> Floats:
    """lambda [..., m, 3]: the factor between the spread of a study and that expected by its prior.

    u = MS / expected is averaged over the comparisons of the report, each u counting as at most
    OUTLIER medians. lambda of a component is the largest of (a) its own mean u, (b) the mean u of
    all components by their degrees F, and (c) (F u + CAUTION) / (F + CAUTION): the scale is raised
    freely and lowered slowly. F are the degrees of one comparison times m / (1 + (m - 1) / 4),
    because gains over one control of like variance correlate by 1/2 and their mean squares by 1/4.
    Where the scale is not `known`, (c) is left out.

    Where the report has several groups, lambda is that of the group, computed in the same way with
    the report's in the place of 1 in (c): label counts may differ in spread, and one that varies
    much must not be hidden by the others.
    """
    u = squares / expected
    f = np.broadcast_to(degrees, u.shape)
    report = lowered_slowly(u, f, np.ones(1) if known else np.zeros(1))
    if groups is None or len(set(groups)) < 2:
        return np.broadcast_to(report[..., None, :], u.shape)
    scale = np.empty(u.shape)
    for group in dict.fromkeys(groups):
        of = np.array([g == group for g in groups])
        scale[..., of, :] = lowered_slowly(u[..., of, :], f[..., of, :], report)[..., None, :]
    return scale


def lowered_slowly(u: Floats, f: Floats, start: Floats) -> Floats:
    """The largest of (a), (b) and (c) of `study_scale` [..., 3], of ratios u, degrees f [..., m, 3]."""
    own, every, total = pooled(u, f)
    total = total * u.shape[-2] / (1 + (u.shape[-2] - 1) / 4)
    return np.maximum(
        np.maximum(own, every),
        (every * total + CAUTION * start) / (total + CAUTION) if start.any() else 0.0,
    )


def pooled(u: Floats, f: Floats) -> tuple[Floats, Floats, Floats]:
    """Mean u of each component [..., 3] and of all [..., 1], and the degrees of one comparison
    [..., 1]."""
    own = np.zeros((*u.shape[:-2], 3))
    for k in (SEED, DRAW, REST):
        measured = (f[..., k] > 0).reshape(-1, f.shape[-2]).any(0)
        if measured.any():
            v = u[..., measured, k]
            if v.shape[-1] > 2:
                v = np.minimum(v, OUTLIER * np.median(v, -1, keepdims=True))
            own[..., k] = v.mean(-1)
    most = f.max(-2)
    total = most.sum(-1, keepdims=True)
    return (
        own,
        np.where(total > 0, (own * most).sum(-1, keepdims=True) / np.maximum(total, 1.0), 1.0),
        total,
    )


def forecast(evidence: Evidence, moments: Moments, seeds: ArrayLike, draws: ArrayLike) -> Evidence:
    """The evidence that other numbers of seeds and draws [..., m] would give with the same means and
    spread.

    The variances are split into v_S, v_D and v_E and combined for the new numbers; degrees of
    freedom grow by those added.
    """
    seeds, draws = np.asarray(seeds, float), np.asarray(draws, float)
    now = evidence.variances * (moments.seeds * moments.draws)[..., None]
    rest = now[..., REST]
    by_seed = np.maximum(now[..., SEED] - rest, 0) / moments.draws
    by_draw = np.maximum(now[..., DRAW] - rest, 0) / moments.seeds
    then = np.stack(np.broadcast_arrays(rest + draws * by_seed, rest + seeds * by_draw, rest), -1)
    added = (
        np.stack(np.broadcast_arrays(seeds - 1, draws - 1, (seeds - 1) * (draws - 1)), -1)
        - moments.degrees
    )
    covered = evidence.degrees > 0
    variances = np.where(covered, then / (seeds * draws)[..., None], 0.0)
    return replace(
        evidence, variances=variances, degrees=np.where(covered, evidence.degrees + added, 0.0)
    )
