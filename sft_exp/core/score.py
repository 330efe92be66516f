"""The score by which classifiers are judged: accuracy, or balanced accuracy where classes are unequal."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean

ACCURACY, BALANCED, RECALL = "accuracy", "balanced_accuracy", "recall"
NAMES = {ACCURACY: "accuracy", BALANCED: "balanced accuracy"}
# share of the commonest class above which accuracy mostly measures how often that class is
# predicted
UNEQUAL = 0.6


def commonest(labels: Iterable[int]) -> tuple[float, int]:
    """(share of the commonest class among the known labels, that class); known ones are 0 or more."""
    counts = Counter(label for label in labels if label >= 0)
    if not counts:
        return 0.0, 0
    label, count = counts.most_common(1)[0]
    return count / counts.total(), label


def judged_by(*splits: Iterable[int]) -> str:
    """The score that follows from the labels of the training images and of the test images."""
    return BALANCED if max(commonest(labels)[0] for labels in splits) > UNEQUAL else ACCURACY


def balanced_accuracy(answers: Sequence[tuple[int, int]]) -> float:
    """Balanced accuracy of (label, class predicted) of each image.

    As in every evaluation, a class that is predicted and is the label of no image has recall 0.
    """
    right = {label: 0 for answer in answers for label in answer}
    total = Counter(label for label, _ in answers)
    for label, predicted in answers:
        right[label] += label == predicted
    return fmean(n / max(1, total[label]) for label, n in right.items())


def with_balanced(scores: Mapping[str, float], score: str) -> dict[str, float]:
    """The scores of one model, with its balanced accuracy if that is the score.

    Balanced accuracy is the mean of the classes' recalls (Brodersen et al., ICPR 2010, equation 6),
    which every evaluation has as its macro recall.
    """
    if score != BALANCED or RECALL not in scores:
        return dict(scores)
    return {BALANCED: scores[RECALL], **scores}
