"""Bidirectional GAN. Donahue et al., arXiv:1605.09782; the same as ALI, Dumoulin et al., arXiv:1606.00704.

A discriminator is shown pairs, (x, E(x)) of an image and (G(z), z) of a code, and says which: E and G can only fool it by
becoming each other's inverse (theorem 2). Discriminator: -log D(x, E(x)) - log(1 - D(G(z), z)); encoder and generator
together, not saturating: -log(1 - D(x, E(x))) - log D(G(z), z) (section 3.4). The discriminator is fully connected, of pixels
and code together, as the paper's on MNIST (section 4.2), without BatchNorm. It would soon be right about every pair, so it sees
images through noise (Sonderby et al., arXiv:1610.04490, section 3.2) and pays for its slope at real pairs,
R/2 |d logit / d(x, E(x))|^2 (Mescheder et al., arXiv:1801.04406, equation 9). Kept: the encoder; E's last layer, to the Z
latents, is linear and stays behind. Adam with beta1 = 0.5: pretrain_optim=adam_gan.
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
    per_row: ClassVar[bool] = False  # BatchNorm, where the encoder has it

    latent: int = 50  # Z
    hidden: int = 512  # units of each of the discriminator's two layers
    penalty: float = 1.0  # R, of the discriminator's slope
    # standard deviation of what is added to the images that the discriminator sees
    noise: float = 0.3

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
        first, second = (
            nn.Linear(prod(spec.image) + self.latent, self.hidden),
            nn.Linear(self.hidden, self.hidden),
        )
        layers = nn.Sequential(
            first, nn.LeakyReLU(0.2), second, nn.LeakyReLU(0.2), nn.Linear(self.hidden, 1)
        )
        return nn.ModuleDict({"inverses": nn.ModuleDict(inverses), "discriminator": layers})

    def draw(self, batch, rng, progress):
        x_BCHW = batch["pool"]["x"]
        b = len(x_BCHW)
        return x_BCHW, self.codes(b, rng), self.noise * rng.randn(b, 2, *x_BCHW.shape[1:])

    def codes(self, count, rng):
        """Uniform in [-1, 1], as in the paper's section 4.2 [count, Z]"""
        return 2 * rng.rand(count, self.latent) - 1

    def discriminator_loss(self, nets, x_BCHW, z_BZ, noise_B2CHW):
        with torch.no_grad():
            real, fake = self.pairs(nets, x_BCHW, z_BZ, noise_B2CHW)
        with torch.enable_grad():
            real = [part.requires_grad_() for part in real]
            real_B, fake_B = self.judge(nets, real), self.judge(nets, fake)
            slopes = torch.autograd.grad(real_B.sum(), real, create_graph=True)
        slope_B = torch.cat([s.flatten(1) for s in slopes], 1).square().sum(1)
        loss = (
            F.softplus(-real_B).mean()
            + F.softplus(fake_B).mean()
            + self.penalty / 2 * slope_B.mean()
        )
        return loss, {
            "p_real": real_B.sigmoid().mean(),
            "p_fake": fake_B.sigmoid().mean(),
            "slope": slope_B.mean(),
        }

    def inverses_loss(self, nets, x_BCHW, z_BZ, noise_B2CHW):
        real, fake = self.pairs(nets, x_BCHW, z_BZ, noise_B2CHW)
        return F.softplus(self.judge(nets, real)).mean() + F.softplus(
            -self.judge(nets, fake)
        ).mean(), {}

    def pairs(self, nets, x_BCHW, z_BZ, noise_B2CHW):
        """-> (x, E(x)) and (G(z), z), images with their noise"""
        code_BZ = nets["inverses"]["code"](nets["inverses"]["encoder"](x_BCHW))
        return (x_BCHW + noise_B2CHW[:, 0], code_BZ), (
            self.generate(nets, z_BZ) + noise_B2CHW[:, 1],
            z_BZ,
        )

    def judge(self, nets, pair):
        """-> logit that the pair is of an image and its code [B]"""
        x_BCHW, z_BZ = pair
        return nets["discriminator"](torch.cat([x_BCHW.flatten(1), z_BZ], 1)).squeeze(1)

    def generate(self, nets, z_BZ):
        return nets["inverses"]["generator"](z_BZ).sigmoid()

    def show(self, nets, x_BCHW, rng):
        z_BZ = self.codes(len(x_BCHW), rng)
        code_BZ = nets["inverses"]["code"](nets["inverses"]["encoder"](x_BCHW))
        return {
            "input": x_BCHW,
            "reconstruction": self.generate(nets, code_BZ),
            "sample": self.generate(nets, z_BZ),
        }
