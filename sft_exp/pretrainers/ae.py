"""Autoencoder: reconstruct the image from its code. Hinton & Salakhutdinov, Science 313 (2006).

Loss: ||x - g(f(x))||^2, or the cross-entropy of Bernoulli pixels. Fine-tuning starts from the
encoder: from its code, or from a feature map below it.
"""

from dataclasses import dataclass

from torch import nn

from sft_exp.core.pretrainer import Pretrainer
from sft_exp.losses import Reconstruction


@dataclass
class AE(Pretrainer):
    reconstruction: str = "bernoulli"  # bernoulli, squared (half the sum over pixels), mean_squared
    output: str = "sigmoid"  # last activation of the decoder: linear, relu or sigmoid

    def __post_init__(self):
        self.criterion = Reconstruction(self.reconstruction, self.output)

    def networks(self, encoder, spec):
        return nn.ModuleDict({"encoder": encoder, "decoder": encoder.decoder(encoder.width)})

    def draw(self, batch, rng, progress):
        return (batch["pool"]["x"],)

    def loss(self, nets, x_BCHW):
        return self.criterion.error(nets["decoder"](nets["encoder"](x_BCHW)), x_BCHW), {}

    def show(self, nets, x_BCHW, rng):
        reconstruction_BCHW = self.criterion.picture(nets["decoder"](nets["encoder"](x_BCHW)))
        return {"input": x_BCHW, "reconstruction": reconstruction_BCHW}
