"""Rotation: predict by which quarter turn an image was rotated. Gidaris et al., arXiv:1803.07728.

Loss: cross-entropy over the turns (equation 3). All four turns of an image are in one batch, so
that the labels are balanced; an image that is not square has two turns. Fine-tuning starts from the
maps below the code, pooled to a grid, because the code itself specialises in the turns (their table
1). The method assumes that images have an upright orientation. Digits do not always: 0, 1 and 8
look the same both ways, and a 6 becomes a 9.
"""

from dataclasses import dataclass
from itertools import cycle
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from sft_exp.core.pretrainer import Pretrainer


@dataclass
class Rotation(Pretrainer):
    """Learns an encoder by classifying the rotation of its input."""

    features: ClassVar[tuple[int, ...]] = (-4, -3, -2)
    pool: ClassVar[str] = "max"
    grid: ClassVar[int] = 4

    def networks(self, encoder, spec):
        head = nn.Linear(encoder.width, len(turns(spec.image[1:])))
        return nn.ModuleDict({"encoder": encoder, "head": head})

    def draw(self, batch, rng, progress):
        x_BCHW = batch["pool"]["x"]
        quarters = turns(x_BCHW.shape[2:])
        turned = torch.stack([x_BCHW.rot90(q, (2, 3)) for q in quarters], 1).flatten(0, 1)
        return turned, torch.arange(len(quarters), device=x_BCHW.device).repeat(len(x_BCHW))

    def loss(self, nets, x_BCHW, turn_B):
        logits_BT = nets["head"](nets["encoder"](x_BCHW))
        accuracy = (logits_BT.argmax(1) == turn_B).float().mean()
        return F.cross_entropy(logits_BT, turn_B), {"accuracy": accuracy}

    def show(self, nets, x_BCHW, rng):
        quarters = turns(x_BCHW.shape[2:])
        turned = [x.rot90(q, (1, 2)) for x, q in zip(x_BCHW, cycle(quarters), strict=False)]
        return {"input": x_BCHW, "turned": torch.stack(turned)}


def turns(size):
    """The quarter turns that keep the size (height, width) of an image."""
    return (0, 1, 2, 3) if size[0] == size[1] else (0, 2)
