"""Generative adversarial network with the non-saturating loss.

Goodfellow et al., arXiv:1406.2661, section 3. Discriminator: -log D(x) - log(1 - D(G(z)));
generator: -log D(G(z)). The encoder is the discriminator's trunk. Fine-tuning starts from the maps
of all layers below its code, max-pooled to 4x4 and concatenated, as in DCGAN (Radford et al.,
arXiv:1511.06434, section 5.1). The discriminator's BatchNorm normalises real and generated batches
separately; its running statistics are those of the real images alone, which the encoder meets
later. The paper's Adam has beta1 = 0.5: pretrain_optim=adam_gan.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import nn

from sft_exp.core.pretrainer import Pretrainer
from sft_exp.errors import require
from sft_exp.models.batchnorm import statistics_kept


@dataclass
class GAN(Pretrainer):
    objectives: ClassVar[dict[str, tuple[str, int]]] = {
        "discriminator_loss": ("discriminator", 1),
        "generator_loss": ("generator", 1),
    }
    encoder_path: ClassVar[str] = "discriminator.encoder"
    features: ClassVar[tuple[int, ...]] = (-4, -3, -2)
    pool: ClassVar[str] = "max"
    grid: ClassVar[int] = 4
    per_row: ClassVar[bool] = False  # both networks have BatchNorm

    latent: int = 50  # Z

    def __post_init__(self):
        require(self.latent > 0, "latent", self.latent, "above 0")

    def networks(self, encoder, spec):
        discriminator = nn.ModuleDict({"encoder": encoder, "head": nn.Linear(encoder.width, 1)})
        generator = encoder.decoder(self.latent)
        return nn.ModuleDict({"discriminator": discriminator, "generator": generator})

    def draw(self, batch, rng, progress):
        x_BCHW = batch["pool"]["x"]
        return x_BCHW, rng.randn(len(x_BCHW), self.latent)

    def discriminator_loss(self, nets, x_BCHW, z_BZ):
        real_B = self.logits(nets, x_BCHW)
        fake_B = self.fake_logits(nets, self.generate(nets, z_BZ).detach())
        loss = F.softplus(-real_B).mean() + F.softplus(fake_B).mean()
        return loss, {"p_real": real_B.sigmoid().mean(), "p_fake": fake_B.sigmoid().mean()}

    def generator_loss(self, nets, x_BCHW, z_BZ):
        return F.softplus(-self.fake_logits(nets, self.generate(nets, z_BZ))).mean(), {}

    def logits(self, nets, x_BCHW):
        """The discriminator's logits that the images are real [B]."""
        discriminator = nets["discriminator"]
        return discriminator["head"](discriminator["encoder"](x_BCHW)).squeeze(1)

    def fake_logits(self, nets, fake_BCHW):
        """The same of generated images, which must not change the running statistics [B]."""
        with statistics_kept(nets["discriminator"]):
            return self.logits(nets, fake_BCHW)

    def generate(self, nets, z_BZ):
        return nets["generator"](z_BZ).sigmoid()

    def show(self, nets, x_BCHW, rng):
        z_BZ = rng.randn(len(x_BCHW), self.latent)
        return {"input": x_BCHW, "sample": self.generate(nets, z_BZ)}
