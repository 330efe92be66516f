"""Loss functions. Likelihoods are in nats: sums over pixels or latents, means over the batch.

The sum over pixels matters: with a mean, a KL term of weight 1 would weigh H*W*C times too much,
and the code would collapse.
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
    """-log p(x) of independent Bernoulli pixels, whose grey levels in [0, 1] are probabilities
    [scalar, nats per image]."""
    total = F.binary_cross_entropy_with_logits(precise(logits_BCHW), x_BCHW, reduction="sum")
    return total / len(x_BCHW)


def log_bernoulli(logits_KBCHW: Tensor, x_BCHW: Tensor) -> Tensor:
    """log p(x) of each image under K sets of logits [K, B], in nats."""
    each_KBCHW = F.binary_cross_entropy_with_logits(
        logits_KBCHW, x_BCHW.expand_as(logits_KBCHW), reduction="none"
    )
    return -each_KBCHW.flatten(2).sum(2)


def log_gaussian(mean_KBCHW: Tensor, x_BCHW: Tensor, sigma: float) -> Tensor:
    """log p(x) of independent Gaussian pixels with standard deviation sigma [K, B], in nats."""
    each_KBCHW = ((x_BCHW - mean_KBCHW) / sigma).square() + 2 * log(sigma) + log(2 * pi)
    return -0.5 * each_KBCHW.flatten(2).sum(2)


def squared(mean_BCHW: Tensor, x_BCHW: Tensor) -> Tensor:
    """Half the squared distance [scalar, per image]: a unit-variance Gaussian, up to a constant."""
    return 0.5 * (mean_BCHW - x_BCHW).square().sum() / len(x_BCHW)


def kl_to_standard_normal(mean_BZ: Tensor, logvar_BZ: Tensor) -> Tensor:
    """KL(N(mean, exp logvar) || N(0, I)) [scalar, nats per image]. Kingma & Welling,
    arXiv:1312.6114, appendix B."""
    mean_BZ, logvar_BZ = precise(mean_BZ), precise(logvar_BZ)
    return 0.5 * (mean_BZ.square() + logvar_BZ.exp() - logvar_BZ - 1).sum() / len(mean_BZ)


def precise(x: Tensor) -> Tensor:
    """In single precision if it was in half, which is too coarse for sums over a batch."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def nt_xent(a_BZ: Tensor, b_BZ: Tensor, temperature: float) -> Tensor:
    """Normalised temperature-scaled cross-entropy (NT-Xent) [scalar, nats]: each of the 2B
    projections must identify its partner among the 2B - 1 others by cosine. Chen et al.,
    arXiv:2002.05709, equation 1."""
    z_MZ = F.normalize(precise(torch.cat([a_BZ, b_BZ])), dim=1)
    every_NZ = torch.cat([gather(view_BZ) for view_BZ in z_MZ.chunk(2)])  # of all ranks
    half, index_B = len(every_NZ) // 2, now().places(len(a_BZ), z_MZ.device)
    self_M, partner_M = torch.cat([index_B, index_B + half]), torch.cat([index_B + half, index_B])
    similar_MN = (z_MZ @ every_NZ.T / temperature).scatter(1, self_M[:, None], -torch.inf)
    return F.cross_entropy(similar_MN, partner_M)


def info_nce(q_BZ: Tensor, k_BZ: Tensor, others_KZ: Tensor, temperature: float) -> Tensor:
    """InfoNCE [scalar, nats]: each query must identify its key among that key and K negatives by
    cosine. He et al., arXiv:1911.05722, equation 1."""
    q_BZ, k_BZ, others_KZ = (F.normalize(precise(z), dim=1) for z in (q_BZ, k_BZ, others_KZ))
    logits_BM = torch.cat([(q_BZ * k_BZ).sum(1, keepdim=True), q_BZ @ others_KZ.T], 1) / temperature
    return F.cross_entropy(logits_BM, torch.zeros(len(q_BZ), dtype=torch.long, device=q_BZ.device))


def cosine(a_BZ: Tensor, b_BZ: Tensor) -> Tensor:
    """Mean cosine similarity of corresponding rows [scalar]."""
    return F.cosine_similarity(precise(a_BZ), precise(b_BZ)).mean()


def barlow_twins(a_BZ: Tensor, b_BZ: Tensor, off_diagonal: float) -> Tensor:
    """sum_i (1 - C_ii)^2 + off_diagonal sum_{i != j} C_ij^2 [scalar], where C is the correlation of
    a's columns with b's over the batch. Zbontar et al., arXiv:2103.03230, equations 1 and 2."""
    a_BZ, b_BZ = (
        (z - z.mean(0)) / z.std(0, correction=0).clamp_min(1e-4)
        for z in (gather(precise(a_BZ)), gather(precise(b_BZ)))
    )
    c_ZZ = a_BZ.T @ b_BZ / len(a_BZ)
    on_diagonal = (1 - c_ZZ.diagonal()).square().sum()
    return on_diagonal + off_diagonal * (c_ZZ.square().sum() - c_ZZ.diagonal().square().sum())


def vicreg(a_BZ: Tensor, b_BZ: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(invariance, variance, covariance) [scalars]: the mean squared distance of partners, how far
    each column's standard deviation falls below 1, and the squared covariances of different
    columns.

    Bardes et al., arXiv:2105.04906, equations 1 to 5. Variance and covariance are sums over both
    views.
    """
    a_BZ, b_BZ = gather(precise(a_BZ)), gather(precise(b_BZ))
    variance, covariance = (torch.zeros((), device=a_BZ.device) for _ in range(2))
    for z_BZ in (a_BZ, b_BZ):
        centred_BZ = z_BZ - z_BZ.mean(0)
        c_ZZ = centred_BZ.T @ centred_BZ / (len(z_BZ) - 1)
        off_diagonal = c_ZZ.square().sum() - c_ZZ.diagonal().square().sum()
        variance = variance + F.relu(1 - (c_ZZ.diagonal() + 1e-4).sqrt()).mean()
        covariance = covariance + off_diagonal / z_BZ.shape[1]
    return F.mse_loss(a_BZ, b_BZ), variance, covariance


def dino(
    student_BK: Tensor,
    teacher_BK: Tensor,
    centre_K: Tensor,
    student_t: float,
    teacher_t: Tensor | float,
) -> Tensor:
    """Cross-entropy of the student's distribution over K prototypes relative to the teacher's,
    which is centred and sharpened [scalar, nats]. Caron et al., arXiv:2104.14294, equations 1 and 2
    and algorithm 1."""
    target_BK = ((precise(teacher_BK) - centre_K) / teacher_t).softmax(1)
    return F.cross_entropy(precise(student_BK) / student_t, target_BK)


@dataclass(frozen=True)
class Reconstruction:
    """A reconstruction error: compares a decoder's output h [B, C, H, W] with the image."""

    # bernoulli (h are logits), squared (half the sum over pixels) or mean_squared
    kind: str
    output: str  # last activation of the decoder: linear, relu or sigmoid

    def __post_init__(self):
        known = self.kind in ("bernoulli", "squared", "mean_squared")
        require(known, "reconstruction", self.kind, "bernoulli, squared or mean_squared")
        require(self.output in OUTPUTS, "output", self.output, f"one of {', '.join(OUTPUTS)}")
        require(
            self.kind != "bernoulli" or self.output == "sigmoid",
            "output",
            self.output,
            "sigmoid with reconstruction=bernoulli",
        )

    def error(self, h_BCHW: Tensor, x_BCHW: Tensor) -> Tensor:
        """The error of the reconstruction [scalar]."""
        if self.kind == "bernoulli":
            return bernoulli(h_BCHW, x_BCHW)
        if self.kind == "squared":
            return squared(OUTPUTS[self.output](h_BCHW), x_BCHW)
        return F.mse_loss(OUTPUTS[self.output](h_BCHW), x_BCHW)

    def picture(self, h_BCHW: Tensor) -> Tensor:
        """The reconstructed images `[B, C, H, W]`, in [0, 1]."""
        return OUTPUTS[self.output](h_BCHW).clamp(0, 1)
