"""SimSiam: predict the projection of the other view, through which no gradient flows.

Chen & He, arXiv:2011.10566, equations 1 and 2. Loss: -cos(p(z_a), sg z_b) / 2 - cos(p(z_b), sg z_a)
/ 2, where sg stops the gradient. Fine-tuning starts from the encoder.
"""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import nn
from torch.nn.functional import normalize

from sft_exp.core.comm import gather
from sft_exp.core.pretrainer import Pretrainer
from sft_exp.errors import require
from sft_exp.losses import cosine
from sft_exp.models.layers import projector
from sft_exp.models.two_views import TwoViews


@dataclass
class SimSiam(TwoViews, Pretrainer):
    """Learns an encoder by predicting the projection of another view."""

    per_row: ClassVar[bool] = False  # BatchNorm, which keeps the method from collapsing

    hidden: int = 512  # width of the projector's two hidden layers
    projection: int = 512  # Z, width of the projections
    bottleneck: int = 128  # width of the predictor's hidden layer, a quarter of Z
    # arguments of the views: the keys of the group augment
    views: dict = field(default_factory=lambda: {})

    def __post_init__(self):
        require(self.hidden > 0, "hidden", self.hidden, "above 0")
        require(self.projection > 0, "projection", self.projection, "above 0")
        require(self.bottleneck > 0, "bottleneck", self.bottleneck, "above 0")
        super().__post_init__()

    def networks(self, encoder, spec):
        widths = (encoder.width, self.hidden, self.hidden, self.projection)
        head = projector(*widths, norm=True)
        predictor = projector(self.projection, self.bottleneck, self.projection)
        return nn.ModuleDict({"encoder": encoder, "projector": head, "predictor": predictor})

    def loss(self, nets, a_BCHW, b_BCHW):
        z_MZ = nets["projector"](nets["encoder"](torch.cat([a_BCHW, b_BCHW])))
        target_MZ = z_MZ.detach().roll(len(a_BCHW), 0)  # the projections of the other views
        directions_NZ = gather(normalize(z_MZ.detach(), dim=1))
        spread = directions_NZ.std(0).mean() * self.projection**0.5  # 1 spread out, 0 collapsed
        return -cosine(nets["predictor"](z_MZ), target_MZ), {"spread": spread}
