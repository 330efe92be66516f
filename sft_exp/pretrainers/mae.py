"""Masked autoencoder for any encoder: reconstruct the patches that were masked.

He et al., arXiv:2111.06377. Loss: the squared error over the pixels of the masked patches alone,
averaged over each image. Each image and step masks a fixed number of randomly drawn patches. A
vision transformer would skip the masked patches; here the encoder gets the whole image with these
patches set to 0, as in context encoders (Pathak et al., arXiv:1604.07379). Fine-tuning starts from
the maps below the code.
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

    patch: int = 4  # height and width in pixels; those at the right and lower border may be cut off
    masked: float = 0.6  # share of the patches that are masked
    # standardise each patch of the target by its own mean and standard deviation (section 4; better
    # on natural images)
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

    def pixels(self, values_BRC, x_BCHW):
        """One value per patch [B, rows, columns] as one per pixel [B, 1, H, W]."""
        whole = values_BRC.repeat_interleave(self.patch, 1).repeat_interleave(self.patch, 2)
        return whole[:, None, : x_BCHW.shape[2], : x_BCHW.shape[3]]

    def loss(self, nets, x_BCHW, masked_B1HW):
        h_BCHW = nets["decoder"](nets["encoder"](x_BCHW.masked_fill(masked_B1HW, 0)))
        target_BCHW = self.normalised(x_BCHW) if self.normalise else x_BCHW
        error_B1HW = (h_BCHW - target_BCHW).square().mean(1, keepdim=True) * masked_B1HW
        return (error_B1HW.sum((1, 2, 3)) / masked_B1HW.sum((1, 2, 3))).mean(), {}

    def normalised(self, x_BCHW):
        """The images with each patch standardised by its own mean and standard deviation."""
        mean_B1HW, sd_B1HW = self.patch_statistics(x_BCHW)
        return (x_BCHW - mean_B1HW) / sd_B1HW

    def patch_statistics(self, x_BCHW):
        """Mean and standard deviation of each pixel's patch [B, 1, H, W] each."""
        mean, square = (self.patch_mean(v) for v in (x_BCHW, x_BCHW.square()))
        return mean, (square - mean.square()).clamp_min(0).add(1e-6).sqrt()

    def patch_mean(self, x_BCHW):
        """The mean of each pixel's patch, over its pixels and channels [B, 1, H, W]."""
        mean_B1HW = x_BCHW.mean(1, keepdim=True)
        pool = nn.AvgPool2d(self.patch, ceil_mode=True, count_include_pad=False)
        return self.pixels(pool(mean_B1HW).squeeze(1), x_BCHW)

    def show(self, nets, x_BCHW, rng):
        _, masked_B1HW = self.draw({"pool": {"x": x_BCHW}}, rng, 1.0)
        visible_BCHW = x_BCHW.masked_fill(masked_B1HW, 0)
        h_BCHW = nets["decoder"](nets["encoder"](visible_BCHW))
        if self.normalise:  # back to grey levels, with the true statistics of each patch
            mean_B1HW, sd_B1HW = self.patch_statistics(x_BCHW)
            h_BCHW = h_BCHW * sd_B1HW + mean_B1HW
        return {
            "input": x_BCHW,
            "masked": visible_BCHW,
            "filled in": x_BCHW.where(~masked_B1HW, h_BCHW.clamp(0, 1)),
        }
