"""Each formula once. Likelihoods are in nats: sums over pixels or latents, means over the batch.

Summing over pixels matters: with a mean, a KL term of weight 1 weighs H*W*C times too much and the code collapses.
"""

from dataclasses import dataclass
from math import log, pi

import torch
import torch.nn.functional as F
from torch import Tensor

from sft_exp.core.comm import gather, now
from sft_exp.errors import require

OUTPUTS = {"linear": lambda h: h, "relu": F.relu, "sigmoid": F.sigmoid}


def bernoulli(logits_BCHW: Tensor, x_BCHW: Tensor) -> Tensor:
    """-log p(x) of independent Bernoulli pixels [scalar, nats an image]; grey levels in [0, 1] count as probabilities."""
    return F.binary_cross_entropy_with_logits(precise(logits_BCHW), x_BCHW, reduction="sum") / len(
        x_BCHW
    )


def log_bernoulli(logits_KBCHW: Tensor, x_BCHW: Tensor) -> Tensor:
    """log p(x) of each image under each of K sets of logits [K, B], in nats."""
    each = F.binary_cross_entropy_with_logits(
        logits_KBCHW, x_BCHW.expand_as(logits_KBCHW), reduction="none"
    )
    return -each.flatten(2).sum(2)


def log_gaussian(mean_KBCHW: Tensor, x_BCHW: Tensor, sigma: float) -> Tensor:
    """log p(x) of independent Gaussian pixels of this standard deviation [K, B], in nats."""
    each = ((x_BCHW - mean_KBCHW) / sigma).square() + 2 * log(sigma) + log(2 * pi)
    return -0.5 * each.flatten(2).sum(2)


def squared(mean_BCHW: Tensor, x_BCHW: Tensor) -> Tensor:
    """Half the squared distance [scalar, an image]: -log p(x) of a unit-variance Gaussian up to a constant."""
    return 0.5 * (mean_BCHW - x_BCHW).square().sum() / len(x_BCHW)


def kl_to_standard_normal(mean_BZ: Tensor, logvar_BZ: Tensor) -> Tensor:
    """KL(N(mean, exp logvar) || N(0, I)) [scalar, nats an image]. Kingma & Welling, arXiv:1312.6114, appendix B."""
    mean_BZ, logvar_BZ = precise(mean_BZ), precise(logvar_BZ)
    return 0.5 * (mean_BZ.square() + logvar_BZ.exp() - logvar_BZ - 1).sum() / len(mean_BZ)


def precise(x: Tensor) -> Tensor:
    """In single precision at least: sums over a batch are no affair of half precision."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def nt_xent(a_BZ: Tensor, b_BZ: Tensor, temperature: float) -> Tensor:
    """Normalised temperature-scaled cross-entropy [scalar, nats]: each of the 2B rows must pick its partner among the 2B - 1
    others by cosine. Chen et al., arXiv:2002.05709, equation 1."""
    z_MZ = F.normalize(precise(torch.cat([a_BZ, b_BZ])), dim=1)
    every_NZ = torch.cat([gather(half) for half in z_MZ.chunk(2)])  # of all ranks
    half, here_B = len(every_NZ) // 2, now().places(len(a_BZ), z_MZ.device)
    self_M, partner_M = torch.cat([here_B, here_B + half]), torch.cat([here_B + half, here_B])
    similar_MN = (z_MZ @ every_NZ.T / temperature).scatter(1, self_M[:, None], -torch.inf)
    return F.cross_entropy(similar_MN, partner_M)


def info_nce(q_BZ: Tensor, k_BZ: Tensor, others_KZ: Tensor, temperature: float) -> Tensor:
    """Each query must pick its key among it and K others by cosine [scalar, nats]. He et al., arXiv:1911.05722, equation 1."""
    q_BZ, k_BZ, others_KZ = (F.normalize(precise(z), dim=1) for z in (q_BZ, k_BZ, others_KZ))
    logits_BM = torch.cat([(q_BZ * k_BZ).sum(1, keepdim=True), q_BZ @ others_KZ.T], 1) / temperature
    return F.cross_entropy(logits_BM, torch.zeros(len(q_BZ), dtype=torch.long, device=q_BZ.device))


def cosine(a_BZ: Tensor, b_BZ: Tensor) -> Tensor:
    """Mean cosine of the angle between rows [scalar]."""
    return F.cosine_similarity(precise(a_BZ), precise(b_BZ)).mean()


def barlow_twins(a_BZ: Tensor, b_BZ: Tensor, off_diagonal: float) -> Tensor:
    """sum_i (1 - C_ii)^2 + off_diagonal sum_{i != j} C_ij^2 [scalar], C the correlation of a's columns with b's over the batch.
    Zbontar et al., arXiv:2103.03230, equations 1 and 2."""
    a_BZ, b_BZ = (
        (z - z.mean(0)) / z.std(0, correction=0).clamp_min(1e-4)
        for z in (gather(precise(a_BZ)), gather(precise(b_BZ)))
    )
    c_ZZ = a_BZ.T @ b_BZ / len(a_BZ)
    on = (1 - c_ZZ.diagonal()).square().sum()
    return on + off_diagonal * (c_ZZ.square().sum() - c_ZZ.diagonal().square().sum())


def vicreg(a_BZ: Tensor, b_BZ: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(invariance, variance, covariance) [scalars]: mean squared distance of partners, how far each column's standard deviation
    falls short of 1, and the squared covariances of different columns. Bardes et al., arXiv:2105.04906, equations 1 to 5;
    variance and covariance are summed over both views."""
    a_BZ, b_BZ = gather(precise(a_BZ)), gather(precise(b_BZ))
    short, square = torch.zeros((), device=a_BZ.device), torch.zeros((), device=a_BZ.device)
    for z_BZ in (a_BZ, b_BZ):
        c_ZZ = (z_BZ - z_BZ.mean(0)).T @ (z_BZ - z_BZ.mean(0)) / (len(z_BZ) - 1)
        short = short + F.relu(1 - (c_ZZ.diagonal() + 1e-4).sqrt()).mean()
        square = square + (c_ZZ.square().sum() - c_ZZ.diagonal().square().sum()) / z_BZ.shape[1]
    return F.mse_loss(a_BZ, b_BZ), short, square


def dino(
    student_BK: Tensor,
    teacher_BK: Tensor,
    centre_K: Tensor,
    student_t: float,
    teacher_t: Tensor | float,
) -> Tensor:
    """Cross-entropy of the student's distribution over K prototypes to the teacher's centred and sharpened one [scalar, nats].
    Caron et al., arXiv:2104.14294, equations 1 and 2 and algorithm 1."""
    return F.cross_entropy(
        precise(student_BK) / student_t, ((precise(teacher_BK) - centre_K) / teacher_t).softmax(1)
    )


@dataclass(frozen=True)
class Reconstruction:
    """How far a decoder's output h [B, C, H, W] is from the image, and the picture it stands for."""

    # bernoulli (h are logits), squared (half the sum over pixels), mean_squared (the textbook's
    # mean)
    kind: str
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
            self.kind != "bernoulli" or self.output == "sigmoid",
            "output",
            self.output,
            "sigmoid with reconstruction=bernoulli",
        )

    def error(self, h_BCHW: Tensor, x_BCHW: Tensor) -> Tensor:
        if self.kind == "bernoulli":
            return bernoulli(h_BCHW, x_BCHW)
        if self.kind == "squared":
            return squared(OUTPUTS[self.output](h_BCHW), x_BCHW)
        return F.mse_loss(OUTPUTS[self.output](h_BCHW), x_BCHW)

    def picture(self, h_BCHW: Tensor) -> Tensor:
        return OUTPUTS[self.output](h_BCHW).clamp(0, 1)
