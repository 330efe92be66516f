"""Generative adversarial network, non-saturating. Goodfellow et al., arXiv:1406.2661, section 3.

Discriminator: -log D(x) - log(1 - D(G(z))); generator: -log D(G(z)). The discriminator's trunk is the encoder and is kept:
the maps of all layers below the code, max-pooled to 4x4 and concatenated, as in DCGAN (Radford et al., arXiv:1511.06434,
section 5.1). Its BatchNorm normalises real and generated batches apart, and remembers the real ones alone: those are what the
encoder meets later. Adam with beta1 = 0.5: pretrain_optim=adam_gan.
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
    per_row: ClassVar[bool] = False  # BatchNorm in both networks

    latent: int = 50  # Z

    def __post_init__(self):
        require(self.latent > 0, "latent", self.latent, "above 0")

    def networks(self, encoder, spec):
        return nn.ModuleDict(
            {
                "discriminator": nn.ModuleDict(
                    {"encoder": encoder, "head": nn.Linear(encoder.width, 1)}
                ),
                "generator": encoder.decoder(self.latent),
            }
        )

    def draw(self, batch, rng, progress):
        x_BCHW = batch["pool"]["x"]
        return x_BCHW, rng.randn(len(x_BCHW), self.latent)

    def discriminator_loss(self, nets, x_BCHW, z_BZ):
        real_B, fake_B = (
            self.judge(nets, x_BCHW),
            self.judge_fake(nets, self.generate(nets, z_BZ).detach()),
        )
        loss = F.softplus(-real_B).mean() + F.softplus(fake_B).mean()
        return loss, {"p_real": real_B.sigmoid().mean(), "p_fake": fake_B.sigmoid().mean()}

    def generator_loss(self, nets, x_BCHW, z_BZ):
        return F.softplus(-self.judge_fake(nets, self.generate(nets, z_BZ))).mean(), {}

    def judge(self, nets, x_BCHW):
        """-> logit that the image is real [B]"""
        discriminator = nets["discriminator"]
        return discriminator["head"](discriminator["encoder"](x_BCHW)).squeeze(1)

    def judge_fake(self, nets, fake_BCHW):
        with statistics_kept(nets["discriminator"]):
            return self.judge(nets, fake_BCHW)

    def generate(self, nets, z_BZ):
        return nets["generator"](z_BZ).sigmoid()

    def show(self, nets, x_BCHW, rng):
        z_BZ = rng.randn(len(x_BCHW), self.latent)
        return {"input": x_BCHW, "sample": self.generate(nets, z_BZ)}
