"""LoRA: low-rank adaptation of linear and convolutional layers. Hu et al., arXiv:2106.09685,
equation 3.

A layer's weight is frozen and becomes W + alpha / rank * B A, with B = 0 at the start. A
convolution's kernel is treated as a matrix [out, in * height * width]. Linear layers and large
convolutions compute W x + alpha / rank * B (A x), so that no gradient of a whole weight is needed;
elsewhere (grouped and small convolutions, PyTorch's attention) the sum of the weights is formed.
The updates are merged after training, so that the saved model has the encoder's own layers and
costs no more.
"""

from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from sft_exp.core.strategy import Strategy
from sft_exp.errors import require

# of nn.MultiheadAttention, which passes its weights to a function
ATTENTION = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
# Multiplications for a number that is read or written, from which a convolution's second product
# costs less than the gradient of its whole weight; smaller ones are bound by memory.
DENSE = 64


@dataclass
class LoRA(Strategy):
    rank: int = 4
    # the update is scaled by alpha / rank, so that the learning rate need not change with the rank
    alpha: float = 8.0

    def __post_init__(self):
        require(self.rank > 0, "rank", self.rank, "above 0")
        require(self.alpha > 0, "alpha", self.alpha, "above 0")

    def adapt(self, encoder, rng):
        for layer, name in [pair for m in encoder.modules() for pair in adapted(m)]:
            update = LowRank(getattr(layer, name), self.rank, self.alpha / self.rank, rng)
            separate = separable(layer)
            # `layer.weight` is the sum, for whoever reads it
            parametrize.register_parametrization(layer, name, update)
            if separate:
                layer.__dict__["forward"] = partial(separately, layer)

    def merge(self, encoder):
        for layer in list(encoder.modules()):
            for name in list(getattr(layer, "parametrizations", ())):
                if isinstance(layer.parametrizations[name][-1], LowRank):
                    parametrize.remove_parametrizations(layer, name, leave_parametrized=True)
                    layer.__dict__.pop("forward", None)

    def phases(self, layers):
        every = [name for names in layers.values() for name in names]
        added = [
            name
            for name in every
            if ".parametrizations." in name and name.rpartition(".")[2] in ("up", "down")
        ]
        return [(1.0, dict.fromkeys(added, 1.0))]


def adapted(module: nn.Module) -> list[tuple[nn.Module, str]]:
    """The module's own weights that get an update, each with its name."""
    if isinstance(module, nn.Linear | nn.modules.conv._ConvNd):
        return [(module, "weight")]
    if isinstance(module, nn.MultiheadAttention):
        return [(module, name) for name in ATTENTION if getattr(module, name, None) is not None]
    return []


def separable(layer: nn.Module) -> bool:
    """Whether the layer's forward pass is a product with its weight, to which another is added at less cost.

    Subclasses may pad images or standardise the weight first.
    """
    if parametrize.is_parametrized(layer):
        return False
    if isinstance(layer, CONVOLUTIONS):
        own = type(layer).forward not in [c.forward for c in CONVOLUTIONS]
        touched = layer.in_channels + layer.out_channels
        return not own and layer.groups == 1 and layer.weight.numel() >= DENSE * touched
    return type(layer).forward is nn.Linear.forward


def separately(layer: Any, x: Tensor) -> Tensor:
    """W x + b + scale * B (A x), of an adapted layer."""
    weight, bias = layer.parametrizations.weight.original, layer.bias
    update = layer.parametrizations.weight[0]
    down, up = update.down, update.scale * update.up
    if isinstance(layer, nn.Linear):
        out, inner = F.linear(x, weight, bias), F.linear(x, down)
        added = torch.addmm(out.flatten(0, -2), inner.flatten(0, -2), up.T)
        return added.view(out.shape)
    out = layer._conv_forward(x, weight, bias)
    if weight[0, 0].numel() == 1 and set(layer.stride) == {1} and x.shape[2:] == out.shape[2:]:
        inner = down @ x.flatten(2)
    else:
        inner = layer._conv_forward(x, down.view(-1, *weight.shape[1:]), None).flatten(2)
    return torch.baddbmm(out.flatten(2), up.expand(len(x), -1, -1), inner).view(out.shape)


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
