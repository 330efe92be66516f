"""Each formula once. Likelihoods are in nats: sums over pixels or latents, means over the batch.

Summing over pixels matters: with a mean, a KL term of weight 1 weighs H*W*C times too much and the code collapses.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from sft_exp.errors import require

OUTPUTS = {"linear": lambda h: h, "relu": F.relu, "sigmoid": F.sigmoid}


def bernoulli(logits_BCHW: Tensor, x_BCHW: Tensor) -> Tensor:
    """-log p(x) of independent Bernoulli pixels [scalar, nats an image]; grey levels in [0, 1] count as probabilities."""
    return F.binary_cross_entropy_with_logits(logits_BCHW, x_BCHW, reduction="sum") / len(x_BCHW)


def squared(mean_BCHW: Tensor, x_BCHW: Tensor) -> Tensor:
    """Half the squared distance [scalar, an image]: -log p(x) of a unit-variance Gaussian up to a constant."""
    return 0.5 * (mean_BCHW - x_BCHW).square().sum() / len(x_BCHW)


def kl_to_standard_normal(mean_BZ: Tensor, logvar_BZ: Tensor) -> Tensor:
    """KL(N(mean, exp logvar) || N(0, I)) [scalar, nats an image]. Kingma & Welling, arXiv:1312.6114, appendix B."""
    return 0.5 * (mean_BZ.square() + logvar_BZ.exp() - logvar_BZ - 1).sum() / len(mean_BZ)


def nt_xent(a_BZ: Tensor, b_BZ: Tensor, temperature: float) -> Tensor:
    """Normalised temperature-scaled cross-entropy [scalar, nats]: each of the 2B rows must pick its partner among the 2B - 1
    others by cosine. Chen et al., arXiv:2002.05709, equation 1."""
    z_MZ = F.normalize(torch.cat([a_BZ, b_BZ]).float(), dim=1)
    similar_MM = (z_MZ @ z_MZ.T / temperature).fill_diagonal_(-torch.inf)
    return F.cross_entropy(similar_MM, torch.arange(len(z_MZ), device=z_MZ.device).roll(len(a_BZ)))


@dataclass(frozen=True)
class Reconstruction:
    """How far a decoder's output h [B, C, H, W] is from the image, and the picture it stands for."""

    kind: str  # bernoulli (h are logits), squared (half the sum over pixels), mean_squared (the textbook's mean)
    output: str  # what ends the decoder: linear, relu or sigmoid

    def __post_init__(self):
        require(
            self.kind in ("bernoulli", "squared", "mean_squared"),
            "reconstruction",
            self.kind,
            "bernoulli, squared or mean_squared",
        )
        require(self.output in OUTPUTS, "output", self.output, f"one of {', '.join(OUTPUTS)}")
        require(
            self.kind != "bernoulli" or self.output == "sigmoid", "output", self.output, "sigmoid with reconstruction=bernoulli"
        )

    def error(self, h_BCHW: Tensor, x_BCHW: Tensor) -> Tensor:
        if self.kind == "bernoulli":
            return bernoulli(h_BCHW, x_BCHW)
        if self.kind == "squared":
            return squared(OUTPUTS[self.output](h_BCHW), x_BCHW)
        return F.mse_loss(OUTPUTS[self.output](h_BCHW), x_BCHW)

    def picture(self, h_BCHW: Tensor) -> Tensor:
        return OUTPUTS[self.output](h_BCHW).clamp(0, 1)
