"""Masked autoencoder, for encoders that see whole images: fill in the patches that were blacked out. He et al., arXiv:2111.06377.

Loss: the squared error over the pixels of masked patches alone, a mean for each image. A fixed number of patches, drawn
anew for each image and step, is masked. With a vision transformer the masked patches would not be computed at all; here they
are set to 0, as in context encoders (Pathak et al., arXiv:1604.07379), and the network is small. Kept: the maps below
the code.
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from sft_exp.core.pretrainer import Pretrainer
from sft_exp.errors import require


@dataclass
class MAE(Pretrainer):
    features: ClassVar[tuple[int, ...]] = (-4, -3, -2)
    pool: ClassVar[str] = "max"
    grid: ClassVar[int] = 4

    patch: int = 4  # pixels, height and width; at the right and lower border what is left of one
    masked: float = 0.6  # share of the patches
    # predict each patch relative to its own mean and spread (section 4, better on natural images)
    normalise: bool = False

    def __post_init__(self):
        require(self.patch > 0, "patch", self.patch, "above 0")
        require(0 < self.masked < 1, "masked", self.masked, "between 0 and 1")

    def networks(self, encoder, spec):
        _, height, width = spec.image
        require(
            self.patch < max(height, width),
            "patch",
            self.patch,
            f"below {max(height, width)}, the image's longer side",
        )
        return nn.ModuleDict({"encoder": encoder, "decoder": encoder.decoder(encoder.width)})

    def draw(self, batch, rng, progress):
        x_BCHW = batch["pool"]["x"]
        rows, columns = (-(-side // self.patch) for side in x_BCHW.shape[2:])
        count = min(max(1, round(self.masked * rows * columns)), rows * columns - 1)
        order_BN = rng.rand(len(x_BCHW), rows * columns).argsort(1)
        return x_BCHW, self.pixels((order_BN < count).unflatten(1, (rows, columns)), x_BCHW)

    def pixels(self, of_patch_BRC, x_BCHW):
        """A value a patch [B, rows, columns] as one a pixel [B, 1, H, W]."""
        whole = of_patch_BRC.repeat_interleave(self.patch, 1).repeat_interleave(self.patch, 2)
        return whole[:, None, : x_BCHW.shape[2], : x_BCHW.shape[3]]

    def loss(self, nets, x_BCHW, gone_B1HW):
        h_BCHW = nets["decoder"](nets["encoder"](x_BCHW.masked_fill(gone_B1HW, 0)))
        target_BCHW = self.normalised(x_BCHW) if self.normalise else x_BCHW
        error_B1HW = (h_BCHW - target_BCHW).square().mean(1, keepdim=True) * gone_B1HW
        return (error_B1HW.sum((1, 2, 3)) / gone_B1HW.sum((1, 2, 3))).mean(), {}

    def normalised(self, x_BCHW):
        """Each pixel relative to the mean and spread of its patch."""
        mean, square = (self.patch_mean(v) for v in (x_BCHW, x_BCHW.square()))
        return (x_BCHW - mean) / (square - mean.square()).clamp_min(0).add(1e-6).sqrt()

    def patch_mean(self, x_BCHW):
        """The mean of each pixel's patch, over its pixels and channels [B, 1, H, W]."""
        mean_B1HW = x_BCHW.mean(1, keepdim=True)
        pool = nn.AvgPool2d(self.patch, ceil_mode=True, count_include_pad=False)
        return self.pixels(pool(mean_B1HW).squeeze(1), x_BCHW)

    def show(self, nets, x_BCHW, rng):
        _, gone_B1HW = self.draw({"pool": {"x": x_BCHW}}, rng, 1.0)
        seen_BCHW = x_BCHW.masked_fill(gone_B1HW, 0)
        h_BCHW = nets["decoder"](nets["encoder"](seen_BCHW))
        if self.normalise:  # back to grey levels, with the true mean and spread of each patch
            mean, square = (self.patch_mean(v) for v in (x_BCHW, x_BCHW.square()))
            h_BCHW = h_BCHW * (square - mean.square()).clamp_min(0).add(1e-6).sqrt() + mean
        return {
            "input": x_BCHW,
            "masked": seen_BCHW,
            "filled in": x_BCHW.where(~gone_B1HW, h_BCHW.clamp(0, 1)),
        }
