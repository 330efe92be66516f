"""Scores of a run's model on labelled images: `evaluate(run, ["dataset.root=photos"])`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sft_exp import api
from sft_exp.core.arms import MAIN
from sft_exp.core.metric import Metric
from sft_exp.core.score import ACCURACY, with_balanced
from sft_exp.data.images import Images
from sft_exp.errors import DataError
from sft_exp.evaluate import images as image_sets
from sft_exp.evaluate.images import Copy, Own, Scored
from sft_exp.jobs.prepare import further
from sft_exp.progress import bar
from sft_exp.reports import classification
from sft_exp.reports.classification import Classified, Floats, HeldOut
from sft_exp.reports.page import Grid
from sft_exp.stages import model as models
from sft_exp.stages.model import Model
from sft_exp.store import results
from sft_exp.training.context import pick


@dataclass(frozen=True, kw_only=True)
class Evaluation(Classified):
    """What a model scores on a set of images: scores of the task, of the run's `metrics`, and of a
    classifier."""

    run: str
    splits: int  # labelled splits of the run, of which the first one's model is scored
    data: str  # name of the data set
    manifest: str  # SHA-256 of the images and labels
    which: str  # the images that were scored, in words
    images: int
    score: str  # the metric by which the run was judged, a key of `scores`
    # the ends of the accuracy's interval at 95 % (Wilson), of a classifier that is judged by it
    interval: tuple[float, float] | None
    copies: list[Copy]
    # why copies were not looked for; empty if they were
    unchecked: str
    absent: tuple[str, ...]  # classes without an image
    # of a multi-label model: the table of its classes, which has their scores in words
    of_classes: Grid | None = None


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
        scored, own = (
            image_sets.new(run, dataset, model.task, model.spec),
            image_sets.own_if_present(run),
        )
    else:
        scored, own = image_sets.own(run)
    if not len(scored.images):
        raise DataError(f"{scored.name}: no image has a label")
    metrics = further(api.reopen(run))
    scores, logits_NK = measured(model, metrics, scored.images, pick(device))
    classifies = model.task.predicts == "classes"
    # as the run was judged, whose classes may be unequal
    judged = result.score if classifies else model.task.score
    scores = with_balanced(scores, judged)
    found = image_sets.copies(scored.images, own.pools) if own.pools else []
    common: dict[str, Any] = {
        "run": str(run),
        "splits": len(result.draws.get(MAIN, [])) or 1,
        "data": scored.name,
        "manifest": scored.manifest,
        "which": scored.which,
        "images": len(scored.images),
        "score": judged,
        "copies": found,
        "unchecked": "" if own.pools else own.why,
        "absent": scored.absent,
    }
    if not classifies:
        heads = model.task.of_class
        return Evaluation(
            scores=scores,
            interval=None,
            probabilistic=model.probabilistic,
            of_classes=classification.table_of_classes(scores, spec.classes, heads)
            if heads
            else None,
            **common,
        )
    return of_classifier(model, scored, own, scores, logits_NK.double().numpy(), common)


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


def of_classifier(
    model: Model,
    scored: Scored,
    own: Own,
    scores: dict[str, float],
    logits_NK: Floats,
    common: dict[str, Any],
) -> Evaluation:
    """The evaluation of a classifier, from its logits."""
    from scipy.stats import binomtest
    from sklearn.metrics import accuracy_score

    true_N = scored.images.y.cpu().numpy()
    predicted_N = logits_NK.argmax(1)
    correct = int((predicted_N == true_N).sum())
    ends = binomtest(correct, len(true_N)).proportion_ci(method="wilson")
    copied = {name for name, _, _ in common["copies"]}
    apart_N = np.array([name not in copied for name in scored.images.ids])
    if 0 < apart_N.sum() < len(apart_N):
        scores["accuracy_apart"] = float(accuracy_score(true_N[apart_N], predicted_N[apart_N]))
    names = model.task.of(model.spec).classes
    found = classification.classified(
        scored.images,
        logits_NK,
        names,
        held_out(model, own),
        probabilistic=model.probabilistic,
    )
    shared = {**vars(found), "scores": scores | found.scores}
    interval = (float(ends.low), float(ends.high)) if common["score"] == ACCURACY else None
    return Evaluation(**shared, interval=interval, **common)


def held_out(model: Model, own: Own) -> HeldOut:
    """The logits of the run's held-out labels, on which alone a temperature is fitted."""
    if own.held_out is None or not model.probabilistic:
        none = np.empty((0, len(model.task.of(model.spec).classes)))
        return HeldOut(none, np.empty(0, np.int64), own.why)
    device = next(model.nets.parameters()).device
    _, outputs_MK = measured(model, (), own.held_out, device)
    return HeldOut(outputs_MK.double().numpy(), own.held_out.y.cpu().numpy())
