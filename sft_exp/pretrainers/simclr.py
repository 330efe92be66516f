"""SimCLR: find the other view of an image among all other views of the batch.

Chen et al., arXiv:2002.05709, equation 1. Loss: -log(exp(s_ij / t) / sum_{k != i} exp(s_ik / t))
over the 2B views of a batch, where s is the cosine of two projections. Fine-tuning starts from the
encoder; the projector is dropped.
"""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import nn

from sft_exp.core.pretrainer import Pretrainer
from sft_exp.errors import require
from sft_exp.losses import nt_xent
from sft_exp.models.layers import projector
from sft_exp.models.two_views import TwoViews


@dataclass
class SimCLR(TwoViews, Pretrainer):
    """Learns an encoder by contrasting the views of an image with those of others."""

    per_row: ClassVar[bool] = False  # the loss compares every view with all others of the batch

    temperature: float = 0.5  # t; the smaller it is, the more the nearest negatives count
    hidden: int = 512  # width of the projector's hidden layer
    projection: int = 128  # Z, width of the projections
    # arguments of the views: the keys of the group augment
    views: dict = field(default_factory=lambda: {})

    def __post_init__(self):
        require(self.temperature > 0, "temperature", self.temperature, "above 0")
        require(self.hidden > 0, "hidden", self.hidden, "above 0")
        require(self.projection > 0, "projection", self.projection, "above 0")
        super().__post_init__()

    def networks(self, encoder, spec):
        head = projector(encoder.width, self.hidden, self.projection)
        return nn.ModuleDict({"encoder": encoder, "projector": head})

    def loss(self, nets, a_BCHW, b_BCHW):
        a_BZ, b_BZ = nets["projector"](nets["encoder"](torch.cat([a_BCHW, b_BCHW]))).chunk(2)
        return nt_xent(a_BZ, b_BZ, self.temperature), {}
