"""No network: each pixel's own channels, as the floor that any map of features must beat."""

from dataclasses import dataclass

from sft_exp.core.encoder import Backbone, Encoder
from sft_exp.errors import ConfigError


@dataclass
class Colours(Encoder):
    def build(self, image):
        return Channels(image[0])


class Channels(Backbone):
    """Maps `colours`: the image [B, C, H, W]; then `mean`: [B, C]."""

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
            "has nothing to pretrain; take another encoder, or pretrainer=none",
        )
