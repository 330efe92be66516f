"""Every patch of the image by its likeness to K centroids: the single layer that k-means fits (Coates, Lee & Ng 2011)."""

from dataclasses import dataclass

from sft_exp.core.encoder import Encoder
from sft_exp.errors import require
from sft_exp.models.backbones import PatchNet


@dataclass
class Patches(Encoder):
    patch: int = 6  # pixels, height and width
    count: int = 256  # centroids K; the code is 4K wide
    stride: int = 2  # pixels between two patches

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
