"""Barlow Twins: two views agree in each number, and no two numbers say the same. Zbontar et al., arXiv:2103.03230, equation 1.

Loss: sum_i (1 - C_ii)^2 + lambda sum_{i != j} C_ij^2, C the correlation of projections over the batch. Kept: the encoder.
"""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import nn

from sft_exp.config.schema import AugmentConfig
from sft_exp.core.pretrainer import Pretrainer
from sft_exp.data.augment import view
from sft_exp.errors import require
from sft_exp.losses import barlow_twins
from sft_exp.models.layers import projector


@dataclass
class BarlowTwins(Pretrainer):
    per_row: ClassVar[bool] = False  # correlations over the batch

    off_diagonal: float = 0.003  # lambda
    hidden: int = 512  # width of the projector's two hidden layers
    projection: int = 512  # Z
    # fields of the augment group, whose option it takes
    views: dict = field(default_factory=lambda: {})

    def __post_init__(self):
        require(self.off_diagonal >= 0, "off_diagonal", self.off_diagonal, "0 or more")
        require(self.hidden > 0, "hidden", self.hidden, "above 0")
        require(self.projection > 0, "projection", self.projection, "above 0")
        self.how = AugmentConfig(**self.views)

    def networks(self, encoder, spec):
        head = projector(encoder.width, self.hidden, self.hidden, self.projection)
        return nn.ModuleDict({"encoder": encoder, "projector": head})

    def draw(self, batch, rng, progress):
        x_BCHW = batch["pool"]["x"]
        return view(x_BCHW, self.how, rng), view(x_BCHW, self.how, rng)

    def loss(self, nets, a_BCHW, b_BCHW):
        a_BZ, b_BZ = nets["projector"](nets["encoder"](torch.cat([a_BCHW, b_BCHW]))).chunk(2)
        return barlow_twins(a_BZ, b_BZ, self.off_diagonal), {}

    def show(self, nets, x_BCHW, rng):
        return {
            "input": x_BCHW,
            "view": view(x_BCHW, self.how, rng),
            "another view": view(x_BCHW, self.how, rng),
        }
