"""Small networks that several methods use."""

from collections import OrderedDict
from collections.abc import Callable
from itertools import pairwise
from math import prod

import torch
from torch import Tensor, nn


def perceptron(
    *widths: int,
    activation: type[nn.Module] = nn.ReLU,
    norm: Callable[[int], nn.Module] | None = None,
) -> nn.Sequential:
    """Linear layers [B, widths[0]] -> [B, widths[-1]], with norm and activation between them."""
    layers: list[nn.Module] = []
    for a, b in pairwise(widths):
        layers += [nn.Linear(a, b), *([norm(b)] if norm else []), activation()]
    return nn.Sequential(*layers[: -2 if norm else -1])


def projector(*widths: int, norm: bool = False) -> nn.Sequential:
    """Linear layers [B, widths[0]] -> [B, widths[-1]], with BatchNorm and ReLU between them.

    With `norm` a BatchNorm without parameters follows.
    """
    layers: list[nn.Module] = []
    for a, b in pairwise(widths[:-1]):
        layers += [nn.Linear(a, b, bias=False), nn.BatchNorm1d(b), nn.ReLU()]
    layers.append(nn.Linear(widths[-2], widths[-1], bias=not norm))
    return nn.Sequential(*layers, *([nn.BatchNorm1d(widths[-1], affine=False)] if norm else []))


def chain(**parts: nn.Module) -> nn.Sequential:
    """Named modules in sequence."""
    return nn.Sequential(OrderedDict(parts))


def upsampler(
    width: int,
    channels: list[int],
    sizes: list[tuple[int, int]],
    norm: Callable[[int], nn.Module] = nn.BatchNorm2d,
) -> nn.Sequential:
    """A convolutional decoder [B, width] -> [B, channels[0], *sizes[0]], from the last size up."""
    layers: list[nn.Module] = [nn.Linear(width, channels[-1] * prod(sizes[-1])), nn.ReLU()]
    layers.append(nn.Unflatten(1, (channels[-1], *sizes[-1])))
    for n in range(len(channels) - 1, 0, -1):
        layers += [nn.Upsample(sizes[n - 1]), nn.Conv2d(channels[n], channels[n - 1], 3, padding=1)]
        if n > 1:
            layers += [norm(channels[n - 1]), nn.ReLU()]
    return nn.Sequential(*layers)


def group_norm(max_groups: int | None, width: int) -> nn.GroupNorm:
    """GroupNorm (Wu & He, arXiv:1803.08494) with the largest number of groups that divides `width`.

    There are at most `max_groups` groups. None means the paper's 32, with at least 2 channels a
    group, because one channel of one pixel would become 0.
    """
    max_groups = max_groups or max(1, min(32, width // 2))
    return nn.GroupNorm(max(g for g in range(1, max_groups + 1) if width % g == 0), width)


def blocks(net: nn.Module) -> list[nn.Module]:
    """A network's repeated blocks: innermost items of ModuleLists and Sequentials with children."""
    inner = [b for child in net.children() for b in blocks(child)]
    if inner or not isinstance(net, nn.ModuleList | nn.Sequential):
        return inner
    return [m for m in net.children() if list(m.children()) and any(True for _ in m.parameters())]


class Standardise(nn.Module):
    """Standardises features with a mean and an sd that are fitted once: [B, D] -> [B, D]."""

    mean: Tensor
    sd: Tensor

    def __init__(self, width: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("sd", torch.ones(width))

    def fit(self, f_ND: Tensor, each: bool) -> None:
        """Fit the mean and the sd to features f_ND.

        With `each`, every feature is scaled by its own sd (constant ones by 1), else all features
        by their root mean square sd.
        """
        sd_D = f_ND.std(0) if each else f_ND.std(0).square().mean().sqrt().expand(f_ND.shape[1])
        self.mean.copy_(f_ND.mean(0))
        self.sd.copy_(sd_D.where(sd_D > 1e-2 * sd_D.max().clamp_min(1e-8), torch.ones_like(sd_D)))

    def forward(self, f_BD: Tensor) -> Tensor:
        return (f_BD - self.mean) / self.sd


def distances(a_BD: Tensor, b_ND: Tensor) -> Tensor:
    """Euclidean distances between all rows of two matrices [B, N]: `torch.cdist`.

    A graph that is traced has the products by which cdist computes them, since ONNX has no such operator.
    """
    if not torch.compiler.is_compiling():
        return torch.cdist(a_BD, b_ND)
    a_B1, b_N1 = (x.square().sum(1, keepdim=True) for x in (a_BD, b_ND))
    left = torch.cat([-2 * a_BD, a_B1, torch.ones_like(a_B1)], 1)
    right = torch.cat([b_ND, torch.ones_like(b_N1), b_N1], 1)
    return (left @ right.T).clamp_min(0).sqrt()
