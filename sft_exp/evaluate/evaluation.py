"""Scores of a run's model on labelled images: `evaluate(run, ["dataset.root=photos"])`."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sft_exp import api
from sft_exp.core.arms import MAIN
from sft_exp.core.metric import Metric
from sft_exp.data.images import Images
from sft_exp.errors import DataError
from sft_exp.evaluate import images as image_sets
from sft_exp.evaluate.images import Copy, Own, Scored
from sft_exp.jobs.prepare import further
from sft_exp.progress import bar
from sft_exp.reports.confidence import BINS
from sft_exp.stages import model as models
from sft_exp.stages.model import Model
from sft_exp.store import results
from sft_exp.training.context import pick

Floats = NDArray[np.float64]
TOP = (2, 3, 5)  # values of k for top-k accuracy, where there are more classes
LOG_TEMPERATURES = (-3.0, 3.0)  # where the temperature's logarithm is searched


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
class Evaluation:
    """What a model scores on a set of images."""

    run: str
    splits: int  # labelled splits of the run, of which the first one's model is scored
    data: str  # name of the data set
    manifest: str  # SHA-256 of the images and labels
    which: str  # the images that were scored, in words
    images: int
    score: str  # the task's main metric, a key of `scores`
    scores: dict[str, float]  # of the task, of the run's `metrics`, and of a classifier
    # the ends of the main metric's interval at 95 % (Wilson), of a classifier
    interval: tuple[float, float] | None
    copies: list[Copy]
    # why copies were not looked for; empty if they were
    unchecked: str
    absent: tuple[str, ...]  # classes without an image
    classes: list[ClassScores] = field(default_factory=list)
    confusion: list[list[int]] = field(default_factory=list)  # images by true and predicted class
    calibration: Calibration | None = None
    predictions: Predictions | None = None  # of a classifier
    probabilistic: bool = True  # whether the model has probabilities; an SVM has none


def evaluate(run: str | Path, dataset: Sequence[str] = (), *, device: str = "auto") -> Evaluation:
    """Score a finished run's model, that of the first labelled split.

    Args:
        run: folder of the run.
        dataset: the images, as overrides `dataset=NAME`, `dataset.key=value`; those that are not
            named are the run's. Empty: the run's own test images.
        device: auto, cpu, cuda, cuda:1 or mps.

    Raises:
        ConfigError: an override that is not valid.
        DataError: not a run, images that cannot be read, classes that the model does not know.
    """
    run = Path(run)
    result = results.read(run)
    model = models.load(models.folder_of(run), pick(device))
    spec = model.task.of(model.spec)
    if dataset:
        scored, own = image_sets.new(result, dataset, spec), image_sets.own_if_present(run)
    else:
        scored, own = image_sets.own(run)
    if not len(scored.images):
        raise DataError(f"{scored.name}: no image has a label")
    metrics = further(api.reopen(run))
    scores, logits_NK = measured(model, metrics, scored.images, pick(device))
    classifies = model.task.predicts == "classes"
    found = image_sets.copies(scored.images, own.pools) if own.pools else []
    common: dict[str, Any] = {
        "run": str(run),
        "splits": len(result.draws.get(MAIN, [])) or 1,
        "data": scored.name,
        "manifest": scored.manifest,
        "which": scored.which,
        "images": len(scored.images),
        "score": model.task.score,
        "copies": found,
        "unchecked": "" if own.pools else own.why,
        "absent": scored.absent,
        "probabilistic": model.probabilistic,
    }
    if not classifies:
        return Evaluation(scores=scores, interval=None, **common)
    return classified(model, scored, own, scores, logits_NK.double().numpy(), common)


@torch.no_grad()
def measured(
    model: Model, metrics: Sequence[Metric], images: Images, device: torch.device
) -> tuple[dict[str, float], Tensor]:
    """-> (scores of the task and of the metrics, the task's predictions for classes [N, K])."""
    spec = model.task.of(model.spec)
    parts: dict[str, Any] = {
        name: metric
        for name, metric in model.task.metrics(model.spec).items()
        if model.probabilistic or name not in models.NEED_PROBABILITIES
    }
    parts |= {
        metric.key: metric.build(spec)
        for metric in metrics
        if model.probabilistic or not metric.needs_probabilities
    }
    for metric in parts.values():
        metric.to(device)
    outputs: list[Tensor] = []
    rows = torch.arange(len(images)).split(models.at_once(images))
    with bar("evaluate", len(images)) as advance:
        for batch in images.batches(rows, device):
            predictions = model.predict(batch["x"])
            for metric in parts.values():
                metric.update(*model.task.compared(predictions, batch))
            if model.task.predicts == "classes":
                outputs.append(predictions.cpu())
            advance(int(batch["row"][-1]) + 1, "")
    scores: dict[str, float] = {}
    for name, metric in parts.items():
        scores |= models.named(name, metric.compute(), spec)
    return scores, torch.cat(outputs) if outputs else torch.empty(0)


def classified(
    model: Model,
    scored: Scored,
    own: Own,
    scores: dict[str, float],
    logits_NK: Floats,
    common: dict[str, Any],
) -> Evaluation:
    """The evaluation of a classifier, from its logits."""
    from scipy.stats import binomtest
    from sklearn.metrics import accuracy_score, confusion_matrix

    true_N = scored.images.y.cpu().numpy()
    names = model.task.of(model.spec).classes
    count = len(names)
    predicted_N = logits_NK.argmax(1)
    correct = int((predicted_N == true_N).sum())
    ends = binomtest(correct, len(true_N)).proportion_ci(method="wilson")
    copied = {name for name, _, _ in common["copies"]}
    apart_N = np.array([name not in copied for name in scored.images.ids])
    if 0 < apart_N.sum() < len(apart_N):
        scores["accuracy_apart"] = float(accuracy_score(true_N[apart_N], predicted_N[apart_N]))
    classes = by_class(true_N, logits_NK, names, model.probabilistic)
    scores |= ranked(true_N, logits_NK, count)
    calibration, scaled_NK = None, None
    if model.probabilistic:
        for name in ("auroc", "average_precision"):
            known = [v for c in classes if (v := getattr(c, name)) is not None]
            if known:
                scores[name] = float(np.mean(known))  # macro average
        calibration, scaled_NK = calibrated(model, own, true_N, logits_NK)
        scores["log_loss"] = calibration.log_loss
    return Evaluation(
        scores=scores,
        interval=(float(ends.low), float(ends.high)),
        classes=classes,
        confusion=confusion_matrix(true_N, predicted_N, labels=range(count)).tolist(),
        calibration=calibration,
        predictions=Predictions(
            list(scored.images.ids), true_N, logits_NK, scaled_NK, scored.images
        ),
        **common,
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
    model: Model, own: Own, true_N: NDArray[np.int64], logits_NK: Floats
) -> tuple[Calibration, Floats | None]:
    """-> (calibration, probabilities [N, K] at the temperature or None).

    The temperature is fitted on the run's held-out labels alone, never on the scored images.
    """
    p_NK = softmax(logits_NK)
    before = ece(p_NK, true_N), loss(p_NK, true_N)
    if own.held_out is None:
        return Calibration(*before, None, None, None, 0, own.why), None
    device = next(model.nets.parameters()).device
    _, outputs_MK = measured(model, (), own.held_out, device)
    held_out_MK, y_M = outputs_MK.double().numpy(), own.held_out.y.cpu().numpy()
    if (held_out_MK.argmax(1) == y_M).all():  # the log loss falls without end as T goes to 0
        why = f"the model is right on all {len(y_M)} held-out labels, which fit no temperature"
        return Calibration(*before, None, None, None, len(y_M), why), None
    t = temperature(held_out_MK, y_M)
    scaled_NK = softmax(logits_NK / t)
    after = ece(scaled_NK, true_N), loss(scaled_NK, true_N)
    return Calibration(*before, t, *after, len(own.held_out), ""), scaled_NK


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
    """Expected calibration error of the largest probability."""
    from torchmetrics.functional.classification import multiclass_calibration_error

    return float(
        multiclass_calibration_error(
            torch.from_numpy(p_NK), torch.from_numpy(true_N), p_NK.shape[1], n_bins=BINS
        )
    )
