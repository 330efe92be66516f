"""Barlow Twins: make the views' projections agree and decorrelate their dimensions.

Zbontar et al., arXiv:2103.03230, equation 1. Loss: sum_i (1 - C_ii)^2 + lambda sum_{i != j} C_ij^2,
where C is the cross-correlation of the two views' projections over the batch. Fine-tuning starts
from the encoder; the projector is dropped.
"""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import nn

from sft_exp.core.pretrainer import Pretrainer
from sft_exp.errors import require
from sft_exp.losses import barlow_twins
from sft_exp.models.layers import projector
from sft_exp.models.two_views import TwoViews


@dataclass
class BarlowTwins(TwoViews, Pretrainer):
    """Learns an encoder whose projections of two views have the identity as cross-correlation."""

    per_row: ClassVar[bool] = False  # the loss takes correlations over the batch

    off_diagonal: float = 0.003  # lambda
    hidden: int = 512  # width of the projector's two hidden layers
    projection: int = 512  # Z
    # arguments of the views: the keys of the group augment
    views: dict = field(default_factory=lambda: {})

    def __post_init__(self):
        require(self.off_diagonal >= 0, "off_diagonal", self.off_diagonal, "0 or more")
        require(self.hidden > 0, "hidden", self.hidden, "above 0")
        require(self.projection > 0, "projection", self.projection, "above 0")
        super().__post_init__()

    def networks(self, encoder, spec):
        head = projector(encoder.width, self.hidden, self.hidden, self.projection)
        return nn.ModuleDict({"encoder": encoder, "projector": head})

    def loss(self, nets, a_BCHW, b_BCHW):
        a_BZ, b_BZ = nets["projector"](nets["encoder"](torch.cat([a_BCHW, b_BCHW]))).chunk(2)
        return barlow_twins(a_BZ, b_BZ, self.off_diagonal), {}
