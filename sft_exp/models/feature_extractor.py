"""An encoder whose selected feature maps are pooled and concatenated."""

from collections.abc import Iterable, Iterator
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sft_exp.core.encoder import Backbone
from sft_exp.core.types import Layers
from sft_exp.errors import ConfigError

DENSE = "dense"  # value of features.maps: all maps with rows and columns


class FeatureExtractor(nn.Module):
    """Features [B, D]: an encoder's selected maps, pooled to `grid` x `grid` at most, concatenated.

    The encoder stops after the last selected map.
    """

    def __init__(
        self,
        backbone: Backbone,
        maps: Iterable[int | str],
        pool: str,
        grid: int,
        image: tuple[int, int, int],
    ):
        super().__init__()
        self.backbone = backbone
        with torch.no_grad():
            shapes = {name: m.shape for name, m in backbone.eval().maps(torch.zeros(1, *image))}
        backbone.train()
        self.names = (
            resolve(list(maps), list(shapes))
            if list(maps) != [DENSE]
            else [n for n, s in shapes.items() if len(s) == 4]
        )
        if not self.names:
            raise ConfigError(
                "encoder",
                type(backbone).__name__,
                "has no maps with rows and columns, which this task starts at",
            )
        self.shapes = {name: tuple(shapes[name][1:]) for name in self.names}  # (D,) or (D, H, W)
        self.pool = F.adaptive_max_pool2d if pool == "max" else F.adaptive_avg_pool2d
        self.grids = {
            n: (min(grid, shapes[n][2]), min(grid, shapes[n][3]))
            for n in self.names
            if len(shapes[n]) == 4
        }
        self.width = sum(shapes[n][1] * prod(self.grids.get(n, ())) for n in self.names)

    def maps(self, x_BCHW: Tensor) -> Iterator[tuple[str, Tensor]]:
        """The selected maps by name, unpooled: [B, D] or [B, D, H, W]."""
        for name, m in self.backbone.maps(x_BCHW):
            if name in self.names:
                yield name, m
            if name == self.names[-1]:
                return

    def pool_map(self, name: str, m: Tensor) -> Tensor:
        """A map of this name, [B, D] or [B, D, H, W], pooled and flattened to features [B, D]."""
        return (self.pool(m, self.grids[name]) if name in self.grids else m).flatten(1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return torch.cat([self.pool_map(name, m) for name, m in self.maps(x_BCHW)], dim=1)


class Precomputed(nn.Identity):
    """Takes the place of an encoder whose features [B, D] are given instead of images."""

    def __init__(self, width: int):
        super().__init__()
        self.width = width


def layers(encoder: FeatureExtractor, image: tuple[int, int, int]) -> Layers:
    """For each map the parameters that it depends on and earlier maps do not, up to the last
    selected map.

    The parameters are found by the gradients of the maps. `image` is (C, H, W).
    """
    remaining = {name: p for name, p in encoder.backbone.named_parameters() if p.requires_grad}
    device, by_map = next((p.device for p in remaining.values()), None), Layers()
    for map_name, m in encoder.backbone.eval().maps(torch.zeros(1, *image, device=device)):
        gradients = (
            torch.autograd.grad(
                m.sum(), list(remaining.values()), retain_graph=True, allow_unused=True
            )
            if remaining and m.requires_grad
            else ()
        )
        by_map[map_name] = [
            name for name, g in zip(remaining, gradients, strict=False) if g is not None
        ]
        remaining = {name: p for name, p in remaining.items() if name not in by_map[map_name]}
        if map_name == encoder.names[-1]:
            break
    return by_map


def resolve(keys: list[int | str], names: list[str]) -> list[str]:
    """The names of the maps that `keys` select by name or position, in the encoder's order.

    -1 is the last map; negative positions beyond the first map mean the first.

    Raises:
        ConfigError: a name or a position does not exist.
    """
    chosen = set()
    for key in keys:
        if isinstance(key, int) and key < len(names):
            chosen.add(names[max(key, -len(names))])
        elif key in names:
            chosen.add(key)
        else:
            raise ConfigError(
                "features.maps",
                key,
                f"this encoder has {', '.join(names)} (or positions, -1 the last)",
            )
    return [n for n in names if n in chosen]
