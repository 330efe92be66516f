"""Variational autoencoder. Kingma & Welling, arXiv:1312.6114; beta from Higgins et al., ICLR 2017.

Loss: -E_q log p(x|z) + beta KL(q(z|x) || N(0, I)), equation 10, in nats: sums over pixels and
latents. With samples=K above 1 it is the importance-weighted bound of Burda et al.
(arXiv:1509.00519, equation 8), -log 1/K sum_k p(x, z_k) / q(z_k|x). Fine-tuning starts from the
feature map below the code. With nll_samples, the likelihood is estimated by importance sampling, as
papers report it for black-and-white images: binarised afresh at each step (binarise=true,
"dynamic"), or once (dataset=binary_mnist, "fixed").
"""

from dataclasses import dataclass
from math import log
from typing import ClassVar

import torch
from torch import nn

from sft_exp.core.pretrainer import Pretrainer
from sft_exp.errors import require
from sft_exp.losses import bernoulli, kl_to_standard_normal, log_bernoulli, log_gaussian


@dataclass
class VAE(Pretrainer):
    """Learns an encoder as the inference network of a variational autoencoder."""

    # not the last layer: most latent units collapse, so the layer before it has more information
    features: ClassVar[tuple[int, ...]] = (-2,)
    has_likelihood: ClassVar[bool] = True

    latent: int = 20  # Z
    beta: float = 1.0  # weight of the KL term; 1 = the evidence lower bound
    samples: int = 1  # codes drawn for each image; several = the importance-weighted bound
    warmup: float = 0.0  # share of the steps during which beta rises from 0
    likelihood: str = "bernoulli"  # bernoulli (grey levels are probabilities) or gaussian
    sigma: float = 1.0  # standard deviation of gaussian pixels
    # sample each pixel as black or white at each step, with its grey level as the probability of
    # white
    binarise: bool = False

    def __post_init__(self):
        require(self.latent > 0, "latent", self.latent, "above 0")
        require(self.beta >= 0, "beta", self.beta, "0 or more")
        require(self.samples > 0, "samples", self.samples, "above 0")
        require(0 <= self.warmup <= 1, "warmup", self.warmup, "from 0 to 1")
        known = ("bernoulli", "gaussian")
        require(self.likelihood in known, "likelihood", self.likelihood, " or ".join(known))
        require(0 < self.sigma < float("inf"), "sigma", self.sigma, "above 0")

    def networks(self, encoder, spec):
        posterior = nn.Linear(encoder.width, 2 * self.latent)
        decoder = encoder.decoder(self.latent)
        return nn.ModuleDict({"encoder": encoder, "posterior": posterior, "decoder": decoder})

    def observe(self, x_BCHW, rng):
        return rng.bernoulli(x_BCHW) if self.binarise else x_BCHW

    def draw(self, batch, rng, progress):
        x_BCHW = self.observe(batch["pool"]["x"], rng)
        shape = (self.latent,) if self.samples == 1 else (self.samples, self.latent)
        eps = rng.randn(len(x_BCHW), *shape)
        beta = self.beta * min(1.0, progress / self.warmup) if self.warmup else self.beta
        return x_BCHW, eps, torch.full((), beta, device=x_BCHW.device)

    def loss(self, nets, x_BCHW, eps, beta):
        """The bound; `eps` is [B, Z], or [B, K, Z] for K samples."""
        if self.samples > 1:
            return self.importance_weighted(nets, x_BCHW, eps.transpose(0, 1), beta)
        eps_BZ = eps
        mean_BZ, logvar_BZ = self.posterior(nets, x_BCHW)
        h_BCHW = nets["decoder"](mean_BZ + eps_BZ * (logvar_BZ / 2).exp())
        error = self.error(h_BCHW, x_BCHW)
        kl = kl_to_standard_normal(mean_BZ, logvar_BZ)
        return error + beta * kl, {"reconstruction": error, "kl": kl}

    def importance_weighted(self, nets, x_BCHW, eps_KBZ, beta):
        """The mean of -log 1/K sum_k w_k over the batch, and that of -log w_k, the bound for K = 1."""
        log_w_KB = self.weights(nets, x_BCHW, eps_KBZ, beta)
        bound = log(self.samples) - log_w_KB.logsumexp(0).mean()
        return bound, {"elbo": -log_w_KB.mean()}

    def error(self, h_BCHW, x_BCHW):
        """The mean of -log p(x|z) over the batch [scalar, nats per image]."""
        if self.likelihood == "bernoulli":
            return bernoulli(h_BCHW, x_BCHW)
        return -self.log_p(h_BCHW[None], x_BCHW).mean()

    def posterior(self, nets, x_BCHW):
        """Mean and log-variance of q(z|x) [B, Z] each."""
        return nets["posterior"](nets["encoder"](x_BCHW)).chunk(2, dim=1)

    def log_weights(self, nets, x_BCHW, samples, rng):
        return self.weights(nets, x_BCHW, rng.randn(samples, len(x_BCHW), self.latent))

    def weights(self, nets, x_BCHW, eps_KBZ, beta=1.0):
        """log p(x|z) + beta log p(z) / q(z|x) [K, B] of the codes z that `eps_KBZ` draws."""
        mean_BZ, logvar_BZ = self.posterior(nets, x_BCHW)
        z_KBZ = mean_BZ + eps_KBZ * (logvar_BZ / 2).exp()
        h_KBCHW = nets["decoder"](z_KBZ.flatten(0, 1)).unflatten(0, (len(eps_KBZ), -1))
        # log N(z; 0, I) - log N(z; mean, exp logvar)
        ratio_KB = 0.5 * (eps_KBZ.square() + logvar_BZ - z_KBZ.square()).sum(2)
        return self.log_p(h_KBCHW, x_BCHW) + beta * ratio_KB

    def log_p(self, h_KBCHW, x_BCHW):
        """log p(x|z) [K, B], in nats, from the decoder's output."""
        if self.likelihood == "bernoulli":
            return log_bernoulli(h_KBCHW, x_BCHW)
        return log_gaussian(h_KBCHW.sigmoid(), x_BCHW, self.sigma)

    def show(self, nets, x_BCHW, rng):
        x_BCHW = self.observe(x_BCHW, rng)
        mean_BZ, _ = self.posterior(nets, x_BCHW)
        z_BZ = rng.randn(*mean_BZ.shape)
        pictures = {"reconstruction": nets["decoder"](mean_BZ), "sample": nets["decoder"](z_BZ)}
        return {"input": x_BCHW, **{name: h_BCHW.sigmoid() for name, h_BCHW in pictures.items()}}
