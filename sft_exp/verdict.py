"""Did it help? Paired differences, an interval, and one of three words."""

from dataclasses import dataclass
from math import sqrt
from statistics import fmean, variance

LEVEL = 0.95


@dataclass(frozen=True)
class Verdict:
    word: str  # helped, hurt, cannot tell
    difference: float  # mean over draws of (pretrained - scratch), a fraction
    low: float | None  # of the 95 % interval; None for a single draw, which has none
    high: float | None
    draws: int
    text: str


def interval(differences: list[float], ratio: float = 0.0) -> tuple[float, float, float]:
    """(mean, low, high): the 95 % paired-t interval of the mean difference.

    With `ratio` = images tested / images trained on, the variance is that of Nadeau & Bengio (Machine Learning 52, 2003,
    equation 5) for folds of one data set, whose training sets overlap: s^2 (1/n + ratio).
    """
    n, mean = len(differences), fmean(differences)
    if n < 2:
        return mean, float("-inf"), float("inf")
    half = half_width(variance(differences), n, ratio)
    return mean, mean - half, mean + half


def half_width(spread: float, n: int, ratio: float = 0.0) -> float:
    """How far the interval of the mean of n differences of variance `spread` reaches to each side."""
    from scipy.stats import t

    return float(t.ppf((1 + LEVEL) / 2, n - 1)) * sqrt(spread * (1 / n + ratio))


def judge(pretrained: list[float], scratch: list[float], ratio: float, covers: str) -> Verdict:
    """The verdict on accuracies paired by draw. The same difference in every draw is *cannot tell*: an interval of width 0
    proves nothing."""
    differences = [a - b for a, b in zip(pretrained, scratch, strict=True)]
    mean, low, high = interval(differences, ratio)
    same = max(differences) - min(differences) < 1e-9  # accuracies are counts over thousands: the rest is rounding
    word = "cannot tell" if same or low <= 0 <= high else "helped" if low > 0 else "hurt"
    points = f"{100 * mean:+.1f} points" + (
        f" (95 % interval {100 * low:+.1f} to {100 * high:+.1f})" if len(differences) > 1 else " (one draw: no interval)"
    )
    says = {"helped": "Pretraining helped", "hurt": "Pretraining hurt", "cannot tell": "Cannot tell whether pretraining helped"}[
        word
    ]
    text = f"{says}: {points} of accuracy against the same model from scratch. {covers}"
    several = len(differences) > 1
    return Verdict(word, mean, low if several else None, high if several else None, len(differences), text)
