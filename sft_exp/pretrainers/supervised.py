"""Learn the classes of another data set: what transfer learning has always done, and what any self-supervised claim is held
against. Yosinski et al., arXiv:1411.1792; Kornblith et al., arXiv:1805.08974.

Loss: cross-entropy over the other set's classes. Kept: the encoder, without that head. The other set is pretrain_dataset=..., or
for those that need no further keys, pretrainer.source=...; labels of `dataset` itself are never seen.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import nn

from sft_exp.core import Pretrainer


@dataclass
class Supervised(Pretrainer):
    unhashed: ClassVar[tuple[str, ...]] = ("init", "source")
    labelled: ClassVar[bool] = True

    source: str | None = None  # an option of dataset, e.g. fashion_mnist; null = what pretrain_dataset says

    def networks(self, encoder, spec):
        return nn.ModuleDict({"encoder": encoder, "head": nn.Linear(encoder.width, len(spec.classes))})

    def draw(self, batch, rng, progress):
        return batch["pool"]["x"], batch["pool"]["y"]

    def loss(self, nets, x_BCHW, y_B):
        logits_BY = nets["head"](nets["encoder"](x_BCHW))
        return F.cross_entropy(logits_BY, y_B), {"accuracy": (logits_BY.argmax(1) == y_B).float().mean()}

    def show(self, nets, x_BCHW, rng):
        return {"input": x_BCHW}
