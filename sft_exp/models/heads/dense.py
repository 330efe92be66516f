"""Segmentation heads on an encoder's maps: a feature pyramid, U-Net's decoder, and torchvision's heads.

Each head is a module that takes the image as `IMAGE` and maps by name, each [B, D, H, W], and returns logits
[B, Y, h, w] of the image's or a smaller size.
"""

from collections.abc import Mapping
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sft_exp.errors import ConfigError
from sft_exp.models.layers import group_norm

HEADS = ("fpn", "unet", "fcn", "deeplabv3", "lraspp", "pixel")
IMAGE = "input image"  # among the maps
LEAST = 16  # channels of U-Net's decoder
Shapes = Mapping[str, tuple[int, ...]]  # map -> (D, H, W)


def head(
    kind: str,
    shapes: Shapes,
    classes: int,
    width: int,
    groups: int | None,
    image: tuple[int, int, int],
) -> nn.Module:
    """The head of that name for maps of these shapes. ConfigError if none has rows and columns."""
    levels = last_of_each_size(shapes)
    if not levels:
        raise ConfigError(
            "features.maps",
            list(shapes),
            "holds no map with rows and columns, which segmentation needs",
        )
    if kind == "unet":
        return UNet(last_of_each_size({IMAGE: image, **shapes}), classes, width, groups)
    if kind == "fpn":
        return Pyramid(levels, classes, width, groups)
    own_head = {"pixel": Pixelwise, "lraspp": Lraspp}.get(kind)
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

    def __init__(self, levels: Shapes, classes: int, width: int, groups: int | None):
        super().__init__()
        from torchvision.ops import FeaturePyramidNetwork

        self.names = list(levels)
        self.pyramid = FeaturePyramidNetwork([levels[n][0] for n in self.names], width)
        self.mix = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=False), group_norm(groups, width), nn.ReLU()
        )
        self.out = nn.Conv2d(width, classes, 1)

    def forward(self, maps: Mapping[str, Tensor]) -> Tensor:
        first, *others = self.pyramid({n: maps[n] for n in self.names}).values()
        for level in others:
            first = first + F.interpolate(
                level, first.shape[2:], mode="bilinear", align_corners=False
            )
        return self.out(self.mix(first))


class UNet(nn.Module):
    """The decoder of a U-Net (Ronneberger et al., arXiv:1505.04597, section 2) up to the size of the image.

    From the smallest map on: enlarged, beside the next larger map, two convolutions. The first has `width` channels, each
    further one half of that, LEAST or more. The image is the largest map if the encoder has none of its size.
    """

    def __init__(self, levels: Shapes, classes: int, width: int, groups: int | None):
        super().__init__()
        self.names = [*levels][::-1]
        widths = [max(min(LEAST, width), width >> n) for n in range(len(self.names) - 1)]
        before = [levels[self.names[0]][0], *widths]
        beside = [levels[name][0] for name in self.names[1:]]
        self.steps = nn.ModuleList(
            nn.Sequential(*convolved(a + skip, b, groups), *convolved(b, b, groups))
            for (a, b), skip in zip(pairwise(before), beside, strict=True)
        )
        self.out = nn.Conv2d(before[-1], classes, 1)

    def forward(self, maps: Mapping[str, Tensor]) -> Tensor:
        smallest, *larger = [maps[name] for name in self.names]
        m = smallest
        for step, skip in zip(self.steps, larger, strict=True):
            enlarged = F.interpolate(m, skip.shape[2:], mode="bilinear", align_corners=False)
            m = step(torch.cat([enlarged, skip], 1))
        return self.out(m)


def convolved(a: int, b: int, groups: int | None) -> list[nn.Module]:
    # GroupNorm, as gradients of a batch's pieces must add up to those of the batch
    return [nn.Conv2d(a, b, 3, padding=1, bias=False), group_norm(groups, b), nn.ReLU()]


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
