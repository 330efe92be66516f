"""VICReg: two views agree, every number varies, no two vary together. Bardes et al., arXiv:2105.04906, equation 6.

Loss: 25 invariance + 25 variance + covariance, by their default weights. Kept: the encoder, without its expander.
"""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import nn

from sft_exp.config.schema import AugmentConfig
from sft_exp.core.pretrainer import Pretrainer
from sft_exp.data.augment import view
from sft_exp.errors import require
from sft_exp.losses import vicreg
from sft_exp.models.layers import projector


@dataclass
class VICReg(Pretrainer):
    per_row: ClassVar[bool] = False  # variances and covariances over the batch

    invariance: float = 25.0  # weights of the three terms
    variance: float = 25.0
    covariance: float = 1.0
    hidden: int = 512  # width of the expander's two hidden layers
    projection: int = 512  # Z
    # fields of the augment group, whose option it takes
    views: dict = field(default_factory=lambda: {})

    def __post_init__(self):
        for name in ("invariance", "variance", "covariance"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "0 or more")
        require(self.hidden > 0, "hidden", self.hidden, "above 0")
        require(self.projection > 0, "projection", self.projection, "above 0")
        self.how = AugmentConfig(**self.views)

    def networks(self, encoder, spec):
        head = projector(encoder.width, self.hidden, self.hidden, self.projection)
        return nn.ModuleDict({"encoder": encoder, "expander": head})

    def draw(self, batch, rng, progress):
        x_BCHW = batch["pool"]["x"]
        return view(x_BCHW, self.how, rng), view(x_BCHW, self.how, rng)

    def loss(self, nets, a_BCHW, b_BCHW):
        a_BZ, b_BZ = nets["expander"](nets["encoder"](torch.cat([a_BCHW, b_BCHW]))).chunk(2)
        apart, short, together = vicreg(a_BZ, b_BZ)
        total = self.invariance * apart + self.variance * short + self.covariance * together
        return total, {"invariance": apart, "variance": short, "covariance": together}

    def show(self, nets, x_BCHW, rng):
        return {
            "input": x_BCHW,
            "view": view(x_BCHW, self.how, rng),
            "another view": view(x_BCHW, self.how, rng),
        }
