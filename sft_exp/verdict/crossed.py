"""Did it help? Paired differences, an interval, and one of four words. docs/standard.md says why each rule is as it is.

Shape legend: S pretraining seeds, D label draws. A difference is (pretrained - scratch) with the same seed and draw.
"""

from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil, isfinite, sqrt
from typing import TypeVar

import numpy as np

LEVEL = 0.95
SILENT_LEVEL = 0.99  # of the other sentences, where the primary one cannot tell
MOST_DRAWS = 100  # counted as affordable
MARGIN = 0.005  # of accuracy, or whatever the score is: less than this is too small to matter
WITHHELD = "no verdict"
SAYS = {
    "helped": "Pretraining helped",
    "hurt": "Pretraining hurt",
    "too small to matter": "The difference is too small to matter",
    "cannot tell": "Cannot tell whether pretraining helped",
    WITHHELD: "No verdict",
}
REMEDY = (
    "Give both arms a lower learning rate (optim.lr), or let each search its own among lower ones (optim.lr=search, "
    "optim.hints.search.lr)."
)
Differences = Sequence[Sequence[float]]  # [S][D]
Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class Verdict:
    word: str  # one of SAYS; WITHHELD where the control did not train
    difference: float  # mean of (pretrained - scratch), a fraction
    low: float | None  # of the interval; None for a single draw, which has none
    high: float | None
    draws: int
    text: str
    level: float = LEVEL  # of the interval


def given_faults(
    found: Verdict, control: str, ours: str = "", names: tuple[str, str] = ("scratch", "pretrained")
) -> Verdict:
    """The verdict, once it is known which trainings of the control and of our arm failed (`health.said`; empty: none).

    A difference from a control that did not train says nothing of pretraining, so no word is given. Our own arm counts as it
    is: a method under which training fails is worse than one under which it does not. But the text says so.
    """
    if control:
        text = (
            f"{SAYS[WITHHELD]}: {names[0]} {control}, so the difference of {100 * found.difference:+.1f} points says nothing "
            f"about pretraining. {REMEDY}"
        )
        return replace(
            found, word=WITHHELD, text=text if not ours else f"{text} {names[1]} {ours}, too."
        )
    return (
        replace(found, text=f"{found.text} {names[1]} {ours}, and counts as it is. {REMEDY}")
        if ours
        else found
    )


def interval(
    differences: Differences, ratio: float = 0.0, level: float = LEVEL
) -> tuple[float, float, float]:
    """(mean, low, high) of the mean difference.

    One seed: paired t over the draws; one draw: over the seeds. Several of both: seed and draw are crossed random factors,
    so that the interval speaks of other seeds and other label sets alike. The variance of the grand mean is then
    (MS_S + MS_D - MS_E) / SD (Searle, Casella & McCulloch, Variance Components, 1992, section 4.5), not less than from
    either factor alone, with Satterthwaite's degrees of freedom (Biometrics Bulletin 2, 1946).

    With `ratio` = images tested / images trained on, the draws' part is widened as Nadeau & Bengio (Machine Learning 52,
    2003, equation 5) ask for folds of one data set, whose training sets overlap: s^2 (1/D + ratio).
    """
    d_SD = np.asarray(differences, dtype=float)
    seeds, draws = d_SD.shape
    mean = float(d_SD.mean())
    if seeds == 1 or draws == 1:
        if d_SD.size < 2:
            return mean, float("-inf"), float("inf")
        half = half_width(float(d_SD.var(ddof=1)), d_SD.size, ratio if seeds == 1 else 0.0, level)
        return mean, mean - half, mean + half
    mean_S, mean_D = d_SD.mean(1), d_SD.mean(0)
    rest_SD = d_SD - mean_S[:, None] - mean_D + mean
    free = (seeds - 1, draws - 1, (seeds - 1) * (draws - 1))
    ms = (draws * mean_S.var(ddof=1), seeds * mean_D.var(ddof=1), (rest_SD**2).sum() / free[2])
    total = max(ms[0] + ms[1] - ms[2], ms[0], ms[1])
    if total <= 0:
        return mean, mean, mean
    if total > max(ms[0], ms[1]):
        degrees = total**2 / sum(m**2 / f for m, f in zip(ms, free, strict=True))
    else:
        degrees = free[0] if ms[0] >= ms[1] else free[1]
    half = quantile(max(degrees, min(seeds, draws) - 1), level) * sqrt(
        total / d_SD.size + ratio * mean_D.var(ddof=1)
    )
    return mean, mean - half, mean + half


def half_width(spread: float, n: int, ratio: float = 0.0, level: float = LEVEL) -> float:
    """How far the interval of the mean of n differences of variance `spread` reaches to each side."""
    return quantile(n - 1, level) * sqrt(spread * (1 / n + ratio))


def quantile(degrees: float, level: float) -> float:
    """Of Student's t, for a two-sided interval."""
    from scipy.special import stdtrit

    return float(stdtrit(degrees, (1 + level) / 2))


def judge(
    differences: Differences,
    ratio: float,
    covers: str,
    margin: float = MARGIN,
    level: float = LEVEL,
    score: str = "accuracy",
) -> Verdict:
    """The verdict on differences of accuracy, or of what else `score` names. The same difference everywhere is *cannot
    tell*: an interval of width 0 proves nothing."""
    mean, low, high = interval(differences, ratio, level)
    every = [d for row in differences for d in row]
    same = (
        max(every) - min(every) < 1e-9
    )  # accuracies are counts over thousands: the rest is rounding
    word = "cannot tell" if same else word_of(low, high, margin)
    several = len(every) > 1
    name = f"{100 * level:.3g} % interval"
    points = f"{100 * mean:+.1f} points" + (
        f" ({name} {100 * low:+.1f} to {100 * high:+.1f})"
        if several
        else " (one draw: no interval)"
    )
    text = f"{SAYS[word]}: {points} of {score} against the same model from scratch."
    if word == "cannot tell" and several and not same and isfinite(high):
        text += f" {enough(differences, mean, high - mean, margin, ratio)}"
    return Verdict(
        word,
        mean,
        low if several else None,
        high if several else None,
        len(every),
        f"{text} {covers}".strip(),
        level,
    )


def word_of(low: float, high: float, margin: float) -> str:
    if -margin <= low and high <= margin:
        return "too small to matter"
    return "helped" if low > 0 else "hurt" if high < 0 else "cannot tell"


def enough(differences: Differences, mean: float, half: float, margin: float, ratio: float) -> str:
    """The draws whose interval would leave out 0, or lie within the margin, if mean and spread stay as they are."""
    d_SD = np.asarray(differences, dtype=float)
    seeds, draws = d_SD.shape
    reach = abs(mean) if abs(mean) >= margin else margin - abs(mean)
    if seeds > 1:
        times = (half / max(reach, 1e-9)) ** 2
        if seeds * times > MOST_DRAWS or draws * times > MOST_DRAWS:
            return f"More than {MOST_DRAWS} seeds or draws would be needed to tell."
        return f"About {ceil(seeds * times)} seeds and {ceil(draws * times)} draws would tell, if it stays so."
    counts = range(draws + 1, MOST_DRAWS + 1)
    needed = next(
        (n for n in counts if half_width(float(d_SD.var(ddof=1)), n, ratio) < reach), None
    )
    return (
        f"{needed} draws would tell, if it stays so."
        if needed
        else f"More than {MOST_DRAWS} draws would be needed to tell."
    )


def judge_all(
    family: Mapping[Key, Differences],
    primary: Collection[Key],
    ratio: float,
    covers: str,
    margin: float = MARGIN,
    score: str = "accuracy",
) -> dict[Key, Verdict]:
    """One verdict a sentence of a report, such that the report holds a false *helped* or *hurt* in at most 6 % of cases.

    The sentences declared primary beforehand share LEVEL among themselves (a single one has it whole). All others share,
    by Bonferroni, LEVEL if a primary one spoke and SILENT_LEVEL if none did: were nothing true, one of the others could
    speak in 5 % of reports only together with a primary one, and otherwise in 1 %.
    """
    first = {
        k: judge(family[k], ratio, covers, margin, shared(LEVEL, len(primary)), score)
        for k in family
        if k in primary
    }
    spoke = any(v.word in ("helped", "hurt") for v in first.values())
    level = shared(LEVEL if spoke or not first else SILENT_LEVEL, len(family) - len(first))
    return {
        k: first[k] if k in first else judge(d, ratio, covers, margin, level, score)
        for k, d in family.items()
    }


def shared(level: float, sentences: int) -> float:
    """The level of each of several intervals that hold all at once with `level` (Bonferroni)."""
    return 1 - (1 - level) / max(1, sentences)
