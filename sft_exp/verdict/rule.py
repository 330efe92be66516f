"""The verdict on the comparisons of a report: one of four words each, an interval, and what both are based on.

Promise: a report says a false *helped* or *hurt* in at most 5 % of cases, whichever of its comparisons differ in truth. The
benchmark `python -m benchmarks.verdict` measures it, and docs/verdict.md says where it is not kept.
"""

from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from sft_exp.errors import DataError
from sft_exp.verdict.archive import Archive, Prior
from sft_exp.verdict.collapse import trained
from sft_exp.verdict.design import DRAW, SEED, Floats, weighted_holm
from sft_exp.verdict.evidence import Evidence, Moments, borrowed_degrees, forecast, weigh
from sft_exp.verdict.words import (
    CANNOT_TELL,
    HELPED,
    HURT,
    SMALL,
    WORDS,
    Verdict,
    coverage,
    finite,
    of_one,
    sentence,
    with_failure,
    withheld,
)

STANDARD = "2.0"  # the version of docs/standard.md that this rule belongs to
ALPHA = 0.05
MARGIN = 0.005  # of a score that is a proportion: half a point
PRIMARY_SHARE = 0.8  # of ALPHA, for the comparisons declared primary beforehand
MOST = 100  # seeds or draws that a forecast names
EQUAL = 1e-9  # gains of accuracies are whole numbers of images: what differs less is rounding
Key = TypeVar("Key", bound=Hashable)
Scores = Sequence[Sequence[float]] | Floats  # [S][D]


@dataclass(frozen=True)
class Comparison:
    """Scores of two arms with the same seeds and draws: score [s][d] of one is paired with score [s][d] of the other."""

    pretrained: Scores
    scratch: Scores
    # comparisons of one group share their control, e.g. those at one label count
    group: Hashable = ""
    weight: float = 1.0  # of its share of the 5 %, relative to the others'; see `primary_weights`
    # every label is used: there is one label set, and no other to speak of
    all_labels: bool = False
    # which seeds did, where training itself tells; else found from the scores
    trained: Sequence[bool] | None = None
    pretrained_failed: str = ""  # how trainings of the arm failed, in words; empty if none did
    scratch_failed: str = ""  # the same of the control; then no verdict is given on the comparison


@dataclass(frozen=True)
class Setting:
    """What the comparisons of a report have in common."""

    tested: int | None = None  # test images
    # of folds of one data set: images tested over images trained on; 0 for independent draws
    ratio: float = 0.0
    score: str = "accuracy"
    against: str = "the same model from scratch"  # what the scores are compared with, in words
    # whether the score is a share of test images; mIoU, average precision and errors are not
    proportion: bool = True
    # print hundredths, called points; None: where the score is a proportion
    points: bool | None = None
    margin: float = MARGIN  # a difference within it is too small to matter; in units of the score
    alpha: float = ALPHA

    @property
    def in_points(self) -> bool:
        return self.proportion if self.points is None else self.points


@dataclass(frozen=True)
class Report(Generic[Key]):
    verdicts: dict[Key, Verdict]
    archive: Archive | None
    # of seeds, draws and rest: the study's mean squares over the archive's, the median
    scale: tuple[float, float, float] | None
    notes: tuple[str, ...]

    def record(self) -> dict[str, Any]:
        """What the verdicts rest on, for a JSON file; the verdicts have records of their own."""
        return {
            "standard": STANDARD,
            "archive": self.archive.name if self.archive else None,
            "without": list(self.archive.without) if self.archive else [],
            "borrowed_degrees": borrowed_degrees(self.archive.prior, len(self.verdicts))
            if self.archive
            else 0.0,
            "scale": finite(self.scale),
        }


@dataclass(frozen=True)
class Decision:
    """Words [..., m] as numbers, and the share of alpha [..., m] that each difference was last tested at."""

    word: NDArray[np.int64]  # index into WORDS
    share: Floats
    p: Floats
    p_equivalence: Floats


def judge(
    comparisons: Mapping[Key, Comparison],
    setting: Setting | None = None,
    archive: Archive | None = None,
    without: Collection[str] = (),
) -> Report[Key]:
    """Judge all comparisons of one report together.

    Args:
        archive: what the spread is compared with: `archive.frozen()`, `archive.from_folder(...)`, or None for the gains alone.
        without: the data sets that the comparisons are about. Their results are left out of the archive.

    Raises:
        DataError: nothing to judge, scores that are not finite, or arms whose seeds or draws differ.
    """
    setting = setting or Setting()
    archive = archive.leaving_out(without) if archive else None
    if any(c.scratch_failed for c in comparisons.values()):
        return with_failures(comparisons, setting, archive)
    context = prepare(comparisons, setting, archive)
    moments, prior = context.moments, context.prior
    silent, one_seed = context.equal, moments.degrees[:, SEED] == 0
    known = np.zeros(len(one_seed), bool)
    unknown = one_seed if prior is None else known
    evidence, alone = context.evidence(prior), context.evidence(None)
    main = verdicts(context, evidence, alone, silent | unknown, unknown)
    if one_seed.any():
        this = context.evidence(prior, other_seeds=False), context.evidence(None, other_seeds=False)
        own = verdicts(context, *this, silent, known, this_one=True)
        main = [
            of_one(v, o, setting.in_points) if one else v
            for v, o, one in zip(main, own, one_seed, strict=True)
        ]
    main = [
        with_failure(v, c.pretrained_failed) if c.pretrained_failed else v
        for v, c in zip(main, comparisons.values(), strict=True)
    ]
    seeds, draws, rest = (float(x) for x in np.median(evidence.scale, 0))
    scale = (seeds, draws, rest) if prior else None
    said = notes(context.archive, scale, len(main), context.setting)
    return Report(dict(zip(comparisons, main, strict=True)), context.archive, scale, tuple(said))


def with_failures(
    comparisons: Mapping[Key, Comparison], setting: Setting, archive: Archive | None
) -> Report[Key]:
    """Judge the comparisons whose control trained, by themselves; the others get no verdict and no interval."""
    sound = {key: c for key, c in comparisons.items() if not c.scratch_failed}
    report = judge(sound, setting, archive) if sound else Report[Key]({}, archive, None, ())
    judged = dict(report.verdicts)
    for key, c in comparisons.items():
        if c.scratch_failed:
            p, s = checked(str(key), c)
            seeds, draws = p.shape
            nothing = Verdict(
                word="", difference=float((p - s).mean()), low=-np.inf, high=np.inf, level=1 - setting.alpha,
                p=1.0, p_equivalence=1.0, alone=(-np.inf, np.inf), seeds=seeds, draws=draws,
                collapsed=(), covers="", text="",
            )  # fmt: skip
            judged[key] = withheld(nothing, c.scratch_failed, c.pretrained_failed)
    return replace(report, verdicts={key: judged[key] for key in comparisons})


@dataclass(frozen=True)
class Context:
    """One report on its way through the rule."""

    comparisons: list[Comparison]
    setting: Setting
    archive: Archive | None
    kept: list[NDArray[np.bool_]]  # of each comparison, the seeds that trained [S]
    equal: NDArray[np.bool_]  # [m], comparisons whose gains are all the same number
    moments: Moments
    expected: Floats | None  # [m, 3], the archive's mean squares

    @property
    def prior(self) -> Prior | None:
        return self.archive.prior if self.archive else None

    def evidence(self, prior: Prior | None, other_seeds: bool = True) -> Evidence:
        return weigh(
            self.moments,
            prior,
            self.expected if prior else None,
            [c.group for c in self.comparisons],
            other_seeds=other_seeds,
            sampled_draws=[not c.all_labels for c in self.comparisons],
            ratio=self.setting.ratio,
            known_scale=self.setting.proportion,
        )

    @property
    def weights(self) -> Floats:
        return np.array([c.weight for c in self.comparisons])


def prepare(
    comparisons: Mapping[Key, Comparison], setting: Setting, archive: Archive | None
) -> Context:
    """Everything that words and intervals follow from; `sequential.look` takes `evidence(prior)` and `moments` of it."""
    if not comparisons:
        raise DataError("there is no comparison to judge")
    prior = archive.prior if archive else None
    arms = [checked(str(key), c) for key, c in comparisons.items()]
    kept = [
        seeds_that_trained(str(key), c, pair, prior, setting)
        for (key, c), pair in zip(comparisons.items(), arms, strict=True)
    ]
    gains = [p - s for p, s in arms]
    moments = Moments.of(gains, kept)
    equal = np.array([np.ptp(g[k]) < EQUAL for g, k in zip(gains, kept, strict=True)])
    expected = expected_squares(arms, kept, moments, prior, setting)
    return Context(list(comparisons.values()), setting, archive, kept, equal, moments, expected)


def checked(name: str, comparison: Comparison) -> tuple[Floats, Floats]:
    """Both arms' scores as arrays [S, D]."""
    try:
        pretrained, scratch = (
            np.asarray(x, float) for x in (comparison.pretrained, comparison.scratch)
        )
    except (TypeError, ValueError) as e:
        raise DataError(
            f"{name}: scores must be numbers, the same number of draws for every seed ({e})"
        ) from e
    if pretrained.ndim != 2 or pretrained.shape != scratch.shape or not pretrained.size:
        raise DataError(
            f"{name}: arms are paired by seed and draw, so both need scores [seeds][draws] of one shape; "
            f"they are {list(pretrained.shape)} and {list(scratch.shape)}"
        )
    if not (np.isfinite(pretrained).all() and np.isfinite(scratch).all()):
        raise DataError(f"{name}: a score is not finite")
    if comparison.weight <= 0:
        raise DataError(f"{name}: weight={comparison.weight} must be above 0")
    return pretrained, scratch


def seeds_that_trained(
    name: str,
    comparison: Comparison,
    arms: tuple[Floats, Floats],
    prior: Prior | None,
    setting: Setting,
) -> NDArray[np.bool_]:
    """Of a comparison [S]: a seed counts if both of its arms trained."""
    if comparison.trained is None:
        return np.logical_and(
            *(trained(a, prior, setting.tested, setting.proportion) for a in arms)
        )
    told = np.asarray(comparison.trained, bool)
    if told.shape != arms[0].shape[:1] or not told.any():
        raise DataError(
            f"{name}: trained={list(comparison.trained)} must say of each of {len(arms[0])} seeds, and of one that it did"
        )
    return told


def expected_squares(
    arms: Sequence[tuple[Floats, Floats]],
    kept: Sequence[NDArray[np.bool_]],
    moments: Moments,
    prior: Prior | None,
    setting: Setting,
) -> Floats | None:
    """The prior's mean squares [m, 3] for arms of these scores."""
    if prior is None:
        return None
    if setting.proportion:
        for pair in arms:
            if min(a.min() for a in pair) < 0 or max(a.max() for a in pair) > 1:
                raise DataError(
                    f"scores that are proportions lie between 0 and 1; is {setting.score} one? (proportion=false)"
                )
    p, s = (
        np.array([pair[n][k].mean() for pair, k in zip(arms, kept, strict=True)]) for n in (0, 1)
    )
    return prior.expected(p, s, moments.seeds, moments.draws, setting.tested, setting.proportion)


def decide(
    evidence: Evidence,
    weights: Floats,
    margin: float,
    alpha: float = ALPHA,
    silent: NDArray[np.bool_] | None = None,
    largest: float = 1.0,
) -> Decision:
    """A word for each comparison [..., m].

    *helped* and *hurt* by the weighted Holm test at alpha over all comparisons; *too small to matter* by the same test of
    equivalence, at alpha of its own. A difference that is real and too small to matter is called the latter. Comparisons that
    are `silent` get no word.
    """
    p, q = evidence.p_difference(largest), evidence.p_equivalence(margin, largest)
    no = evidence.without_noise() if silent is None else evidence.without_noise() | silent
    p, q = np.where(no, 1.0, p), np.where(no, 1.0, q)
    differs, share = weighted_holm(p, weights, alpha)
    small, _ = weighted_holm(q, weights, alpha)
    sign = np.where(evidence.mean > 0, HELPED, HURT)
    return Decision(np.where(small, SMALL, np.where(differs, sign, CANNOT_TELL)), share, p, q)


def printed_share(
    evidence: Evidence, decision: Decision, weights: Floats, alpha: float = ALPHA
) -> Floats:
    """1 - level [..., m] of each printed interval: its part of alpha by weight (Bonferroni), so that all intervals hold at once.
    Where Holm's test told a difference that this interval just misses, it is the share that it was told at."""
    share = np.broadcast_to(alpha * weights / weights.sum(), decision.share.shape)
    told = (decision.word == HELPED) | (decision.word == HURT)
    return np.where(told & (np.abs(evidence.mean) <= evidence.half(share)), decision.share, share)


def verdicts(
    context: Context,
    evidence: Evidence,
    alone: Evidence,
    silent: NDArray[np.bool_],
    unknown: NDArray[np.bool_],
    this_one: bool = False,
) -> list[Verdict]:
    """One verdict a comparison. `unknown` ones have no interval; `silent` ones no word."""
    setting, weights, moments = context.setting, context.weights, context.moments
    single = moments.seeds * moments.draws == 1
    unknown = unknown | single
    decision = decide(evidence, weights, setting.margin, setting.alpha, silent | unknown)
    share = printed_share(evidence, decision, weights, setting.alpha)
    half, half_alone = evidence.half(share), alone.half(share)
    one_seed = moments.degrees[:, SEED] == 0
    half = np.where(unknown, np.inf, half)
    half_alone = np.where(single | (one_seed & (not this_one)), np.inf, half_alone)
    shares = setting.alpha * weights / weights.sum()
    needed = required(evidence, moments, shares, setting.margin)
    judged = []
    for n, (comparison, keep) in enumerate(zip(context.comparisons, context.kept, strict=True)):
        word = WORDS[int(decision.word[n])]
        gain, seeds, draws = float(evidence.mean[n]), int(moments.seeds[n]), int(moments.draws[n])
        collapsed = tuple(int(s) for s in np.flatnonzero(~keep))
        covers = coverage(
            seeds,
            draws,
            comparison.all_labels,
            setting.ratio > 0,
            context.prior is not None,
            this_one,
            collapsed,
        )
        verdict = Verdict(
            word=word,
            difference=gain,
            low=gain - float(half[n]),
            high=gain + float(half[n]),
            level=1 - float(share[n]),
            p=float(decision.p[n]),
            p_equivalence=float(decision.p_equivalence[n]),
            alone=(gain - float(half_alone[n]), gain + float(half_alone[n])),
            seeds=seeds,
            draws=draws,
            collapsed=collapsed,
            covers=covers,
            text="",
            needed=needed[n]
            if word == "cannot tell" and not (silent[n] or unknown[n] or this_one)
            else None,
        )
        wider = bool(share[n] > shares[n] * (1 + 1e-9))
        text = sentence(
            verdict,
            setting.score,
            setting.against,
            setting.in_points,
            len(context.comparisons),
            setting.alpha,
            setting.margin,
            same=bool(silent[n] and not unknown[n]),
            judged_alone=wider,
            borrowed=context.prior is not None,
        )
        judged.append(replace(verdict, text=text))
    return judged


def required(
    evidence: Evidence, moments: Moments, shares: Floats, margin: float
) -> list[tuple[int, int] | None]:
    """Of each comparison the least seeds and draws, both larger in proportion, whose interval would leave out 0, or lie inside
    the margin, if mean and spread stayed as they are; None if more than MOST of either would be needed."""
    reach = np.maximum(np.abs(evidence.mean), margin - np.abs(evidence.mean))
    drawn = evidence.variances[:, DRAW] > 0
    needed: list[tuple[int, int] | None] = [None] * len(reach)
    for factor in np.geomspace(1.05, MOST, 60):
        # a hair less, so that rounding errors do not add a seed
        seeds = np.ceil(moments.seeds * factor - 1e-9)
        draws = np.ceil(np.where(drawn, moments.draws * factor, moments.draws) - 1e-9)
        enough = (forecast(evidence, moments, seeds, draws).half(shares) < reach) & (
            np.maximum(seeds, draws) <= MOST
        )
        for n in np.flatnonzero(enough):
            needed[n] = needed[n] or (int(seeds[n]), int(draws[n]))
    return needed


def notes(
    archive: Archive | None, scale: tuple[float, ...] | None, sentences: int, setting: Setting
) -> list[str]:
    """What a reader must know of all sentences of a report."""
    level = f"{100 * (1 - setting.alpha):g} %"
    said = (
        [f"The {sentences} intervals hold together at {level}; Holm's test gives the words."]
        if sentences > 1
        else []
    )
    if archive is None or scale is None:
        return [
            *said,
            "No archive of earlier studies was used: the intervals follow from these runs alone.",
        ]
    kinds = zip(("seeds", "draws", "rest"), scale, strict=True)
    fitted = ", ".join(f"{name} by {x:.2g}" for name, x in kinds)
    return [
        *said,
        f"The spread of earlier studies ({archive.describe()}) counts as "
        f"{borrowed_degrees(archive.prior, sentences):.2g} degrees of freedom beside those measured here. "
        f"To fit the spread seen here, the variances of those studies were multiplied: {fitted}.",
    ]


def primary_weights(primary: Sequence[bool], share: float = PRIMARY_SHARE) -> list[float]:
    """Weights of comparisons of which some were declared primary beforehand: these get `share` of alpha together."""
    first = sum(primary)
    if first in (0, len(primary)):
        return [1.0] * len(primary)
    return [share / first if p else (1 - share) / (len(primary) - first) for p in primary]
