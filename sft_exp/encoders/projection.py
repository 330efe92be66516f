"""One linear map of the centred pixels, which pretrainer=pca fits."""

from dataclasses import dataclass
from math import prod
from typing import ClassVar

from sft_exp.core.encoder import Encoder
from sft_exp.errors import require
from sft_exp.models.backbones import LinearMap


@dataclass
class Projection(Encoder):
    starts_fitted: ClassVar[bool] = True

    width: int = 50  # of the code

    def build(self, image):
        pixels = prod(image)
        valid = f"1 to {pixels}, the number of pixels"
        require(0 < self.width <= pixels, "width", self.width, valid)
        return LinearMap(image, self.width)
