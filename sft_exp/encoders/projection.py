"""One linear map of the centred pixels: what PCA fits."""

from dataclasses import dataclass
from math import prod
from typing import ClassVar

from sft_exp.core.encoder import Encoder
from sft_exp.errors import require
from sft_exp.models.backbones import LinearMap


@dataclass
class Projection(Encoder):
    starts_fitted: ClassVar[bool] = True

    width: int = 50

    def build(self, image):
        require(
            0 < self.width <= prod(image),
            "width",
            self.width,
            f"1 to {prod(image)}, the number of pixels",
        )
        return LinearMap(image, self.width)
