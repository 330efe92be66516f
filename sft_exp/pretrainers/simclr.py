"""SimCLR: two views of an image find each other among those of all others. Chen et al., arXiv:2002.05709, equation 1.

Loss: -log(exp(s_ij / t) / sum_{k != i} exp(s_ik / t)), s the cosine of two projections, over the 2B views of a batch.
Kept: the encoder, without its projector.
"""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import nn

from sft_exp.config.schema import AugmentConfig
from sft_exp.core.pretrainer import Pretrainer
from sft_exp.data.augment import view
from sft_exp.errors import require
from sft_exp.losses import nt_xent
from sft_exp.models.layers import projector


@dataclass
class SimCLR(Pretrainer):
    per_row: ClassVar[bool] = False  # every view is compared with all others of the batch

    temperature: float = 0.5  # t: the smaller, the more the nearest of the others count
    hidden: int = 512  # width of the projector
    projection: int = 128  # Z, width of what is compared
    # fields of the augment group, whose option it takes
    views: dict = field(default_factory=lambda: {})

    def __post_init__(self):
        require(self.temperature > 0, "temperature", self.temperature, "above 0")
        require(self.hidden > 0, "hidden", self.hidden, "above 0")
        require(self.projection > 0, "projection", self.projection, "above 0")
        self.how = AugmentConfig(**self.views)

    def networks(self, encoder, spec):
        return nn.ModuleDict(
            {
                "encoder": encoder,
                "projector": projector(encoder.width, self.hidden, self.projection),
            }
        )

    def draw(self, batch, rng, progress):
        x_BCHW = batch["pool"]["x"]
        return view(x_BCHW, self.how, rng), view(x_BCHW, self.how, rng)

    def loss(self, nets, a_BCHW, b_BCHW):
        a_BZ, b_BZ = nets["projector"](nets["encoder"](torch.cat([a_BCHW, b_BCHW]))).chunk(2)
        return nt_xent(a_BZ, b_BZ, self.temperature), {}

    def show(self, nets, x_BCHW, rng):
        return {
            "input": x_BCHW,
            "view": view(x_BCHW, self.how, rng),
            "another view": view(x_BCHW, self.how, rng),
        }
