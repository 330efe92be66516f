"""The base classes of encoders, i.e. hyperparameters, and of the networks built from them."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor, nn


class Backbone(nn.Module):
    """The network that an encoder builds. It yields named feature maps.

    Features of inner layers, layer-wise learning rates and gradual unfreezing all rely on the maps.
    """

    width: int  # D, width of the code

    def maps(self, x_BCHW: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Yield the named feature maps from the input up, [B, D] or [B, D, H, W], lazily."""
        raise NotImplementedError

    def decoder(self, width: int) -> nn.Module:
        """A decoder as large as this encoder: [B, width] -> one logit per pixel [B, C, H, W]."""
        raise NotImplementedError

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """The last map, flattened: the code [B, D]."""
        *_, (_, last) = self.maps(x_BCHW)
        return last.flatten(1)


@dataclass
class Encoder:
    """The hyperparameters of a network from images to features.

    `models.normalise.backbone` applies `mean` to `interpolation` around the network that `build`
    returns.
    """

    # as a control, it is initialised with the principal components of the training images
    starts_fitted: ClassVar[bool] = False

    # mean of each channel, subtracted from images in [0, 1], as published weights expect
    mean: list[float] | None = field(default=None, kw_only=True)
    # standard deviation of each channel, by which images are then divided; null = neither
    std: list[float] | None = field(default=None, kw_only=True)
    # Pixels a side that the network sees; null = images as they are.
    size: int | None = field(default=None, kw_only=True)
    # With `size`: the share of the image's sides, around its centre, that is seen; null = as the weights, else all.
    crop: float | None = field(default=None, kw_only=True)
    # With `size`: bilinear or bicubic; null = as the weights, else bilinear.
    interpolation: str | None = field(default=None, kw_only=True)

    def build(self, image: tuple[int, int, int]) -> Backbone:
        """Build the network for images [C, H, W].

        Raises:
            ConfigError: the encoder does not fit the image.
        """
        raise NotImplementedError

    def variants(self, image: tuple[int, int, int]) -> "list[Encoder]":
        """The encoders that fields with the value `auto` may stand for, the default for such images
        first. Weights from a file choose the one that they fit best."""
        return [self]

    def published(self) -> str | None:
        """The name of public ImageNet weights of this encoder, as `pretrainer.init` takes it; None if there are none."""
        return None
