"""What an encoder is: hyperparameters that build a backbone, and a backbone that yields named feature maps."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor, nn


class Backbone(nn.Module):
    """What an encoder builds. One contract carries features by layer, layer-wise rates and gradual unfreezing."""

    width: int  # D of the code

    def maps(self, x_BCHW: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Named feature maps in order, [B, D] or [B, D, H, W], computed as they are asked for."""
        raise NotImplementedError

    def decoder(self, width: int) -> nn.Module:
        """A decoder as large as this encoder: [B, width] -> one logit a pixel [B, C, H, W]."""
        raise NotImplementedError

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """The last map, flattened: the code [B, D]."""
        *_, (_, last) = self.maps(x_BCHW)
        return last.flatten(1)


@dataclass
class Encoder:
    """A network from images to features, as hyperparameters.

    `mean` to `interpolation` are applied around what `build` returns, by `models.normalise.backbone`.
    """

    # Whether, as a control, it starts at the principal components of the images that may be learnt from.
    starts_fitted: ClassVar[bool] = False

    # Of each channel: what public weights subtract from [0, 1].
    mean: list[float] | None = field(default=None, kw_only=True)
    # Of each channel: what they then divide by; null = neither.
    std: list[float] | None = field(default=None, kw_only=True)
    # Pixels a side that the network sees; null = images as they are.
    size: int | None = field(default=None, kw_only=True)
    # With `size`: the share of the image's sides, around its centre, that is seen; null = as the weights, else all.
    crop: float | None = field(default=None, kw_only=True)
    # With `size`: bilinear or bicubic; null = as the weights, else bilinear.
    interpolation: str | None = field(default=None, kw_only=True)

    def build(self, image: tuple[int, int, int]) -> Backbone:
        """ConfigError if the encoder does not fit the image."""
        raise NotImplementedError

    def variants(self, image: tuple[int, int, int]) -> "list[Encoder]":
        """The encoders that fields left open (`auto`) may stand for, the usual one for such images first. Weights from a file
        choose the one that they fit best."""
        return [self]

    def published(self) -> str | None:
        """The name of public ImageNet weights of this encoder, as `pretrainer.init` takes it; None if there are none."""
        return None
