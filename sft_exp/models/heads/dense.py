"""Segmentation heads on an encoder's maps: a feature pyramid, and torchvision's heads.

Each head is a module that takes maps by name, largest first, each [B, D, H, W], and returns logits
[B, Y, h, w] of some smaller size.
"""

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor, nn

from sft_exp.errors import ConfigError

HEADS = ("fpn", "fcn", "deeplabv3", "lraspp", "pixel")
Shapes = Mapping[str, tuple[int, ...]]  # map -> (D, H, W)


def head(kind: str, shapes: Shapes, classes: int, width: int) -> nn.Module:
    """The head of that name for maps of these shapes. ConfigError if none has rows and columns."""
    levels = last_of_each_size(shapes)
    if not levels:
        raise ConfigError(
            "features.maps",
            list(shapes),
            "holds no map with rows and columns, which segmentation needs",
        )
    own_head = {"fpn": Pyramid, "pixel": Pixelwise, "lraspp": Lraspp}.get(kind)
    if own_head:
        return own_head(levels, classes, width)
    from torchvision.models.segmentation.deeplabv3 import DeepLabHead
    from torchvision.models.segmentation.fcn import FCNHead

    name, (channels, *_) = list(levels.items())[-1]
    return Last(
        name, DeepLabHead(channels, classes) if kind == "deeplabv3" else FCNHead(channels, classes)
    )


def last_of_each_size(shapes: Shapes) -> dict[str, tuple[int, ...]]:
    """The last map of each size, largest first."""
    last = {shape[1:]: name for name, shape in shapes.items() if len(shape) == 3}
    return {
        name: shapes[name]
        for name in sorted(last.values(), key=lambda n: -shapes[n][1] * shapes[n][2])
    }


class Pyramid(nn.Module):
    """Feature pyramid (Lin et al., arXiv:1612.03144) with its levels summed at the largest size
    (Kirillov et al., arXiv:1901.02446, section 3)."""

    def __init__(self, levels: Shapes, classes: int, width: int):
        super().__init__()
        from torchvision.ops import FeaturePyramidNetwork

        self.names = list(levels)
        self.pyramid = FeaturePyramidNetwork([levels[n][0] for n in self.names], width)
        self.mix = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=False), nn.GroupNorm(1, width), nn.ReLU()
        )
        self.out = nn.Conv2d(width, classes, 1)

    def forward(self, maps: Mapping[str, Tensor]) -> Tensor:
        first, *others = self.pyramid({n: maps[n] for n in self.names}).values()
        for level in others:
            first = first + F.interpolate(
                level, first.shape[2:], mode="bilinear", align_corners=False
            )
        return self.out(self.mix(first))


class Lraspp(nn.Module):
    """torchvision's LR-ASPP (Howard et al., arXiv:1905.02244, section 6.3).

    It reads the smallest map and the one nearest to four times its height.
    """

    def __init__(self, levels: Shapes, classes: int, width: int):
        super().__init__()
        from torchvision.models.segmentation.lraspp import LRASPPHead

        self.high = list(levels)[-1]
        height = 4 * levels[self.high][1]
        self.low = min(levels, key=lambda n: abs(levels[n][1] - height))
        self.net = LRASPPHead(levels[self.low][0], levels[self.high][0], classes, width)

    def forward(self, maps: Mapping[str, Tensor]) -> Tensor:
        return self.net({"low": maps[self.low], "high": maps[self.high]})


class Last(nn.Module):
    """A head that reads only the smallest map."""

    def __init__(self, name: str, net: nn.Module):
        super().__init__()
        self.name, self.net = name, net

    def forward(self, maps: Mapping[str, Tensor]) -> Tensor:
        return self.net(maps[self.name])


class Pixelwise(nn.Module):
    """A linear layer applied to each pixel of the largest map."""

    def __init__(self, levels: Shapes, classes: int, width: int):
        super().__init__()
        self.name = next(iter(levels))
        self.linear: nn.Module = nn.Linear(levels[self.name][0], classes)

    def forward(self, maps: Mapping[str, Tensor]) -> Tensor:
        return self.linear(maps[self.name].movedim(1, -1)).movedim(-1, 1)
