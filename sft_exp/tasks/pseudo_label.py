"""Pseudo-label: the most likely class is the label of an unlabelled image.

Lee, ICML workshop 2013, equations 15 and 16. Loss: cross-entropy of the labels + a(t) cross-entropy
of the pseudo-labels, with a rising from 0 to `weight` during training.
"""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
import torch.nn.functional as F

from sft_exp.core.task import Task
from sft_exp.errors import require
from sft_exp.models.heads import classifier
from sft_exp.tasks.classify import of_labels_alone


@dataclass
class PseudoLabel(Task):
    """Classification in which the model's own predictions label the unlabelled images."""

    pools: ClassVar[dict[str, int]] = {"labelled": 1, "unlabelled": 8}
    per_row: ClassVar[bool] = False  # the loss mixes examples of two pools

    # start of the head: probe (fitted on labelled frozen features) or random (PyTorch's default)
    head: str = "probe"
    ridge: float = 1e-2  # L2 weight of the probe
    # features to mean 0, sd 1: common (one scale for all), each or none
    standardise: str = "common"
    weight: float = 3.0  # final weight of the pseudo-labels' loss
    # shares of the steps between which the weight rises
    ramp: list[float] = field(default_factory=lambda: [0.1, 0.6])

    def __post_init__(self):
        classifier.check(self)
        require(self.weight >= 0, "weight", self.weight, "0 or more")
        ok = len(self.ramp) == 2 and 0 <= self.ramp[0] < self.ramp[1] <= 1
        require(ok, "ramp", self.ramp, "[begin, end], rising, from 0 to 1")

    def networks(self, encoder, spec):
        return classifier.networks(encoder, spec)

    def prepare(self, nets, data):
        classifier.prepare(self, nets, data)

    def draw(self, batch, rng, progress):
        labelled = batch["labelled"]
        begin, end = self.ramp
        share = min(1.0, max(0.0, (progress - begin) / (end - begin)))
        return (
            labelled["x"],
            labelled["y"],
            batch["unlabelled"]["x"],
            torch.full((), self.weight * share, device=labelled["x"].device),
        )

    def loss(self, nets, x_BCHW, y_B, u_MCHW, weight):
        logits = self.predict(nets, torch.cat([x_BCHW, u_MCHW]))
        logits_BY, logits_MY = logits.split([len(x_BCHW), len(u_MCHW)])
        labelled_loss = F.cross_entropy(logits_BY, y_B)
        pseudo_loss = F.cross_entropy(logits_MY, logits_MY.argmax(1))
        return labelled_loss + weight * pseudo_loss, {
            "labels": labelled_loss,
            "guesses": pseudo_loss,
            "accuracy": classifier.accuracy(logits_BY, y_B),
        }

    def predict(self, nets, x_BCHW):
        """-> logits [B, Y]"""
        return classifier.logits(nets, x_BCHW)

    def supervised(self):
        return of_labels_alone(self)

    def metrics(self, spec):
        return classifier.metrics(spec)
