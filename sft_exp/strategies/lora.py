"""LoRA: low-rank adaptation of linear and convolutional layers. Hu et al., arXiv:2106.09685,
equation 3.

A layer's weight is frozen and becomes W + alpha / rank * B A, with B = 0 at the start. A
convolution's kernel is treated as a matrix [out, in * height * width]. The updates are merged after
training, so that the saved model has the encoder's own layers and costs no more.
"""

from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from sft_exp.core.strategy import Strategy
from sft_exp.errors import require


@dataclass
class LoRA(Strategy):
    rank: int = 4
    # the update is scaled by alpha / rank, so that the learning rate need not change with the rank
    alpha: float = 8.0

    def __post_init__(self):
        require(self.rank > 0, "rank", self.rank, "above 0")
        require(self.alpha > 0, "alpha", self.alpha, "above 0")

    def adapt(self, encoder, rng):
        kinds = nn.Linear | nn.modules.conv._ConvNd
        for layer in [m for m in encoder.modules() if isinstance(m, kinds)]:
            update = LowRank(layer.weight, self.rank, self.alpha / self.rank, rng)
            parametrize.register_parametrization(layer, "weight", update)

    def merge(self, encoder):
        for layer in encoder.modules():
            if parametrize.is_parametrized(layer, "weight") and isinstance(
                layer.parametrizations.weight[-1], LowRank
            ):
                parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)

    def phases(self, layers):
        every = [name for names in layers.values() for name in names]
        added = [
            name
            for name in every
            if ".parametrizations." in name and name.rpartition(".")[2] in ("up", "down")
        ]
        return [(1.0, dict.fromkeys(added, 1.0))]


class LowRank(nn.Module):
    """Maps a weight [O, ...] to weight + scale * up [O, R] down [R, ...]."""

    def __init__(self, weight: Tensor, rank: int, scale: float, rng: torch.Generator):
        super().__init__()
        width = prod(weight.shape[1:])
        bound = width**-0.5
        self.scale = scale
        self.up = nn.Parameter(torch.zeros(len(weight), rank, device=weight.device))
        down_RI = torch.empty(rank, width).uniform_(-bound, bound, generator=rng)
        self.down = nn.Parameter(down_RI.to(weight.device))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.scale * (self.up @ self.down).view_as(weight)
