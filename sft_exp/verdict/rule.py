"""The verdict on the comparisons of a report: for each one of four words, an interval and a text.

Promise: a report says a false *helped* or *hurt* in at most 5 % of cases, whichever of its
comparisons differ in truth. The benchmark `python -m benchmarks.verdict` measures it, and
docs/verdict.md says where it is not kept.
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
    Coverage,
    Verdict,
    finite,
    notes_of,
    text_of,
    with_failure,
    withhold,
)

STANDARD = "2.0"  # the version of docs/standard.md that this rule belongs to
ALPHA = 0.05
MARGIN = 0.005  # of a score that is a proportion: half a point
PRIMARY_SHARE = 0.8  # of ALPHA, for the comparisons declared primary beforehand
MOST = 100  # largest number of seeds or draws that a forecast names
EQUAL = 1e-9  # gains in accuracy are whole numbers of images: smaller differences are rounding
Key = TypeVar("Key", bound=Hashable)
Scores = Sequence[Sequence[float]] | Floats  # [S][D]


@dataclass(frozen=True)
class Comparison:
    """Scores of two arms, paired by seed and draw: score [s][d] of one with [s][d] of the other."""

    pretrained: Scores
    scratch: Scores
    # comparisons of one group share their control, e.g. those at one label count
    group: Hashable = ""
    weight: float = 1.0  # of its share of the 5 %, relative to the others'; see `primary_weights`
    # every label is used: there is one label set, and no other that the interval could cover
    all_labels: bool = False
    # which seeds trained, where the training log says so; None: it is estimated from the scores
    trained: Sequence[bool] | None = None
    pretrained_failed: str = ""  # how trainings of the arm failed, in words; empty if none did
    scratch_failed: str = ""  # the same for the control; the comparison then gets no verdict


@dataclass(frozen=True)
class Setting:
    """What the comparisons of a report have in common."""

    tested: int | None = None  # test images
    # for folds of one data set: test images over labelled images; 0 for independent draws
    ratio: float = 0.0
    score: str = "accuracy"
    against: str = "the same model from scratch"  # the control, in words
    # whether the score is a fraction of the test images; mIoU, average precision, errors are not
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
    # median ratios of the study's mean squares to the archive's: of seeds, draws and rest
    scale: tuple[float, float, float] | None
    notes: tuple[str, ...]  # on all verdicts together; those on single ones are `Verdict.notes`

    def record(self) -> dict[str, Any]:
        """The basis of the verdicts, for a JSON file; the verdicts have records of their own."""
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
    """Words [..., m], and the share of alpha [..., m] that each difference was last tested at."""

    word: NDArray[np.int64]  # index into WORDS
    share: Floats
    p: Floats
    p_equivalence: Floats


def judge(
    comparisons: Mapping[Key, Comparison],
    setting: Setting | None = None,
    archive: Archive | None = None,
    without: Collection[str] = (),
    words: Mapping[Key, str] | None = None,
) -> Report[Key]:
    """Judge all comparisons of one report together.

    Args:
        words: words that were decided elsewhere, by looks at a growing study (`sequential`). The
            report then gives their intervals and texts, at the level of `setting.alpha`.
        archive: the earlier studies whose spread counts too: `archive.frozen()`,
            `archive.from_folder(...)`, or None for the gains alone.
        without: the data sets of the comparisons. Their results are left out of the archive.

    Raises:
        DataError: nothing to judge, scores that are not finite, or arms whose seeds or draws differ.
    """
    setting = setting or Setting()
    archive = archive.leaving_out(without) if archive else None
    if any(c.scratch_failed for c in comparisons.values()):
        return with_failures(comparisons, setting, archive, words)
    context = prepare(comparisons, setting, archive, words)
    prior, equal = context.prior, context.equal
    one_seed = context.moments.degrees[:, SEED] == 0
    singles: Sequence[Verdict | None] = [None] * len(comparisons)
    if one_seed.any():
        this = context.evidence(prior, other_seeds=False), context.evidence(None, other_seeds=False)
        on_one = verdicts(context, *this, no_interval=np.zeros(len(equal), bool), this_one=True)
        singles = [v if one else None for v, one in zip(on_one, one_seed, strict=True)]
    # without an archive one seed tells nothing about others
    no_interval = one_seed & (prior is None)
    evidence = context.evidence(prior)
    judged = verdicts(
        context, evidence, context.evidence(None), no_interval=no_interval, singles=singles
    )
    judged = [
        with_failure(v, c.pretrained_failed) if c.pretrained_failed else v
        for v, c in zip(judged, comparisons.values(), strict=True)
    ]
    seeds, draws, rest = (float(x) for x in np.median(evidence.scale, 0))
    scale = (seeds, draws, rest) if prior else None
    notes = report_notes(context.archive, scale, len(judged), context.setting)
    return Report(dict(zip(comparisons, judged, strict=True)), context.archive, scale, tuple(notes))


def with_failures(
    comparisons: Mapping[Key, Comparison],
    setting: Setting,
    archive: Archive | None,
    words: Mapping[Key, str] | None = None,
) -> Report[Key]:
    """Judge the comparisons whose control trained; the others get no verdict and no interval."""
    trained = {key: c for key, c in comparisons.items() if not c.scratch_failed}
    report = (
        judge(trained, setting, archive, words=words)
        if trained
        else Report[Key]({}, archive, None, ())
    )
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
            judged[key] = withhold(nothing, c.scratch_failed, c.pretrained_failed)
    return replace(report, verdicts={key: judged[key] for key in comparisons})


@dataclass(frozen=True)
class Context:
    """The comparisons of one report, and what their words and intervals follow from."""

    comparisons: list[Comparison]
    setting: Setting
    archive: Archive | None
    trained: list[NDArray[np.bool_]]  # of each comparison, which seeds trained [S]
    equal: NDArray[np.bool_]  # [m], comparisons whose gains are all the same number
    moments: Moments
    expected: Floats | None  # [m, 3], the archive's mean squares
    decided: NDArray[np.int64] | None = None  # [m], words decided elsewhere, as indices into WORDS

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
            sampled_draws=self.sampled_draws,
            ratio=self.setting.ratio,
            known_scale=self.setting.proportion,
        )

    @property
    def sampled_draws(self) -> NDArray[np.bool_]:
        """Comparisons [m] whose intervals cover other draws.

        With all labels draws differ in the random numbers of fine-tuning alone, which other seeds
        change as well. A single seed does not show their effect, so there the draws count.
        """
        some = np.array([not c.all_labels for c in self.comparisons])
        return some | (self.moments.degrees[:, SEED] == 0)

    @property
    def weights(self) -> Floats:
        return np.array([c.weight for c in self.comparisons])


def prepare(
    comparisons: Mapping[Key, Comparison],
    setting: Setting,
    archive: Archive | None,
    words: Mapping[Key, str] | None = None,
) -> Context:
    """The context of a report; `sequential.take` uses its `evidence(prior)` and `moments`."""
    if not comparisons:
        raise DataError("there is no comparison to judge")
    prior = archive.prior if archive else None
    arms = [checked(str(key), c) for key, c in comparisons.items()]
    seeds = [
        seeds_that_trained(str(key), c, pair, prior, setting)
        for (key, c), pair in zip(comparisons.items(), arms, strict=True)
    ]
    gains = [p - s for p, s in arms]
    moments = Moments.of(gains, seeds)
    equal = np.array([np.ptp(g[s]) < EQUAL for g, s in zip(gains, seeds, strict=True)])
    expected = expected_squares(arms, seeds, moments, prior, setting)
    decided = np.array([WORDS.index(words[key]) for key in comparisons]) if words else None
    return Context(
        list(comparisons.values()), setting, archive, seeds, equal, moments, expected, decided
    )


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
            f"{name}: arms are paired by seed and draw, so both need scores [seeds][draws] of one "
            f"shape; they are {list(pretrained.shape)} and {list(scratch.shape)}"
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
    """Which seeds [S] of a comparison count: those in which both arms trained."""
    if comparison.trained is None:
        return np.logical_and(
            *(trained(a, prior, setting.tested, setting.proportion) for a in arms)
        )
    seeds = np.asarray(comparison.trained, bool)
    if seeds.shape != arms[0].shape[:1] or not seeds.any():
        raise DataError(
            f"{name}: trained={list(comparison.trained)} must have a value for each of "
            f"{len(arms[0])} seeds, of which at least one is true"
        )
    return seeds


def expected_squares(
    arms: Sequence[tuple[Floats, Floats]],
    seeds: Sequence[NDArray[np.bool_]],
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
                    f"scores that are proportions lie between 0 and 1; if {setting.score} is not "
                    "one, give proportion=false"
                )
    pretrained, scratch = (
        np.array([pair[arm][s].mean() for pair, s in zip(arms, seeds, strict=True)])
        for arm in (0, 1)
    )
    return prior.expected(
        pretrained, scratch, moments.seeds, moments.draws, setting.tested, setting.proportion
    )


def decide(
    evidence: Evidence,
    weights: Floats,
    margin: float,
    alpha: float = ALPHA,
    silent: NDArray[np.bool_] | None = None,
    largest: float = 1.0,
) -> Decision:
    """A word for each comparison [..., m].

    *helped* and *hurt* follow from the weighted Holm test at alpha over all comparisons, *too small
    to matter* from the same test of equivalence at an alpha of its own. A difference that is real
    and too small to matter is called the latter. Comparisons that are `silent` get *cannot tell*.
    """
    p, q = evidence.p_difference(largest), evidence.p_equivalence(margin, largest)
    untested = evidence.without_noise() if silent is None else evidence.without_noise() | silent
    p, q = np.where(untested, 1.0, p), np.where(untested, 1.0, q)
    differs, share = weighted_holm(p, weights, alpha)
    small, _ = weighted_holm(q, weights, alpha)
    sign = np.where(evidence.mean > 0, HELPED, HURT)
    return Decision(np.where(small, SMALL, np.where(differs, sign, CANNOT_TELL)), share, p, q)


def printed_share(
    evidence: Evidence, decision: Decision, weights: Floats, alpha: float = ALPHA
) -> Floats:
    """1 - level [..., m] of each printed interval.

    It is the comparison's part of alpha by weight (Bonferroni), so that all intervals hold at once.
    Where this interval contains 0 although Holm's test rejected, it is the share of that test.
    """
    share = np.broadcast_to(alpha * weights / weights.sum(), decision.share.shape)
    differs = (decision.word == HELPED) | (decision.word == HURT)
    contains_zero = np.abs(evidence.mean) <= evidence.half(share)
    return np.where(differs & contains_zero, decision.share, share)


def verdicts(
    context: Context,
    evidence: Evidence,
    alone: Evidence,
    *,
    no_interval: NDArray[np.bool_],
    this_one: bool = False,
    singles: Sequence[Verdict | None] | None = None,
) -> list[Verdict]:
    """One verdict a comparison.

    Args:
        alone: the evidence without the archive.
        no_interval: comparisons [m] that have no interval, and therefore no word.
        this_one: the verdicts are on this one pretraining, not on others too.
        singles: of each comparison of one seed, the verdict on this one pretraining.
    """
    setting, weights, moments = context.setting, context.weights, context.moments
    borrowed = context.prior is not None
    single_run = moments.seeds * moments.draws == 1
    no_word = context.equal | no_interval
    no_interval = no_interval | single_run
    decision = decide(evidence, weights, setting.margin, setting.alpha, no_word | no_interval)
    if context.decided is not None and not this_one:
        decision = replace(decision, word=context.decided)
    share = printed_share(evidence, decision, weights, setting.alpha)
    one_seed = moments.degrees[:, SEED] == 0
    half = known_half(evidence, share, no_interval)
    half_alone = known_half(alone, share, single_run | (one_seed & (not this_one)))
    simultaneous = setting.alpha * weights / weights.sum()
    needed = required(evidence, moments, simultaneous, setting.margin)
    judged = []
    for n, (comparison, trained_n) in enumerate(
        zip(context.comparisons, context.trained, strict=True)
    ):
        word = WORDS[int(decision.word[n])]
        gain, seeds, draws = float(evidence.mean[n]), int(moments.seeds[n]), int(moments.draws[n])
        collapsed = tuple(int(s) for s in np.flatnonzero(~trained_n))
        coverage = Coverage.of(
            seeds,
            draws,
            collapsed,
            all_labels=comparison.all_labels,
            folds=setting.ratio > 0,
            borrowed=borrowed,
            this_one=this_one,
            spread=bool(no_interval[n] or np.isfinite(half[n])),
        )
        undecided = word == "cannot tell" and not (no_word[n] or no_interval[n] or this_one)
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
            covers=coverage.sentence,
            text="",
            this=singles[n] if singles else None,
            needed=needed[n] if undecided else None,
        )
        text = text_of(
            verdict,
            coverage,
            setting.score,
            setting.against,
            setting.in_points,
            len(context.comparisons),
            setting.alpha,
            equal=bool(context.equal[n] and not no_interval[n]),
            judged_alone=bool(share[n] > simultaneous[n] * (1 + 1e-9)),
            this_one=this_one,
        )
        notes = notes_of(verdict, setting.in_points, setting.margin, borrowed=borrowed)
        judged.append(replace(verdict, text=text, notes=notes))
    return judged


def known_half(evidence: Evidence, share: Floats, unknown: NDArray[np.bool_]) -> Floats:
    """Half the width [m] of each interval, infinite where it is `unknown`.

    It is infinite, too, for gains without any spread: an interval of width 0 would claim what they
    cannot show.
    """
    half = evidence.half(share)
    return np.where(unknown | (half < EQUAL), np.inf, half)


def required(
    evidence: Evidence, moments: Moments, shares: Floats, margin: float
) -> list[tuple[int, int] | None]:
    """Of each comparison the fewest seeds and draws that would suffice for a word.

    Both grow in proportion until the interval leaves out 0 or lies inside the margin, with mean and
    spread as they are. None if more than MOST of either would be needed.
    """
    reach = np.maximum(np.abs(evidence.mean), margin - np.abs(evidence.mean))
    drawn = evidence.variances[:, DRAW] > 0
    needed: list[tuple[int, int] | None] = [None] * len(reach)
    for factor in np.geomspace(1.05, MOST, 60):
        # slightly less, so that rounding errors do not add a seed
        seeds = np.ceil(moments.seeds * factor - 1e-9)
        draws = np.ceil(np.where(drawn, moments.draws * factor, moments.draws) - 1e-9)
        enough = (forecast(evidence, moments, seeds, draws).half(shares) < reach) & (
            np.maximum(seeds, draws) <= MOST
        )
        for n in np.flatnonzero(enough):
            needed[n] = needed[n] or (int(seeds[n]), int(draws[n]))
    return needed


def report_notes(
    archive: Archive | None, scale: tuple[float, ...] | None, comparisons: int, setting: Setting
) -> list[str]:
    """Notes that hold for all verdicts of a report."""
    level = f"{100 * (1 - setting.alpha):g} %"
    notes = []
    if comparisons > 1:
        notes.append(
            f"The {comparisons} intervals hold together at {level}; Holm's test gives the words."
        )
    if archive is None or scale is None:
        notes.append(
            "No archive of earlier studies was used: the intervals follow from these runs alone."
        )
        return notes
    kinds = zip(("seeds", "draws", "rest"), scale, strict=True)
    factors = ", ".join(f"{name} by {x:.2g}" for name, x in kinds)
    notes.append(
        f"The spread of earlier studies ({archive.describe()}) counts as "
        f"{borrowed_degrees(archive.prior, comparisons):.2g} degrees of freedom beside those "
        "measured here. To fit the spread measured here, the variances of those studies were "
        f"multiplied: {factors}."
    )
    return notes


def primary_weights(primary: Sequence[bool]) -> list[float]:
    """Weights of comparisons, of which those declared primary beforehand share PRIMARY_SHARE of
    alpha."""
    first = sum(primary)
    if first in (0, len(primary)):
        return [1.0] * len(primary)
    other = (1 - PRIMARY_SHARE) / (len(primary) - first)
    return [PRIMARY_SHARE / first if p else other for p in primary]
