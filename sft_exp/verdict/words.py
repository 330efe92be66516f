"""The words of a verdict, its text of at most two sentences, and the notes beside it."""

from dataclasses import asdict, dataclass, replace
from math import inf, isfinite
from typing import Any

# word of a verdict -> how its text begins
SAYS = {
    "cannot tell": "Cannot tell whether pretraining helped",
    "helped": "Pretraining helped",
    "hurt": "Pretraining hurt",
    "too small to matter": "The difference is too small to matter",
}
# the same for a verdict on a single pretraining
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
    """The verdict on one comparison, with the numbers that it follows from.

    Scores are proportions, or have the unit of the score. `record` writes the fields under their
    names to results.json and study.json.
    """

    word: str  # one of SAYS
    difference: float  # mean of (pretrained - scratch) over the seeds that trained
    low: float  # bounds of the printed interval; infinite where nothing is known
    high: float
    level: float  # of this interval by itself; the intervals of a report hold simultaneously
    p: float  # p-value of the two-sided test that the gain is 0
    p_equivalence: float  # p-value of the test that the gain is outside of the margin
    alone: tuple[float, float]  # the interval of the same level without the archive
    seeds: int  # number of seeds that trained
    draws: int  # number of labelled splits
    collapsed: tuple[int, ...]  # indices of the seeds that did not train
    covers: str  # what the interval covers
    text: str  # at most two sentences
    # for a single pretraining: the verdict on it, which says nothing about other seeds
    this: "Verdict | None" = None
    # seeds and draws that would suffice if gain and spread stayed as they are
    needed: tuple[int, int] | None = None
    notes: tuple[str, ...] = ()  # sentences that a page shows beside the text

    def record(self) -> dict[str, Any]:
        """The verdict for a JSON file, which has no infinite numbers: an unknown bound is None."""
        return {name: finite(value) for name, value in asdict(self).items()}

    @classmethod
    def read(cls, record: dict[str, Any]) -> "Verdict":
        """The verdict that `record` wrote; keys that are no fields are ignored."""
        low, high = with_infinities(record["low"], record["high"])
        values = {name: record[name] for name in cls.__dataclass_fields__ if name in record}
        values |= {
            "low": low,
            "high": high,
            "alone": with_infinities(*record["alone"]),
            "collapsed": tuple(record["collapsed"]),
            "this": cls.read(record["this"]) if record["this"] else None,
            "needed": tuple(record["needed"]) if record["needed"] else None,
            "notes": tuple(record.get("notes", ())),
        }
        return cls(**values)


def with_infinities(low: float | None, high: float | None) -> tuple[float, float]:
    """The bounds of an interval from a JSON file, in which None stands for an infinite one."""
    return -inf if low is None else low, inf if high is None else high


def finite(value: Any) -> Any:
    """The value with None for every infinite number in it; tuples become lists, as in JSON."""
    if isinstance(value, dict):
        return {name: finite(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite(inner) for inner in value]
    return None if isinstance(value, float) and not isfinite(value) else value


def withhold(verdict: Verdict, control: str, pretrained: str) -> Verdict:
    """Withhold a verdict because the control's training failed, so that its score is no baseline.

    `control` and `pretrained` say how trainings of the two arms failed; `pretrained` may be empty.
    """
    both = f", and pretrained {pretrained}" if pretrained else ""
    text = (
        f"{SAYS[WITHHELD]}: scratch {control}{both}, so the difference of "
        f"{100 * verdict.difference:+.1f} points says nothing about pretraining. {REMEDY}"
    )
    return replace(verdict, word=WITHHELD, text=text)


def with_failure(verdict: Verdict, pretrained: str) -> Verdict:
    """Add to the text of a verdict that the training of the pretrained arm failed, and how.

    The arm's scores count as they are, because failing is a property of the method.
    """
    counts = "" if verdict.collapsed else ", and counts as it is"
    text = f"{verdict.text.removesuffix('.')}; pretrained {pretrained}{counts}."
    return replace(verdict, text=text, notes=(*verdict.notes, REMEDY))


def amount(x: float, points: bool) -> str:
    """A signed difference, in points (hundredths) or with three significant digits."""
    return f"{100 * x:+.1f}" if points else f"{x:+.3g}"


def bounds(low: float, high: float, points: bool) -> str:
    """An interval as text: `+1.6 to +2.5`."""
    return f"{amount(low, points)} to {amount(high, points)}"


@dataclass(frozen=True)
class Coverage:
    """What an interval covers: which pretraining seeds and which labelled splits."""

    seeds: str
    labels: str
    sentence: str

    @classmethod
    def of(
        cls,
        seeds: int,
        draws: int,
        collapsed: tuple[int, ...],
        *,
        all_labels: bool,
        folds: bool,
        borrowed: bool,
        this_one: bool,
        spread: bool = True,
    ) -> "Coverage":
        """The coverage of the interval of a comparison.

        Args:
            seeds: number of seeds that trained.
            draws: number of labelled splits.
            collapsed: indices of the seeds that did not train.
            all_labels: all labels are used, so there are no other labelled splits.
            folds: the labelled splits are folds of one data set.
            borrowed: the archive of earlier studies was used.
            this_one: the verdict is on this one pretraining.
            spread: the gains differ from each other.
        """
        studies = ", whose spread is that of earlier studies"
        one_split = draws == 1 and not all_labels
        if one_split:
            labels = f"other label sets{studies}" if borrowed else "this label set and no other"
        else:
            labels = "other folds" if folds else "other label sets"
        if all_labels:
            other_runs = "other fine-tuning runs with all labels"
            labels = other_runs if seeds == 1 else "the one set of all labels"
        if collapsed:
            plural = "seed" if len(collapsed) == 1 else "seeds"
            which = f"{plural} {', '.join(map(str, collapsed))} collapsed"
            runs = f"the {seeds} of {seeds + len(collapsed)} seeds that trained ({which})"
        elif this_one:
            runs = "this one pretraining"
        else:
            runs = "other pretraining seeds" + (f"{studies}," if seeds == 1 else "")
        if seeds == 1 and draws == 1:
            sentence = "One run of each arm has no interval."
        elif seeds == 1 and not (collapsed or this_one or borrowed):
            sentence = "One pretraining says nothing about other seeds."
        elif not spread:
            sentence = "Gains without any spread have no interval."
        else:
            sentence = f"The interval covers {runs} and {labels}."
        return cls(runs, labels, sentence)


def text_of(
    verdict: Verdict,
    coverage: Coverage,
    score: str,
    against: str,
    points: bool,
    comparisons: int,
    alpha: float,
    *,
    equal: bool,
    judged_alone: bool,
    this_one: bool,
) -> str:
    """The verdict in at most two sentences: word, gain and interval, and what the interval covers.

    For a single pretraining (`verdict.this`) the second sentence is the verdict on that one.

    Args:
        verdict: the verdict, whose text is written.
        coverage: what its interval covers.
        score: name of the score.
        against: name of the control.
        points: numbers are given in points (hundredths).
        comparisons: number of comparisons in the report.
        alpha: the error rate of the report's intervals together.
        equal: every gain is the same number.
        judged_alone: the interval is not the simultaneous one, but that of the level at which
            Holm's test rejected.
        this_one: the verdict is on this one pretraining.
    """
    this = verdict.this if verdict.this and isfinite(verdict.this.low) else None
    word = (THIS_ONE if this_one else SAYS)[verdict.word]
    if equal:
        word += ", because every gain is the same number"
    unit = f"points of {score}" if points else f"of {score}"
    gain = f"{amount(verdict.difference, points)} {unit} against {against}"
    interval = bounds(verdict.low, verdict.high, points)
    if this:
        interval += f" for {coverage.seeds} and {coverage.labels}"
    if not isfinite(verdict.low):
        interval = "one pretraining gives no interval for other seeds" if this else ""
    elif comparisons == 1:
        interval = f"{100 * verdict.level:.3g} % interval {interval}"
    elif judged_alone:
        level = f"{100 * verdict.level:.4g} %"
        interval += f" at {level}, the level it was judged at among {comparisons} comparisons"
    else:
        interval += f"; {100 * (1 - alpha):g} % for all {comparisons} intervals together"
    first = f"{word}: {gain} ({interval})." if interval else f"{word}: {gain}."
    if this is None:
        return f"{first} {coverage.sentence}"
    own = bounds(this.low, this.high, points) + (" points" if points else "")
    return f"{first} {THIS_ONE[this.word]}: {own} for {coverage.labels}."


def notes_of(verdict: Verdict, points: bool, margin: float, *, borrowed: bool) -> tuple[str, ...]:
    """Sentences on a verdict's test of equivalence, its interval without the archive, and the
    numbers of seeds and draws that would suffice.

    Args:
        verdict: the verdict.
        points: numbers are given in points (hundredths).
        margin: the largest difference that is too small to matter.
        borrowed: the archive of earlier studies was used.
    """
    notes = []
    if verdict.word == WORDS[SMALL]:
        size = f"{100 * margin:g} points" if points else f"{margin:g}"
        notes.append(f"Two one-sided tests place the difference within {size} of zero.")
    if borrowed and isfinite(verdict.low):
        known = isfinite(verdict.alone[0])
        nothing = " there is no interval" + (" for other seeds" if verdict.this else "")
        alone = f": {bounds(*verdict.alone, points)}" if known else nothing
        notes.append(f"Without the archive of earlier studies{alone}.")
    if verdict.needed:
        seeds, draws = verdict.needed
        notes.append(
            f"{with_unit(seeds, 'seed')} and {with_unit(draws, 'draw')} would be enough to tell, "
            "if the gain and the spread stayed as they are."
        )
    return tuple(notes)


def with_unit(n: int, noun: str) -> str:
    """A number with its noun in the singular or plural: `1 seed`, `3 seeds`."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"
