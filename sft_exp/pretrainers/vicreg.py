"""VICReg: make the views' projections agree, keep their variance up and their covariance down.

Bardes et al., arXiv:2105.04906, equation 6. Loss with the default weights: 25 invariance + 25
variance + covariance. Fine-tuning starts from the encoder; the expander is dropped.
"""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import nn

from sft_exp.core.pretrainer import Pretrainer
from sft_exp.errors import require
from sft_exp.losses import vicreg
from sft_exp.models.layers import projector
from sft_exp.models.two_views import TwoViews


@dataclass
class VICReg(TwoViews, Pretrainer):
    per_row: ClassVar[bool] = False  # the loss takes variances and covariances over the batch

    invariance: float = 25.0  # weight of the invariance term
    variance: float = 25.0  # weight of the variance term
    covariance: float = 1.0  # weight of the covariance term
    hidden: int = 512  # width of the expander's two hidden layers
    projection: int = 512  # Z, width of the projections
    # arguments of the views: the keys of the group augment
    views: dict = field(default_factory=lambda: {})

    def __post_init__(self):
        for name in ("invariance", "variance", "covariance"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "0 or more")
        require(self.hidden > 0, "hidden", self.hidden, "above 0")
        require(self.projection > 0, "projection", self.projection, "above 0")
        super().__post_init__()

    def networks(self, encoder, spec):
        head = projector(encoder.width, self.hidden, self.hidden, self.projection)
        return nn.ModuleDict({"encoder": encoder, "expander": head})

    def loss(self, nets, a_BCHW, b_BCHW):
        a_BZ, b_BZ = nets["expander"](nets["encoder"](torch.cat([a_BCHW, b_BCHW]))).chunk(2)
        invariance, variance, covariance = vicreg(a_BZ, b_BZ)
        total = (
            self.invariance * invariance + self.variance * variance + self.covariance * covariance
        )
        return total, {"invariance": invariance, "variance": variance, "covariance": covariance}
