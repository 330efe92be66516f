"""Low-rank adaptation of linear and convolutional layers. Hu et al., arXiv:2106.09685, equation 3.

The weight, frozen, becomes W + alpha / rank * B A with B = 0 at the start; a convolution's kernel counts as a matrix
[out, in * height * width]. Merged after training: the saved model has the encoder's own layers and costs what they cost.
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
    # the update is scaled by alpha / rank, so that another rank needs no other learning rate
    alpha: float = 8.0

    def __post_init__(self):
        require(self.rank > 0, "rank", self.rank, "above 0")
        require(self.alpha > 0, "alpha", self.alpha, "above 0")

    def adapt(self, encoder, rng):
        for layer in [
            m for m in encoder.modules() if isinstance(m, nn.Linear | nn.modules.conv._ConvNd)
        ]:
            parametrize.register_parametrization(
                layer, "weight", LowRank(layer.weight, self.rank, self.alpha / self.rank, rng)
            )

    def merge(self, encoder):
        for layer in encoder.modules():
            if parametrize.is_parametrized(layer, "weight") and isinstance(
                layer.parametrizations.weight[-1], LowRank
            ):
                parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)

    def phases(self, layers):
        added = ("up", "down")
        every = [name for names in layers.values() for name in names]
        return [
            (
                1.0,
                {
                    n: 1.0
                    for n in every
                    if ".parametrizations." in n and n.rpartition(".")[2] in added
                },
            )
        ]


class LowRank(nn.Module):
    """weight [O, ...] -> weight + scale * up [O, R] down [R, ...]."""

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
