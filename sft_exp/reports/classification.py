"""What a classifier's logits say: the scores of each class, top-k accuracy, calibration, mistakes.

Scores are computed by scikit-learn. Reports of runs and `sft_exp evaluate` share
all of it.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from sft_exp.data.images import Images
from sft_exp.models.heads.regressor import Numbers
from sft_exp.reports import confidence
from sft_exp.reports.confidence import BINS
from sft_exp.reports.drawing import Picture
from sft_exp.reports.page import Grid

Floats = NDArray[np.float64]
TOP = (2, 3, 5)  # values of k for top-k accuracy, where there are more classes
LOG_TEMPERATURES = (-3.0, 3.0)  # where the temperature's logarithm is searched
UNITS = ("log_loss", *Numbers.raw)  # scores that are no fractions
OF_CLASS = {  # a field of ClassScores -> head of its column
    "images": "images",
    "precision": "precision",
    "recall": "recall",
    "f1": "F1",
    "auroc": "AUROC",
    "average_precision": "average precision",
}
NUMBERS = (*OF_CLASS.values(), "threshold", "value", "p")  # heads of columns of numbers


@dataclass(frozen=True)
class ClassScores:
    """The scores of one class; None where they are undefined."""

    name: str
    images: int
    precision: float
    recall: float
    f1: float
    auroc: float | None  # against all other classes
    average_precision: float | None


@dataclass(frozen=True)
class Calibration:
    """Guo et al., arXiv:1706.04599: expected calibration error (equation 3, 15 bins) and log loss,
    before and after the logits are divided by a temperature (section 4.2)."""

    ece: float
    log_loss: float
    temperature: float | None  # None: there were no labels to fit it on
    ece_scaled: float | None
    log_loss_scaled: float | None
    fitted_on: int  # labelled images of the run that its model was not trained on
    why: str  # why there is no temperature


@dataclass(frozen=True)
class Predictions:
    """The predictions of a classifier for N images and K classes."""

    ids: list[str]
    true: NDArray[np.int64]  # [N]
    logits: Floats  # [N, K]
    scaled: Floats | None  # probabilities [N, K] at the fitted temperature
    images: Images

    @property
    def probabilities(self) -> Floats:
        """Softmax of the logits, [N, K]."""
        return softmax(self.logits)

    @property
    def predicted(self) -> NDArray[np.int64]:
        """The classes with the largest logits, [N]."""
        return self.logits.argmax(1)

    def mistakes(self) -> list[int]:
        """Positions of the wrong predictions, the most confident first."""
        confidence_N = self.probabilities.max(1)
        wrong = np.flatnonzero(self.predicted != self.true)
        return wrong[np.argsort(-confidence_N[wrong], kind="stable")].tolist()


@dataclass(frozen=True)
class HeldOut:
    """Labelled images of a run that its model was not trained on, for a temperature."""

    logits: Floats  # [M, K]
    true: NDArray[np.int64]  # [M]
    why: str = ""  # why there are none


@dataclass(frozen=True, kw_only=True)
class Classified:
    """What the logits of a classifier say of some images; empty for models of other tasks."""

    scores: dict[str, float]
    classes: list[ClassScores] = field(default_factory=list)
    confusion: list[list[int]] = field(default_factory=list)  # images by true and predicted class
    calibration: Calibration | None = None
    predictions: Predictions | None = None
    probabilistic: bool = True  # whether the model has probabilities; an SVM has none


def classified(
    images: Images,
    logits_NK: Floats,
    names: Sequence[str],
    held_out: HeldOut,
    *,
    probabilistic: bool,
) -> Classified:
    """The scores that follow from logits.

    The temperature is fitted on the held-out labels alone, never on the images.
    """
    from sklearn.metrics import confusion_matrix

    true_N, count = images.y.cpu().numpy(), len(names)
    classes = by_class(true_N, logits_NK, names, probabilistic)
    scores, calibration, scaled_NK = ranked(true_N, logits_NK, count), None, None
    if probabilistic:
        for name in ("auroc", "average_precision"):
            known = [v for c in classes if (v := getattr(c, name)) is not None]
            if known:
                scores[name] = float(np.mean(known))  # macro average
        calibration, scaled_NK = calibrated(true_N, logits_NK, held_out)
        scores["log_loss"] = calibration.log_loss
    return Classified(
        scores=scores,
        classes=classes,
        confusion=confusion_matrix(true_N, logits_NK.argmax(1), labels=range(count)).tolist(),
        calibration=calibration,
        predictions=Predictions(list(images.ids), true_N, logits_NK, scaled_NK, images),
        probabilistic=probabilistic,
    )


def by_class(
    true_N: NDArray[np.int64], logits_NK: Floats, names: Sequence[str], probabilistic: bool
) -> list[ClassScores]:
    """The scores of each class. Ranking scores need probabilities, and images of other classes."""
    from sklearn.metrics import (
        average_precision_score,
        precision_recall_fscore_support,
        roc_auc_score,
    )

    precision, recall, f1, support = precision_recall_fscore_support(
        true_N, logits_NK.argmax(1), labels=range(len(names)), zero_division=0.0
    )
    p_NK, rows = softmax(logits_NK), []
    for k, name in enumerate(names):
        own_N = true_N == k
        ranks = probabilistic and 0 < own_N.sum() < len(own_N)
        rows.append(
            ClassScores(
                name,
                int(support[k]),
                float(precision[k]),
                float(recall[k]),
                float(f1[k]),
                float(roc_auc_score(own_N, p_NK[:, k])) if ranks else None,
                float(average_precision_score(own_N, p_NK[:, k])) if ranks else None,
            )
        )
    return rows


def ranked(true_N: NDArray[np.int64], logits_NK: Floats, count: int) -> dict[str, float]:
    """Top-k accuracies, for each k in TOP below the number of classes."""
    from sklearn.metrics import top_k_accuracy_score

    return {
        f"top_{k}": float(top_k_accuracy_score(true_N, logits_NK, k=k, labels=range(count)))
        for k in TOP
        if k < count
    }


def calibrated(
    true_N: NDArray[np.int64], logits_NK: Floats, held_out: HeldOut
) -> tuple[Calibration, Floats | None]:
    """-> (calibration, probabilities [N, K] at the temperature or None)."""
    p_NK, count = softmax(logits_NK), len(held_out.true)
    before = ece(p_NK, true_N), loss(p_NK, true_N)
    if not count:
        return Calibration(*before, None, None, None, 0, held_out.why), None
    if (held_out.logits.argmax(1) == held_out.true).all():
        # the log loss falls without end as T goes to 0
        why = f"the model is right on all {count} held-out labels, which fit no temperature"
        return Calibration(*before, None, None, None, count, why), None
    t = temperature(held_out.logits, held_out.true)
    scaled_NK = softmax(logits_NK / t)
    after = ece(scaled_NK, true_N), loss(scaled_NK, true_N)
    return Calibration(*before, t, *after, count, ""), scaled_NK


def temperature(logits_NK: Floats, true_N: NDArray[np.int64]) -> float:
    """The T > 0 that minimises the log loss of softmax(logits / T)."""
    from scipy.optimize import minimize_scalar

    found = minimize_scalar(
        lambda log_t: loss(softmax(logits_NK / np.exp(log_t)), true_N),
        bounds=LOG_TEMPERATURES,
        method="bounded",
    )
    return float(np.exp(found.x))


def softmax(logits_NK: Floats) -> Floats:
    from scipy.special import softmax as of_logits

    return of_logits(logits_NK, axis=1)


def loss(p_NK: Floats, true_N: NDArray[np.int64]) -> float:
    """Mean negative log likelihood of the labels, in nats."""
    from sklearn.metrics import log_loss

    return float(log_loss(true_N, p_NK, labels=range(p_NK.shape[1])))


def ece(p_NK: Floats, true_N: NDArray[np.int64]) -> float:
    """Expected calibration error of the largest probability, over BINS bins of equal width.

    torchmetrics has the same, but its import takes longer than to draw a page.
    """
    p_N, right_N = p_NK.max(1), p_NK.argmax(1) == true_N
    bin_N = np.digitize(p_N, np.linspace(0, 1, BINS + 1))
    return float(np.abs(np.bincount(bin_N, weights=right_N - p_N)).sum() / len(p_N))


def about_calibration(found: Classified) -> str:
    """The temperature and what it changes, or why there is none."""
    calibration = found.calibration
    if calibration is None:
        return "The model has no probabilities (SVM): no AUROC, no calibration."
    if calibration.temperature is None:
        return f"No temperature scaling: {calibration.why}."
    return (
        f"Temperature {calibration.temperature:.2f}, fitted on {calibration.fitted_on} "
        "labels that the run had held out: calibration error "
        f"{100 * (calibration.ece_scaled or 0):.1f} % instead of {100 * calibration.ece:.1f} %, "
        f"log loss {calibration.log_loss_scaled:.3f} instead of {calibration.log_loss:.3f}."
    )


def shown(name: str, value: float) -> str:
    """A fraction in per cent; in its own units if it is none. `name` may have a task's name in front."""
    fraction = name.rpartition("/")[2] not in UNITS and 0 <= value <= 1
    return f"{100 * value:.1f} %" if fraction else f"{value:.4g}"


def scores_table(found: Classified) -> Grid:
    return ["score", "value"], [[n, shown(n, v)] for n, v in found.scores.items()]


def classes_table(found: Classified) -> Grid:
    """The scores of each class of a classifier."""
    scores = {f"{m}/{c.name}": getattr(c, m) for c in found.classes for m in OF_CLASS}
    return table_of_classes(scores, [c.name for c in found.classes], OF_CLASS)


def table_of_classes(
    scores: Mapping[str, float | None], names: Sequence[str], heads: Mapping[str, str]
) -> Grid:
    """A row for each class, with its scores `metric/class` under the head of each metric. Fractions
    are in per cent, but for thresholds."""

    def cell(metric: str, value: float | None) -> str:
        if value is None:
            return "-"
        if metric == "images":
            return f"{value:,.0f}"
        return f"{value:.2f}" if metric == "threshold" else f"{100 * value:.1f}"

    body = [[n, *(cell(m, scores.get(f"{m}/{n}")) for m in heads)] for n in names]
    return ["class", *heads.values()], body


def mistakes_table(found: Classified, count: int) -> Grid:
    """The most confident mistakes, at most `count`; none without probabilities."""
    head: list[str] = ["file", "label", "predicted", "p"]
    predictions, names = found.predictions, [c.name for c in found.classes]
    if predictions is None or not found.probabilistic:
        return head, []
    p_NK = predictions.probabilities
    return head, [
        [
            predictions.ids[n],
            names[predictions.true[n]],
            names[k := int(predictions.predicted[n])],
            f"{100 * p_NK[n, k]:.1f} %",
        ]
        for n in predictions.mistakes()[:count]
    ]


def pictures(found: Classified, mistakes: int) -> Iterator[Picture]:
    """Calibration, precision and recall, and the images of so many mistakes; nothing without
    probabilities."""
    predictions, names = found.predictions, [c.name for c in found.classes]
    if predictions is None or found.calibration is None:
        return
    p_NK, correct_N = predictions.probabilities, predictions.predicted == predictions.true
    curves = {"as predicted": (p_NK.max(1), correct_N)}
    title = f"Calibration error {100 * found.calibration.ece:.1f} %"
    if predictions.scaled is not None and found.calibration.ece_scaled is not None:
        curves["temperature-scaled"] = (predictions.scaled.max(1), correct_N)
        title += f", temperature-scaled {100 * found.calibration.ece_scaled:.1f} %"
    yield confidence.calibration(curves, title)
    ranked = {
        c.name: (predictions.true == k, p_NK[:, k], c.average_precision)
        for k, c in enumerate(found.classes)
        if c.average_precision is not None
    }
    if ranked:
        yield confidence.precision_recall(ranked)
    wrong = predictions.mistakes()
    if rows := wrong[:mistakes]:
        titles = [
            (names[predictions.true[n]], names[k := int(predictions.predicted[n])], p_NK[n, k])
            for n in rows
        ]
        yield confidence.mistakes(predictions.images, rows, titles, len(wrong))
