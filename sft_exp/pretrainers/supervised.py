"""Supervised pretraining on another labelled data set, the classical form of transfer learning.

Self-supervised methods are compared with it. Yosinski et al., arXiv:1411.1792; Kornblith et al.,
arXiv:1805.08974. Loss: cross-entropy over the other set's classes, or the loss of `task` for masks
and boxes. Fine-tuning starts from the encoder; the head is dropped. The other set is
pretrain_dataset=..., or pretrainer.source=... where it needs no further keys. Labels of `dataset`
itself are never used.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import nn

from sft_exp.core.pretrainer import Pretrainer
from sft_exp.core.task import Task
from sft_exp.errors import require
from sft_exp.models.feature_extractor import DENSE, FeatureExtractor


@dataclass
class Supervised(Pretrainer):
    unhashed: ClassVar[tuple[str, ...]] = ("init", "source")
    labelled: ClassVar[bool] = True

    # an option of the group dataset, e.g. fashion_mnist; null = pretrain_dataset
    source: str | None = None
    task: Any = None  # the task there, for masks or boxes; null = classification

    def __post_init__(self):
        known = self.task is None or isinstance(self.task, Task)
        require(known, "task", self.task, "a task, or null")
        if self.task is not None and self.task.predicts == "classes":
            self.task = None
        require(
            self.task is None or not self.task.pooled,
            "task",
            type(self.task).__name__,
            "a task of classes, pixels or boxes: another set's numbers differ in scale",
        )

    @property
    def encoder_path(self):
        return "encoder.backbone" if self.task else "encoder"

    @property
    def per_row(self):
        return self.task is None or self.task.per_row

    def networks(self, encoder, spec):
        if self.task:
            maps = FeatureExtractor(encoder, [DENSE], "avg", 1, spec.image)
            return self.task.networks(maps, spec)
        head = nn.Linear(encoder.width, len(spec.classes))
        return nn.ModuleDict({"encoder": encoder, "head": head})

    def draw(self, batch, rng, progress):
        if self.task:
            return self.task.draw({"labelled": batch["pool"]}, rng, progress)
        return batch["pool"]["x"], batch["pool"]["y"]

    def loss(self, nets, x_BCHW, *targets):
        if self.task:
            return self.task.loss(nets, x_BCHW, *targets)
        (y_B,) = targets
        logits_BY = nets["head"](nets["encoder"](x_BCHW))
        accuracy = (logits_BY.argmax(1) == y_B).float().mean()
        return F.cross_entropy(logits_BY, y_B), {"accuracy": accuracy}

    def show(self, nets, x_BCHW, rng):
        return {"input": x_BCHW}
