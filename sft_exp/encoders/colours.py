"""The channels of each pixel, without a network: the baseline of every feature map."""

from dataclasses import dataclass

from sft_exp.core.encoder import Backbone, Encoder
from sft_exp.errors import ConfigError


@dataclass
class Colours(Encoder):
    def build(self, image):
        return Channels(image[0])


class Channels(Backbone):
    """Yields `colours`, the image [B, C, H, W], then `mean`, its mean over pixels [B, C]."""

    def __init__(self, width: int):
        super().__init__()
        self.width = width

    def maps(self, x_BCHW):
        yield "colours", x_BCHW
        yield "mean", x_BCHW.mean((2, 3))

    def decoder(self, width):
        raise ConfigError(
            "encoder",
            "colours",
            "has no parameters to pretrain; choose another encoder, or pretrainer=none",
        )
