"""The pixels themselves, without a network: the baseline of every learned feature."""

from dataclasses import dataclass
from math import prod

from sft_exp.core.encoder import Backbone, Encoder
from sft_exp.errors import ConfigError


@dataclass
class Pixels(Encoder):
    def build(self, image):
        return Identity(prod(image))


class Identity(Backbone):
    """Yields one map, `pixels` [B, C*H*W]."""

    def __init__(self, width: int):
        super().__init__()
        self.width = width

    def maps(self, x_BCHW):
        yield "pixels", x_BCHW.flatten(1)

    def decoder(self, width):
        raise ConfigError(
            "encoder",
            "pixels",
            "has no parameters to pretrain; choose another encoder, or pretrainer=none",
        )
