"""Multi-label classification: each image has several classes, or none.

A linear head on standardised features gives a logit for each class, which binary cross-entropy
trains, a mean over images and classes. A class is predicted from its own threshold on. Thresholds
maximise F1 on the labelled images (Fan & Lin, 2007), on those of val=holdout where there are any,
and never depend on test images.
"""

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from sft_exp.config.schema import AugmentConfig
from sft_exp.core.task import Task
from sft_exp.core.types import LABEL_SET
from sft_exp.data.augment import view
from sft_exp.errors import require
from sft_exp.models.heads import classifier, multilabel


@dataclass
class Multilabel(Task):
    predicts: ClassVar[str] = "label sets"
    needs: ClassVar[tuple[str, ...]] = (LABEL_SET,)
    decides: ClassVar[bool] = True
    score: ClassVar[str] = "map"
    columns: ClassVar[dict[str, str]] = {
        "map": "mAP",
        "macro_f1": "macro F1",
        "micro_f1": "micro F1",
    }
    of_class: ClassVar[dict[str, str]] = {
        "images": "images",
        "average_precision": "average precision",
        "precision": "precision",
        "recall": "recall",
        "f1": "F1",
        "threshold": "threshold",
    }
    footing: ClassVar[str] = (
        "mAP is the mean of the classes' average precision;"
        " F1 at thresholds that labelled images chose"
    )

    # start of the head: probe (logistic regressions on the frozen features) or random (PyTorch's
    # default)
    head: str = "probe"
    ridge: float = 1e-2  # L2 weight of the probe
    # features to mean 0, sd 1: common (one scale for all; not for closed-form heads), each or none
    standardise: str = "common"
    # probability from which a class is predicted: f1 (each class's own, with the largest F1 on
    # labelled images) or half (0.5)
    thresholds: str = "f1"
    augment: bool = False  # train on augmented views, drawn as the group `augment` says
    views: dict = field(default_factory=lambda: {})  # fields of the group `augment`

    def __post_init__(self):
        classifier.check(self)
        require(self.thresholds in ("f1", "half"), "thresholds", self.thresholds, "f1 or half")
        self.views = self.views if self.augment else {}
        self.how = AugmentConfig.of(self.views)

    def alters(self):
        return self.augment

    def unaltered(self):
        return replace(self, augment=False)

    def networks(self, encoder, spec):
        nets = classifier.networks(encoder, self.of(spec))
        nets["thresholds"] = multilabel.Thresholds(len(self.of(spec).classes))
        return nets

    def prepare(self, nets, data):
        classifier.fit_scale(self, nets, data)
        head: Any = nets["head"]
        if self.head == "probe":
            multilabel.fit_linear(head, nets["scale"](data["f"]), data[LABEL_SET], self.ridge)

    def draw(self, batch, rng, progress):
        x_BCHW = batch["labelled"]["x"]
        return view(x_BCHW, self.how, rng) if self.augment else x_BCHW, batch["labelled"][LABEL_SET]

    def loss(self, nets, x_BCHW, sets_BY):
        logits_BY = classifier.logits(nets, x_BCHW)
        error = F.binary_cross_entropy_with_logits(logits_BY, sets_BY.to(logits_BY))
        correct = ((logits_BY >= 0) == (sets_BY > 0)).float().mean()
        return error, {"accuracy": correct}

    def predict(self, nets, x_BCHW):
        """-> [B, 2, Y]: a logit for each class, and how much it exceeds the class's threshold"""
        return nets["thresholds"](classifier.logits(nets, x_BCHW))

    def decide(self, nets, predictions, targets):
        if self.thresholds == "f1":
            thresholds: Any = nets["thresholds"]
            logits_NY = predictions[:, multilabel.LOGIT]
            thresholds.logit.copy_(multilabel.best_thresholds(logits_NY, targets[LABEL_SET]))

    def metrics(self, spec):
        classes = self.of(spec).classes
        return nn.ModuleDict(
            {"map": multilabel.Ranking(classes), "f1": multilabel.Decisions(classes)}
        )

    def compared(self, predictions, batch):
        return predictions, batch[LABEL_SET]

    def record(self, predictions, batch):
        """`probability` float32, `predicted` and `true` int8, each [B, Y]."""
        return {
            "probability": predictions[:, multilabel.LOGIT].float().sigmoid(),
            "predicted": (predictions[:, multilabel.MARGIN] >= 0).to(torch.int8),
            "true": batch[LABEL_SET].to(torch.int8),
        }

    def examples(self, nets, batch, rng):
        return nets["scale"](nets["encoder"](batch["x"])), batch[LABEL_SET]
