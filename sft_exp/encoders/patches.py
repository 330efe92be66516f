"""All patches of the image, encoded by their similarity to K centroids.

This is the single layer that k-means fits. Coates, Lee & Ng, AISTATS 2011.
"""

from dataclasses import dataclass

from sft_exp.core.encoder import Encoder
from sft_exp.errors import require
from sft_exp.models.backbones import PatchNet


@dataclass
class Patches(Encoder):
    patch: int = 6  # height and width of a patch in pixels
    count: int = 256  # K, number of centroids; the code has 4K dimensions
    stride: int = 2  # pixels between neighbouring patches

    def __post_init__(self):
        require(self.patch > 1, "patch", self.patch, "above 1")
        require(self.count > 1, "count", self.count, "above 1")
        require(self.stride > 0, "stride", self.stride, "above 0")

    def build(self, image):
        require(
            self.patch <= min(image[1:]),
            "patch",
            self.patch,
            f"at most {min(image[1:])}, the image's shorter side",
        )
        return PatchNet(image, self.patch, self.count, self.stride)
