"""Which way up is it? Gidaris et al., arXiv:1803.07728: every image in all four turns, and the turn is the label.

Loss: cross-entropy over the turns (equation 3); all four of an image are in one batch, so labels are balanced. An image that
is not square has two turns. Kept: the maps below the code, where they were in the image; the code itself serves the turns
alone (their table 1).
It assumes that images have an upside: of digits, 0, 1 and 8 look the same both ways, and 6 is a 9.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from sft_exp.core.pretrainer import Pretrainer


@dataclass
class Rotation(Pretrainer):
    features: ClassVar[tuple[int, ...]] = (-4, -3, -2)
    pool: ClassVar[str] = "max"
    grid: ClassVar[int] = 4

    def networks(self, encoder, spec):
        return nn.ModuleDict(
            {"encoder": encoder, "head": nn.Linear(encoder.width, len(turns(spec.image[1:])))}
        )

    def draw(self, batch, rng, progress):
        x_BCHW = batch["pool"]["x"]
        quarters = turns(x_BCHW.shape[2:])
        turned = torch.stack([x_BCHW.rot90(q, (2, 3)) for q in quarters], 1).flatten(0, 1)
        return turned, torch.arange(len(quarters), device=x_BCHW.device).repeat(len(x_BCHW))

    def loss(self, nets, x_BCHW, turn_B):
        logits_BT = nets["head"](nets["encoder"](x_BCHW))
        return F.cross_entropy(logits_BT, turn_B), {
            "accuracy": (logits_BT.argmax(1) == turn_B).float().mean()
        }

    def show(self, nets, x_BCHW, rng):
        quarters = turns(x_BCHW.shape[2:])
        turned = [
            x_CHW.rot90(quarters[n % len(quarters)], (1, 2)) for n, x_CHW in enumerate(x_BCHW)
        ]
        return {"input": x_BCHW, "turned": torch.stack(turned)}


def turns(size):
    """Quarter turns after which an image of this height and width has the same size."""
    return (0, 1, 2, 3) if size[0] == size[1] else (0, 2)
