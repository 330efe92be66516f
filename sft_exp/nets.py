"""Network parts that several methods share."""

from collections import OrderedDict
from collections.abc import Iterable
from copy import deepcopy
from itertools import pairwise
from math import prod

import torch
from torch import Tensor, nn

from sft_exp.core import Backbone
from sft_exp.errors import ConfigError


def perceptron(*widths: int) -> nn.Sequential:
    """Linear layers of these widths with ReLU between them: [B, widths[0]] -> [B, widths[-1]]."""
    layers = [layer for a, b in pairwise(widths) for layer in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


def projector(*widths: int, norm: bool = False) -> nn.Sequential:
    """Linear layers of these widths with BatchNorm and ReLU between them, and with `norm` BatchNorm at the end:
    [B, widths[0]] -> [B, widths[-1]]."""
    layers: list[nn.Module] = []
    for a, b in pairwise(widths[:-1]):
        layers += [nn.Linear(a, b, bias=False), nn.BatchNorm1d(b), nn.ReLU()]
    layers.append(nn.Linear(widths[-2], widths[-1], bias=not norm))
    return nn.Sequential(*layers, *([nn.BatchNorm1d(widths[-1], affine=False)] if norm else []))


def chain(**parts: nn.Module) -> nn.Sequential:
    """Parts one after another, by name."""
    return nn.Sequential(OrderedDict(parts))


class Memory(nn.Module):
    """Numbers that a method carries from step to step, moved by its `after` and by no gradient: a queue, a centre."""

    value: Tensor

    def __init__(self, value: Tensor):
        super().__init__()
        self.register_buffer("value", value)


def teacher_of(student: nn.Module) -> nn.Module:
    """A copy that no gradient reaches, to be moved by `follow`."""
    return deepcopy(student).requires_grad_(False)


@torch.no_grad()
def taught(teacher: nn.Module, x_BCHW: Tensor) -> Tensor:
    """What the teacher says, without gradients. Its BatchNorm uses and records the batch's own statistics: followed ones lag
    behind its weights, and in a short run a teacher that used them would say the same of every image."""
    return teacher(x_BCHW)


def follow(teacher: nn.Module, student: nn.Module, momentum: Tensor | float) -> None:
    """teacher <- momentum * teacher + (1 - momentum) * student. He et al., arXiv:1911.05722, equation 2."""
    for theirs, mine in zip(teacher.parameters(), student.parameters(), strict=True):
        theirs.lerp_(mine, 1 - momentum)


def upsampler(width: int, channels: list[int], sizes: list[tuple[int, int]]) -> nn.Sequential:
    """A convolutional decoder: [B, width] -> [B, channels[0], *sizes[0]], from the last, smallest size up to the first."""
    layers: list[nn.Module] = [nn.Linear(width, channels[-1] * prod(sizes[-1])), nn.ReLU()]
    layers.append(nn.Unflatten(1, (channels[-1], *sizes[-1])))
    for n in range(len(channels) - 1, 0, -1):
        layers += [nn.Upsample(sizes[n - 1]), nn.Conv2d(channels[n], channels[n - 1], 3, padding=1)]
        if n > 1:
            layers += [nn.BatchNorm2d(channels[n - 1]), nn.ReLU()]
    return nn.Sequential(*layers)


class Readout(nn.Module):
    """Features of an image, [B, D]: some of an encoder's maps, pooled to `grid` x `grid` and concatenated.

    The encoder runs no further than the last map asked for.
    """

    def __init__(self, backbone: Backbone, maps: Iterable[int | str], pool: str, grid: int, image: tuple[int, int, int]):
        super().__init__()
        self.backbone = backbone
        with torch.no_grad():
            shapes = {name: m.shape for name, m in backbone.eval().maps(torch.zeros(1, *image))}
        backbone.train()
        self.names = resolve(list(maps), list(shapes))
        if any(len(shapes[n]) == 4 and min(shapes[n][2:]) < grid for n in self.names):
            raise ConfigError("features.grid", grid, f"larger than a map chosen: {shapes}")
        self.pool = nn.AdaptiveMaxPool2d(grid) if pool == "max" else nn.AdaptiveAvgPool2d(grid)
        self.width = sum(shapes[n][1] * (grid**2 if len(shapes[n]) == 4 else 1) for n in self.names)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        found: dict[str, Tensor] = {}
        for name, m in self.backbone.maps(x_BCHW):
            if name in self.names:
                found[name] = (self.pool(m) if m.dim() == 4 else m).flatten(1)
            if len(found) == len(self.names):
                break
        return torch.cat([found[n] for n in self.names], dim=1)


def resolve(wanted: list[int | str], names: list[str]) -> list[str]:
    """Names of the maps asked for by name or by position, in the encoder's order; -1 is the last, -99 stops at the first."""
    chosen = set()
    for w in wanted:
        if isinstance(w, int) and w < len(names):
            chosen.add(names[max(w, -len(names))])
        elif w in names:
            chosen.add(w)
        else:
            raise ConfigError("features.maps", w, f"this encoder has {', '.join(names)} (or positions, -1 the last)")
    return [n for n in names if n in chosen]


class Standardise(nn.Module):
    """(f - mean) / sd with fixed numbers, fitted once: [B, D] -> [B, D]."""

    mean: Tensor
    sd: Tensor

    def __init__(self, width: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("sd", torch.ones(width))

    def fit(self, f_ND: Tensor, each: bool) -> None:
        """`each`: every feature by its own spread (a dead one is left alone); else all by one common scale."""
        spread = f_ND.std(0) if each else f_ND.std(0).square().mean().sqrt().expand(f_ND.shape[1])
        self.mean.copy_(f_ND.mean(0))
        self.sd.copy_(spread.where(spread > 1e-2 * spread.max().clamp_min(1e-8), torch.ones_like(spread)))

    def forward(self, f_BD: Tensor) -> Tensor:
        return (f_BD - self.mean) / self.sd


class LinearMap(Backbone):
    """One map `projection`: [B, D]."""

    def __init__(self, image: tuple[int, int, int], width: int):
        super().__init__()
        self.image, self.width = image, width
        self.linear = nn.Linear(prod(image), width)

    def maps(self, x_BCHW):
        yield "projection", self.linear(x_BCHW.flatten(1))

    def mirror(self, width):
        return nn.Sequential(nn.Linear(width, prod(self.image)), nn.Unflatten(1, self.image))
