"""Bidirectional GAN: learn an encoder that inverts a generator. Donahue et al., arXiv:1605.09782.

The method is the same as ALI (Dumoulin et al., arXiv:1606.00704). A discriminator tells pairs
(x, E(x)) of an image from pairs (G(z), z) of a latent code. E and G can only fool it by becoming
each other's inverse (theorem 2). The discriminator's loss is
-log D(x, E(x)) - log(1 - D(G(z), z)); the non-saturating loss of encoder and generator together is
-log(1 - D(x, E(x))) - log D(G(z), z) (section 3.4).

The discriminator is a fully connected network of pixels and code, as the paper's for MNIST
(section 4.2), without BatchNorm. It would soon classify every pair correctly. Therefore its images
get noise (Sonderby et al., arXiv:1610.04490, section 3.2), and its loss has a gradient penalty at
real pairs, R/2 |d logit / d(x, E(x))|^2 (Mescheder et al., arXiv:1801.04406, equation 9).

Fine-tuning starts from the encoder. E's last layer, to the Z latents, is linear and is dropped. The
paper's Adam has beta1 = 0.5: pretrain_optim=adam_gan.
"""

from dataclasses import dataclass
from math import prod
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from sft_exp.core.pretrainer import Pretrainer
from sft_exp.errors import require


@dataclass
class BiGAN(Pretrainer):
    objectives: ClassVar[dict[str, tuple[str, int]]] = {
        "discriminator_loss": ("discriminator", 1),
        "inverses_loss": ("inverses", 1),
    }
    encoder_path: ClassVar[str] = "inverses.encoder"
    per_row: ClassVar[bool] = False  # the encoder may have BatchNorm

    latent: int = 50  # Z
    hidden: int = 512  # width of the discriminator's two hidden layers
    penalty: float = 1.0  # R, weight of the discriminator's gradient penalty
    noise: float = 0.3  # standard deviation of the noise on the discriminator's images

    def __post_init__(self):
        require(self.latent > 0, "latent", self.latent, "above 0")
        require(self.hidden > 0, "hidden", self.hidden, "above 0")
        require(0 <= self.penalty < float("inf"), "penalty", self.penalty, "0 or more")
        require(0 <= self.noise < float("inf"), "noise", self.noise, "0 or more")

    def networks(self, encoder, spec):
        inverses = {
            "encoder": encoder,
            "code": nn.Linear(encoder.width, self.latent),
            "generator": encoder.decoder(self.latent),
        }
        discriminator = nn.Sequential(
            nn.Linear(prod(spec.image) + self.latent, self.hidden),
            nn.LeakyReLU(0.2),
            nn.Linear(self.hidden, self.hidden),
            nn.LeakyReLU(0.2),
            nn.Linear(self.hidden, 1),
        )
        return nn.ModuleDict({"inverses": nn.ModuleDict(inverses), "discriminator": discriminator})

    def draw(self, batch, rng, progress):
        x_BCHW = batch["pool"]["x"]
        z_BZ = self.latents(len(x_BCHW), rng)
        return x_BCHW, z_BZ, self.noise * rng.randn(len(x_BCHW), 2, *x_BCHW.shape[1:])

    def latents(self, count, rng):
        """Uniform in [-1, 1], as in the paper's section 4.2 [count, Z]."""
        return 2 * rng.rand(count, self.latent) - 1

    def discriminator_loss(self, nets, x_BCHW, z_BZ, noise_B2CHW):
        with torch.no_grad():
            real, fake = self.pairs(nets, x_BCHW, z_BZ, noise_B2CHW)
        with torch.enable_grad():
            real = [part.requires_grad_() for part in real]
            real_B, fake_B = self.logits(nets, real), self.logits(nets, fake)
            gradients = torch.autograd.grad(real_B.sum(), real, create_graph=True)
        slope_B = torch.cat([g.flatten(1) for g in gradients], 1).square().sum(1)
        loss = F.softplus(-real_B).mean() + F.softplus(fake_B).mean()
        return loss + self.penalty / 2 * slope_B.mean(), {
            "p_real": real_B.sigmoid().mean(),
            "p_fake": fake_B.sigmoid().mean(),
            "slope": slope_B.mean(),
        }

    def inverses_loss(self, nets, x_BCHW, z_BZ, noise_B2CHW):
        real, fake = self.pairs(nets, x_BCHW, z_BZ, noise_B2CHW)
        real_B, fake_B = self.logits(nets, real), self.logits(nets, fake)
        return F.softplus(real_B).mean() + F.softplus(-fake_B).mean(), {}

    def pairs(self, nets, x_BCHW, z_BZ, noise_B2CHW):
        """The pairs (x, E(x)) and (G(z), z), with noise on the images."""
        real = x_BCHW + noise_B2CHW[:, 0], self.encode(nets, x_BCHW)
        return real, (self.generate(nets, z_BZ) + noise_B2CHW[:, 1], z_BZ)

    def logits(self, nets, pair):
        """The discriminator's logits that the pairs are real, (x, E(x)) [B]."""
        x_BCHW, z_BZ = pair
        return nets["discriminator"](torch.cat([x_BCHW.flatten(1), z_BZ], 1)).squeeze(1)

    def encode(self, nets, x_BCHW):
        return nets["inverses"]["code"](nets["inverses"]["encoder"](x_BCHW))

    def generate(self, nets, z_BZ):
        return nets["inverses"]["generator"](z_BZ).sigmoid()

    def show(self, nets, x_BCHW, rng):
        z_BZ = self.latents(len(x_BCHW), rng)
        return {
            "input": x_BCHW,
            "reconstruction": self.generate(nets, self.encode(nets, x_BCHW)),
            "sample": self.generate(nets, z_BZ),
        }
