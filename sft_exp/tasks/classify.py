"""Image classification: a linear head on standardised features, cross-entropy."""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import nn

from sft_exp.core import Task
from sft_exp.errors import require
from sft_exp.heads import fit_linear
from sft_exp.nets import Standardise


@dataclass
class Classify(Task):
    head: str = "probe"  # where the head starts: probe (fitted on the frozen features), random (PyTorch's default)
    ridge: float = 1e-2  # weight of the squared norm in that fit
    standardise: str = "common"  # features to mean 0 and spread 1: common (one scale for all), each, none

    def __post_init__(self):
        require(self.head in ("probe", "random"), "head", self.head, "probe or random")
        require(self.ridge >= 0, "ridge", self.ridge, "0 or more")
        require(self.standardise in ("common", "each", "none"), "standardise", self.standardise, "common, each or none")

    def networks(self, encoder, spec):
        head = nn.Linear(encoder.width, len(spec.classes))
        return nn.ModuleDict({"encoder": encoder, "scale": Standardise(encoder.width), "head": head})

    def prepare(self, nets, data):
        """Scale by the pool's features `data["pool"]` [N, D]; start the head at the labelled ones `data["f"]`, `data["y"]`."""
        if self.standardise != "none":
            nets["scale"].fit(data["pool"], each=self.standardise == "each")
        if self.head == "probe":
            fit_linear(nets["head"], nets["scale"](data["f"]), data["y"], self.ridge)

    def draw(self, batch, rng, progress):
        return batch["labelled"]["x"], batch["labelled"]["y"]

    def loss(self, nets, x_BCHW, y_B):
        logits_BY = self.predict(nets, x_BCHW)
        return F.cross_entropy(logits_BY, y_B), {"accuracy": (logits_BY.argmax(1) == y_B).float().mean()}

    def predict(self, nets, x_BCHW):
        """-> logits [B, Y]"""
        return nets["head"](nets["scale"](nets["encoder"](x_BCHW)))

    def metrics(self, spec):
        from torchmetrics.classification import (
            MulticlassAccuracy,
            MulticlassCalibrationError,
            MulticlassF1Score,
            MulticlassPrecision,
            MulticlassRecall,
        )

        classes = len(spec.classes)
        return nn.ModuleDict(
            {
                "accuracy": MulticlassAccuracy(classes, average="micro"),
                "precision": MulticlassPrecision(classes, average="macro"),
                "recall": MulticlassRecall(classes, average="macro"),
                "f1": MulticlassF1Score(classes, average="macro"),
                "ece": MulticlassCalibrationError(classes, n_bins=15),  # Guo et al., arXiv:1706.04599, equation 3
            }
        )
