"""Shared parts of the classification tasks: encoder, standardised features, linear head."""

from typing import Any

import torch
from torch import Tensor, nn

from sft_exp.config.schema import AugmentConfig
from sft_exp.core.types import Spec, Tensors
from sft_exp.errors import require
from sft_exp.models.heads.fitted import fit_linear
from sft_exp.models.layers import Standardise

SCALES = ("common", "each", "none")


def check(task: Any) -> None:
    """ConfigError if `head`, `ridge` or `standardise` has an invalid value."""
    require(task.head in ("probe", "random"), "head", task.head, "probe or random")
    require(task.ridge >= 0, "ridge", task.ridge, "0 or more")
    require(task.standardise in SCALES, "standardise", task.standardise, "common, each or none")


def networks(encoder: nn.Module, spec: Spec) -> nn.ModuleDict:
    width: Any = encoder.width
    return nn.ModuleDict(
        {
            "encoder": encoder,
            "scale": Standardise(width),
            "head": nn.Linear(width, len(spec.classes)),
        },
    )


def prepare(task: Any, nets: nn.ModuleDict, data: Tensors) -> None:
    """Fit the scale to the pool's features `data["pool"]` [N, D] and start the head.

    A probe is fitted to the labelled features `data["f"]` [N, D] and labels `data["y"]` [N].
    """
    fit_scale(task, nets, data)
    head: Any = nets["head"]
    if task.head == "probe":
        fit_linear(head, nets["scale"](data["f"]), data["y"], task.ridge)


def fit_scale(task: Any, nets: nn.ModuleDict, data: Tensors) -> None:
    scale: Any = nets["scale"]
    if task.standardise != "none":
        scale.fit(data["pool"], each=task.standardise == "each")


def logits(nets: nn.ModuleDict, x_BCHW: Tensor) -> Tensor:
    """-> [B, Y]"""
    return nets["head"](nets["scale"](nets["encoder"](x_BCHW)))


def accuracy(logits_BY: Tensor, y_B: Tensor) -> Tensor:
    return (logits_BY.argmax(1) == y_B).float().mean()


def metrics(spec: Spec) -> nn.ModuleDict:
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
            # Guo et al., arXiv:1706.04599, equation 3
            "ece": MulticlassCalibrationError(classes, n_bins=15),
        }
    )


def balance(y_N: Tensor, classes: int) -> Tensor:
    """Class weights [Y] inverse to frequency, with mean 1 over the images; 0 for absent classes."""
    count_Y = torch.bincount(y_N, minlength=classes)
    present = (count_Y > 0).sum()
    return torch.where(count_Y > 0, len(y_N) / (present * count_Y.clamp_min(1)), 0.0)


def weak(how: AugmentConfig, shift: float) -> AugmentConfig:
    """Weak views: shifted a little, and mirrored if `how` mirrors."""
    return AugmentConfig(crop=[1, 1], flip=how.flip, shift=shift, jitter=0.0, grey=0.0)
