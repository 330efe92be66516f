"""A small convolutional network for CPUs: 3x3 convolutions of stride 2, then a linear layer."""

from collections.abc import Callable
from dataclasses import dataclass, field
from math import ceil

from torch import nn

from sft_exp.core.encoder import Backbone, Encoder
from sft_exp.errors import require
from sft_exp.models.layers import upsampler

NORMS: dict[str, Callable[[int], nn.Module]] = {
    "batch": nn.BatchNorm2d,
    "layer": lambda channels: nn.GroupNorm(1, channels),
}


@dataclass
class Conv(Encoder):
    # output channels of each convolution (stride 2)
    channels: list[int] = field(default_factory=lambda: [32, 64, 128])
    code: int = 128  # width of the linear layer after the convolutions
    # batch, or layer (over an image's channels and pixels, for losses that allow no BatchNorm)
    norm: str = "batch"

    def __post_init__(self):
        require(
            bool(self.channels) and min(self.channels) > 0,
            "channels",
            self.channels,
            "a list of widths above 0",
        )
        require(self.code > 0, "code", self.code, "above 0")
        require(self.norm in NORMS, "norm", self.norm, " or ".join(NORMS))

    def build(self, image):
        # the input of the last convolution must have more than one pixel
        smallest = 2 ** (len(self.channels) - 1) + 1
        require(
            min(image[1:]) >= smallest,
            "channels",
            self.channels,
            f"shorter for images of {image[1]}x{image[2]}: {len(self.channels)} halvings "
            f"need {smallest} pixels or more",
        )
        return ConvNet(image, list(self.channels), self.code, self.norm)


class ConvNet(Backbone):
    """Yields `conv1`, `conv2`, ... [B, D, H, W], each after norm and ReLU, then `code` [B, D]."""

    def __init__(
        self, image: tuple[int, int, int], channels: list[int], code: int, norm: str = "batch"
    ):
        super().__init__()
        self.norm = NORMS[norm]
        self.channels, self.sizes, self.width = [image[0], *channels], [image[1:]], code
        for _ in channels:
            self.sizes.append((ceil(self.sizes[-1][0] / 2), ceil(self.sizes[-1][1] / 2)))
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(a, b, 3, stride=2, padding=1, bias=False), self.norm(b), nn.ReLU()
            )
            for a, b in zip(self.channels, channels, strict=False)
        )
        self.code = nn.Sequential(
            nn.Flatten(),
            nn.Linear(channels[-1] * self.sizes[-1][0] * self.sizes[-1][1], code),
            nn.ReLU(),
        )

    def maps(self, x_BCHW):
        for n, block in enumerate(self.blocks, start=1):
            x_BCHW = block(x_BCHW)
            yield f"conv{n}", x_BCHW
        yield "code", self.code(x_BCHW)

    def decoder(self, width):
        return upsampler(width, self.channels, self.sizes, self.norm)
