"""Variational autoencoder. Kingma & Welling, arXiv:1312.6114; beta from Higgins et al., ICLR 2017.

Loss: -E_q log p(x|z) + beta KL(q(z|x) || N(0, I)), equation 10. Kept: the trunk before the posterior's last layers.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from sft_exp.core import Pretrainer
from sft_exp.errors import require
from sft_exp.losses import Reconstruction, kl_to_standard_normal


@dataclass
class VAE(Pretrainer):
    features: ClassVar[tuple[int, ...]] = (-2,)  # before the code: the last layer serves a posterior most of whose units are idle

    latent: int = 20  # Z
    beta: float = 1.0  # weight of the KL term; 1 = the evidence lower bound
    warmup: float = 0.0  # share of the steps over which beta rises from 0
    likelihood: str = "bernoulli"  # bernoulli or squared (a Gaussian of unit variance)

    def __post_init__(self):
        require(self.latent > 0, "latent", self.latent, "above 0")
        require(self.beta >= 0, "beta", self.beta, "0 or more")
        require(0 <= self.warmup <= 1, "warmup", self.warmup, "from 0 to 1")
        require(self.likelihood in ("bernoulli", "squared"), "likelihood", self.likelihood, "bernoulli or squared")
        self.match = Reconstruction(self.likelihood, "sigmoid")

    def networks(self, encoder, spec):
        return nn.ModuleDict(
            {
                "encoder": encoder,
                "posterior": nn.Linear(encoder.width, 2 * self.latent),
                "decoder": encoder.mirror(self.latent),
            }
        )

    def draw(self, batch, rng, progress):
        x_BCHW = batch["pool"]["x"]
        eps_BZ = torch.randn(len(x_BCHW), self.latent, generator=rng, device=x_BCHW.device)
        beta = self.beta * min(1.0, progress / self.warmup) if self.warmup else self.beta
        return x_BCHW, eps_BZ, torch.tensor(beta, device=x_BCHW.device)

    def loss(self, nets, x_BCHW, eps_BZ, beta):
        mean_BZ, logvar_BZ = nets["posterior"](nets["encoder"](x_BCHW)).chunk(2, dim=1)
        z_BZ = mean_BZ + eps_BZ * (logvar_BZ / 2).exp()
        error = self.match.error(nets["decoder"](z_BZ), x_BCHW)
        kl = kl_to_standard_normal(mean_BZ, logvar_BZ)
        return error + beta * kl, {"reconstruction": error, "kl": kl}

    def show(self, nets, x_BCHW, rng):
        mean_BZ, _ = nets["posterior"](nets["encoder"](x_BCHW)).chunk(2, dim=1)
        z_BZ = torch.randn(mean_BZ.shape, generator=rng, device=x_BCHW.device)
        return {
            "input": x_BCHW,
            "reconstruction": self.match.picture(nets["decoder"](mean_BZ)),
            "sample": self.match.picture(nets["decoder"](z_BZ)),
        }
