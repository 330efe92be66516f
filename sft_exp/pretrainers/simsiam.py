"""SimSiam: predict the other view's projection, held still. Chen & He, arXiv:2011.10566, equations 1 and 2.

Loss: -cos(p(z_a), sg z_b) / 2 - cos(p(z_b), sg z_a) / 2, sg = no gradient. Kept: the encoder.
"""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import nn

from sft_exp.config.schema import AugmentConfig
from sft_exp.core.comm import gather
from sft_exp.core.pretrainer import Pretrainer
from sft_exp.data.augment import view
from sft_exp.errors import require
from sft_exp.losses import cosine
from sft_exp.models.layers import projector


@dataclass
class SimSiam(Pretrainer):
    per_row: ClassVar[bool] = False  # BatchNorm, which keeps it from collapsing

    hidden: int = 512  # width of the projector's two hidden layers
    projection: int = 512  # Z, width of what is predicted
    bottleneck: int = 128  # width of the predictor, a quarter of Z
    # fields of the augment group, whose option it takes
    views: dict = field(default_factory=lambda: {})

    def __post_init__(self):
        require(self.hidden > 0, "hidden", self.hidden, "above 0")
        require(self.projection > 0, "projection", self.projection, "above 0")
        require(self.bottleneck > 0, "bottleneck", self.bottleneck, "above 0")
        self.how = AugmentConfig(**self.views)

    def networks(self, encoder, spec):
        return nn.ModuleDict(
            {
                "encoder": encoder,
                "projector": projector(
                    encoder.width, self.hidden, self.hidden, self.projection, norm=True
                ),
                "predictor": projector(self.projection, self.bottleneck, self.projection),
            }
        )

    def draw(self, batch, rng, progress):
        x_BCHW = batch["pool"]["x"]
        return view(x_BCHW, self.how, rng), view(x_BCHW, self.how, rng)

    def loss(self, nets, a_BCHW, b_BCHW):
        z_MZ = nets["projector"](nets["encoder"](torch.cat([a_BCHW, b_BCHW])))
        directions_NZ = gather(nn.functional.normalize(z_MZ.detach(), dim=1))
        spread = directions_NZ.std(0).mean() * self.projection**0.5  # 1 spread out, 0 collapsed
        return -cosine(nets["predictor"](z_MZ), z_MZ.detach().roll(len(a_BCHW), 0)), {
            "spread": spread
        }

    def show(self, nets, x_BCHW, rng):
        return {
            "input": x_BCHW,
            "view": view(x_BCHW, self.how, rng),
            "another view": view(x_BCHW, self.how, rng),
        }
