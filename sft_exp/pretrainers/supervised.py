"""Learn the classes of another data set: what transfer learning has always done, and what any self-supervised claim is held
against. Yosinski et al., arXiv:1411.1792; Kornblith et al., arXiv:1805.08974.

Loss: cross-entropy over the other set's classes; of masks or boxes that of `task`. Kept: the encoder, without that head. The
other set is pretrain_dataset=..., or for those that need no further keys, pretrainer.source=...; labels of `dataset` itself are
never seen.
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

    # an option of dataset, e.g. fashion_mnist; null = what pretrain_dataset says
    source: str | None = None
    task: Any = None  # what is learnt there of masks or boxes; null = classes of images

    def __post_init__(self):
        require(
            self.task is None or isinstance(self.task, Task), "task", self.task, "a task, or null"
        )
        if self.task is not None and self.task.predicts == "classes":
            self.task = None
        learnable = self.task is None or not self.task.pooled
        kind = type(self.task).__name__
        require(
            learnable,
            "task",
            kind,
            "one of classes, pixels or boxes: another set's numbers have another scale",
        )

    @property
    def encoder_path(self):
        return "encoder.backbone" if self.task else "encoder"

    @property
    def per_row(self):
        return self.task is None or self.task.per_row

    def networks(self, encoder, spec):
        if self.task:
            return self.task.networks(
                FeatureExtractor(encoder, [DENSE], "avg", 1, spec.image), spec
            )
        return nn.ModuleDict(
            {"encoder": encoder, "head": nn.Linear(encoder.width, len(spec.classes))}
        )

    def draw(self, batch, rng, progress):
        if self.task:
            return self.task.draw({"labelled": batch["pool"]}, rng, progress)
        return batch["pool"]["x"], batch["pool"]["y"]

    def loss(self, nets, x_BCHW, *targets):
        if self.task:
            return self.task.loss(nets, x_BCHW, *targets)
        (y_B,) = targets
        logits_BY = nets["head"](nets["encoder"](x_BCHW))
        return F.cross_entropy(logits_BY, y_B), {
            "accuracy": (logits_BY.argmax(1) == y_B).float().mean()
        }

    def show(self, nets, x_BCHW, rng):
        return {"input": x_BCHW}
