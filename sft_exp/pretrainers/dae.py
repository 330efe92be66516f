"""Denoising autoencoder: reconstruct the clean image from a corrupted one.

Vincent et al., JMLR 11 (2010), section 4. Loss: the reconstruction error between x and g(f(x~)),
where x~ is the corrupted image. Fine-tuning starts from the encoder and its code.
"""

from dataclasses import dataclass

from torch import nn

from sft_exp.core.pretrainer import Pretrainer
from sft_exp.errors import require
from sft_exp.losses import Reconstruction


@dataclass
class DAE(Pretrainer):
    corruption: str = "mask"  # mask (pixels set to 0) or gaussian (noise added)
    amount: float = 0.5  # share of the pixels that are masked, or standard deviation of the noise
    reconstruction: str = "bernoulli"  # bernoulli, squared (half the sum over pixels), mean_squared
    output: str = "sigmoid"  # last activation of the decoder: linear, relu or sigmoid

    def __post_init__(self):
        self.criterion = Reconstruction(self.reconstruction, self.output)
        known = ("mask", "gaussian")
        require(self.corruption in known, "corruption", self.corruption, "mask or gaussian")
        limit = 1.0 if self.corruption == "mask" else float("inf")
        require(
            0 <= self.amount < limit,
            "amount",
            self.amount,
            "at least 0 and below 1 for mask, 0 or more for gaussian",
        )

    def networks(self, encoder, spec):
        return nn.ModuleDict({"encoder": encoder, "decoder": encoder.decoder(encoder.width)})

    def draw(self, batch, rng, progress):
        x_BCHW = batch["pool"]["x"]
        if self.corruption == "mask":
            return x_BCHW, x_BCHW * (rng.rand(*x_BCHW.shape) >= self.amount)
        return x_BCHW, x_BCHW + self.amount * rng.randn(*x_BCHW.shape)

    def loss(self, nets, x_BCHW, noisy_BCHW):
        return self.criterion.error(nets["decoder"](nets["encoder"](noisy_BCHW)), x_BCHW), {}

    def show(self, nets, x_BCHW, rng):
        _, noisy_BCHW = self.draw({"pool": {"x": x_BCHW}}, rng, 1.0)
        clean_BCHW = self.criterion.picture(nets["decoder"](nets["encoder"](noisy_BCHW)))
        return {"input": x_BCHW, "corrupted": noisy_BCHW.clamp(0, 1), "reconstruction": clean_BCHW}
