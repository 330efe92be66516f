"""Wasserstein GAN with gradient penalty. Gulrajani et al., arXiv:1704.00028, algorithm 1.

The critic's loss is E D(G(z)) - E D(x) + penalty E (||grad D(x^)|| - 1)^2 at points x^ between real
and generated images (equation 3); the generator's, in every fifth step, is -E D(G(z)). The encoder
is the critic's trunk, from whose maps fine-tuning starts. The penalty treats each image by itself,
so the critic must not have BatchNorm (section 4): use encoder=conv with encoder.norm=layer. The
paper's Adam has beta1 = 0: pretrain_optim=adam_wgan.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from sft_exp.core.pretrainer import Pretrainer
from sft_exp.errors import ConfigError, require
from sft_exp.models.batchnorm import batch_norms


@dataclass
class WGANGP(Pretrainer):
    objectives: ClassVar[dict[str, tuple[str, int]]] = {
        "critic_loss": ("critic", 1),
        "generator_loss": ("generator", 5),
    }
    encoder_path: ClassVar[str] = "critic.encoder"
    features: ClassVar[tuple[int, ...]] = (-4, -3, -2)
    pool: ClassVar[str] = "max"
    grid: ClassVar[int] = 4

    latent: int = 50  # Z
    penalty: float = 10.0  # weight of the gradient penalty, lambda

    def __post_init__(self):
        require(self.latent > 0, "latent", self.latent, "above 0")
        require(0 <= self.penalty < float("inf"), "penalty", self.penalty, "0 or more")

    def networks(self, encoder, spec):
        if batch_norms(encoder):
            valid = (
                "the gradient penalty treats each image by itself: take an encoder without "
                "BatchNorm, such as conv with norm=layer"
            )
            raise ConfigError("encoder.norm", "batch", valid)
        critic = nn.ModuleDict({"encoder": encoder, "head": nn.Linear(encoder.width, 1)})
        return nn.ModuleDict({"critic": critic, "generator": encoder.decoder(self.latent)})

    def draw(self, batch, rng, progress):
        x_BCHW = batch["pool"]["x"]
        z_BZ = rng.randn(len(x_BCHW), self.latent)
        return x_BCHW, z_BZ, rng.rand(len(x_BCHW), 1, 1, 1)

    def critic_loss(self, nets, x_BCHW, z_BZ, share_B111):
        fake_BCHW = self.generate(nets, z_BZ).detach()
        real_B, fake_B = self.score(nets, x_BCHW), self.score(nets, fake_BCHW)
        between_BCHW = (share_B111 * x_BCHW + (1 - share_B111) * fake_BCHW).requires_grad_()
        # only this kernel of attention has second derivatives
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
            total = self.score(nets, between_BCHW).sum()
            (gradient_BCHW,) = torch.autograd.grad(total, between_BCHW, create_graph=True)
        norm_B = gradient_BCHW.flatten(1).norm(dim=1)
        distance = real_B.mean() - fake_B.mean()
        loss = self.penalty * (norm_B - 1).square().mean() - distance
        return loss, {"distance": distance, "steepness": norm_B.mean()}

    def generator_loss(self, nets, x_BCHW, z_BZ, share_B111):
        return -self.score(nets, self.generate(nets, z_BZ)).mean(), {}

    def score(self, nets, x_BCHW):
        """The critic's score, higher for real images [B]."""
        critic = nets["critic"]
        return critic["head"](critic["encoder"](x_BCHW)).squeeze(1)

    def generate(self, nets, z_BZ):
        return nets["generator"](z_BZ).sigmoid()

    def show(self, nets, x_BCHW, rng):
        z_BZ = rng.randn(len(x_BCHW), self.latent)
        return {"input": x_BCHW, "sample": self.generate(nets, z_BZ)}
