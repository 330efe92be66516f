"""The four words, and sentences that say what they cover."""

from dataclasses import dataclass
from math import isfinite

SAYS = {
    "cannot tell": "Cannot tell whether pretraining helped",
    "helped": "Pretraining helped",
    "hurt": "Pretraining hurt",
    "too small to matter": "The difference is too small to matter",
}
WORDS = tuple(SAYS)
CANNOT_TELL, HELPED, HURT, SMALL = range(4)  # indices into WORDS


@dataclass(frozen=True)
class Verdict:
    word: str  # one of SAYS
    gain: float  # mean of (pretrained - scratch) over the seeds that trained
    low: float  # of the printed interval; infinite where nothing is known
    high: float
    level: float  # of this interval by itself; the intervals of a report hold simultaneously
    p: float  # of the two-sided test that the gain is 0
    p_equivalence: float  # of the test that the gain is outside of the margin
    alone: tuple[float, float]  # the interval of the same level without the archive
    seeds: int  # that trained
    draws: int
    collapsed: tuple[int, ...]  # indices of the seeds that did not
    covers: str  # what the interval speaks of
    text: str
    this: "Verdict | None" = None  # of a single pretraining: the verdict on it and no other
    needed: tuple[int, int] | None = (
        None  # seeds and draws that would tell if gain and spread stayed as they are
    )


def amount(x: float, proportion: bool) -> str:
    """A signed difference: in points for proportions, else with three significant digits."""
    return f"{100 * x:+.1f}" if proportion else f"{x:+.3g}"


def sentence(
    verdict: Verdict,
    score: str,
    against: str,
    proportion: bool,
    sentences: int,
    alpha: float,
    margin: float,
    *,
    same: bool,
    judged_alone: bool,
    borrowed: bool,
) -> str:
    """The verdict in words: word, gain, interval, what it speaks of, and what it is without the archive.

    Args:
        same: every gain is the same number.
        judged_alone: the interval is not the simultaneous one, but that of the level that Holm's test came to.
        borrowed: an archive was used.
    """
    gain, low, high = (amount(x, proportion) for x in (verdict.gain, verdict.low, verdict.high))
    unit = f"points of {score}" if proportion else f"of {score}"
    reach = interval(verdict, low, high, sentences, alpha, judged_alone)
    parts = [f"{SAYS[verdict.word]}: {gain} {unit} against {against}{reach}."]
    if verdict.word == "too small to matter":
        size = f"{100 * margin:g} points" if proportion else f"{margin:g}"
        parts.append(f"By two one-sided tests it lies within {size} of zero.")
    if same:
        parts.append("Every gain is the same number, which proves nothing.")
    parts.append(verdict.covers)
    if borrowed and isfinite(verdict.low):
        low, high = (amount(x, proportion) for x in verdict.alone)
        alone = f"{low} to {high}" if isfinite(verdict.alone[0]) else "no interval"
        parts.append(f"Without the archive: {alone}.")
    if verdict.needed:
        seeds, draws = verdict.needed
        parts.append(
            f"{counted(seeds, 'seed')} and {counted(draws, 'draw')} would tell, if gain and spread stayed as they are."
        )
    return " ".join(p for p in parts if p)


def interval(
    verdict: Verdict, low: str, high: str, sentences: int, alpha: float, judged_alone: bool
) -> str:
    if not isfinite(verdict.low):
        return ""
    if sentences == 1:
        return f" ({100 * verdict.level:.3g} % interval {low} to {high})"
    if judged_alone:
        return f" ({low} to {high} at {100 * verdict.level:.4g} %, the level it was judged at among {sentences} sentences)"
    return f" ({low} to {high}; {100 * (1 - alpha):g} % for all {sentences} intervals together)"


def coverage(
    seeds: int,
    draws: int,
    all_labels: bool,
    folds: bool,
    borrowed: bool,
    this_one: bool,
    collapsed: tuple[int, ...],
) -> str:
    """What an interval speaks of: this pretraining or others too, this label set or others too."""
    if seeds == 1 and draws == 1:
        return "One run of each arm has no interval."
    labels = (
        "the one set of all labels"
        if all_labels
        else "other folds"
        if folds
        else "other label sets"
    )
    if draws == 1 and not all_labels:
        labels = (
            "other label sets by the archive, since one was drawn"
            if borrowed
            else "this label set and no other"
        )
    if collapsed:
        of = f"the {seeds} of {seeds + len(collapsed)} seeds that trained"
        named = ", ".join(map(str, collapsed))
        return f"It speaks of {of} and of {labels}; collapsed: {'seed' if len(collapsed) == 1 else 'seeds'} {named}."
    if seeds > 1:
        return f"It speaks of other pretraining seeds and of {labels}."
    if this_one:
        return f"It speaks of this one pretraining and of {labels}."
    if borrowed:
        return f"It speaks of other pretraining seeds by the archive, since one was run, and of {labels}."
    return "One pretraining says nothing of other seeds."


def counted(n: int, thing: str) -> str:
    return f"{n} {thing}" if n == 1 else f"{n} {thing}s"
