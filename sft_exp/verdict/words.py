"""The four words, and sentences that say what they cover."""

from dataclasses import asdict, dataclass, replace
from math import inf, isfinite
from typing import Any

SAYS = {
    "cannot tell": "Cannot tell whether pretraining helped",
    "helped": "Pretraining helped",
    "hurt": "Pretraining hurt",
    "too small to matter": "The difference is too small to matter",
}
THIS_ONE = {
    "cannot tell": "Cannot tell whether this one pretraining helped",
    "helped": "This one pretraining helped",
    "hurt": "This one pretraining hurt",
    "too small to matter": "For this one pretraining the difference is too small to matter",
}
WORDS = tuple(SAYS)
WITHHELD = "no verdict"  # the training of the control failed, so there is nothing to compare with
SAYS[WITHHELD] = "No verdict"
REMEDY = (
    "Give both arms a lower learning rate (optim.lr), or let each search its own among lower ones "
    "(optim.lr=search, optim.hints.search.lr)."
)
CANNOT_TELL, HELPED, HURT, SMALL = range(4)  # indices into WORDS


@dataclass(frozen=True)
class Verdict:
    word: str  # one of SAYS
    difference: float  # mean of (pretrained - scratch) over the seeds that trained
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
    # seeds and draws that would tell if gain and spread stayed as they are
    needed: tuple[int, int] | None = None

    def record(self) -> dict[str, Any]:
        """The verdict for a JSON file, which has no infinite numbers: an unknown bound is None."""
        return {name: finite(value) for name, value in asdict(self).items()}

    @classmethod
    def read(cls, record: dict[str, Any]) -> "Verdict":
        """The verdict that `record` wrote."""
        low, high = (
            x if isinstance(x, int | float) else s * inf
            for x, s in ((record["low"], -1), (record["high"], 1))
        )
        alone = [s * inf if x is None else x for x, s in zip(record["alone"], (-1, 1), strict=True)]
        return cls(
            **{
                **{name: record[name] for name in cls.__dataclass_fields__},
                "low": low,
                "high": high,
                "alone": (alone[0], alone[1]),
                "collapsed": tuple(record["collapsed"]),
                "this": cls.read(record["this"]) if record["this"] else None,
                "needed": tuple(record["needed"]) if record["needed"] else None,
            }
        )


def finite(value: Any) -> Any:
    """The value with None for every infinite number in it; tuples become lists, as in JSON."""
    if isinstance(value, dict):
        return {name: finite(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite(inner) for inner in value]
    return None if isinstance(value, float) and not isfinite(value) else value


def withheld(verdict: Verdict, control: str, ours: str) -> Verdict:
    """No verdict, because the control's training failed: the difference says nothing of pretraining."""
    text = (
        f"{SAYS[WITHHELD]}: scratch {control}, so the difference of {100 * verdict.difference:+.1f} "
        f"points says nothing about pretraining. {REMEDY}"
    )
    return replace(verdict, word=WITHHELD, text=f"{text} pretrained {ours}, too." if ours else text)


def with_failure(verdict: Verdict, ours: str) -> Verdict:
    """The verdict on a pretrained arm whose training failed: the arm counts as it is, and the text says so. A method
    under which training fails is worse than one under which it does not."""
    counts = "" if verdict.collapsed else ", and counts as it is"
    return replace(verdict, text=f"{verdict.text} pretrained {ours}{counts}. {REMEDY}")


def of_one(main: Verdict, this: Verdict, points: bool) -> Verdict:
    """The verdict of a single pretraining, whose text says both sentences: of other pretrainings, and of this one."""
    if not isfinite(this.low):
        return replace(main, this=this)
    low, high = (amount(x, points) for x in (this.low, this.high))
    own = f"{THIS_ONE[this.word]}: {low} to {high}{' points' if points else ''}. {this.covers}"
    return replace(main, this=this, text=f"{main.text} {own}")


def amount(x: float, points: bool) -> str:
    """A signed difference: in points (hundredths), else with three significant digits."""
    return f"{100 * x:+.1f}" if points else f"{x:+.3g}"


def sentence(
    verdict: Verdict,
    score: str,
    against: str,
    points: bool,
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
    gain, low, high = (amount(x, points) for x in (verdict.difference, verdict.low, verdict.high))
    unit = f"points of {score}" if points else f"of {score}"
    reach = interval(verdict, low, high, sentences, alpha, judged_alone)
    parts = [f"{SAYS[verdict.word]}: {gain} {unit} against {against}{reach}."]
    if verdict.word == "too small to matter":
        size = f"{100 * margin:g} points" if points else f"{margin:g}"
        parts.append(f"By two one-sided tests it lies within {size} of zero.")
    if same:
        parts.append("Every gain is the same number, which proves nothing.")
    parts.append(verdict.covers)
    if borrowed and isfinite(verdict.low):
        low, high = (amount(x, points) for x in verdict.alone)
        alone = f": {low} to {high}" if isfinite(verdict.alone[0]) else " there is no interval"
        parts.append(f"Without the archive of earlier studies{alone}.")
    if verdict.needed:
        seeds, draws = verdict.needed
        parts.append(
            f"{counted(seeds, 'seed')} and {counted(draws, 'draw')} would tell, if the gain and the spread stayed as they are."
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
            "other label sets (their spread is taken from earlier studies, because only one was drawn)"
            if borrowed
            else "this label set and no other"
        )
    if collapsed:
        of = f"the {seeds} of {seeds + len(collapsed)} seeds that trained"
        named = ", ".join(map(str, collapsed))
        return f"The interval covers {of} and {labels}; collapsed: {'seed' if len(collapsed) == 1 else 'seeds'} {named}."
    if seeds > 1:
        return f"The interval covers other pretraining seeds and {labels}."
    if this_one:
        return f"The interval covers this one pretraining and {labels}."
    if borrowed:
        return (
            f"The interval covers {labels} and other pretraining seeds; how much these differ is taken from earlier "
            "studies, because only one was run."
        )
    return "One pretraining says nothing of other seeds."


def counted(n: int, thing: str) -> str:
    return f"{n} {thing}" if n == 1 else f"{n} {thing}s"
