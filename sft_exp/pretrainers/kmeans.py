"""K-means on whitened patches (scikit-learn), in closed form, as the weights of encoder=patches.

Coates, Lee & Ng, AISTATS 2011. The features are the activations of all centroids, averaged over
each quarter of the image. An SVM or a logistic regression on them is a baseline that many deeper
methods do not reach: strategy=svm or strategy=logistic.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from sft_exp.core.pretrainer import Pretrainer
from sft_exp.core.rng import stream
from sft_exp.errors import ConfigError, require
from sft_exp.models.backbones import PatchNet


@dataclass
class KMeans(Pretrainer):
    """Fits the centroids of encoder=patches."""

    trained_by: ClassVar[str] = "in closed form"

    patches: int = 100_000  # number that the centroids are fitted on, from up to 20,000 images
    # added to the eigenvalues of the patches' covariance before whitening (0.1 in the paper)
    epsilon: float = 0.1

    def __post_init__(self):
        require(self.patches > 0, "patches", self.patches, "above 0")
        require(0 < self.epsilon < float("inf"), "epsilon", self.epsilon, "above 0")

    def networks(self, encoder, spec):
        if not isinstance(encoder, PatchNet):
            raise ConfigError(
                "encoder",
                type(encoder).__name__,
                "must be encoder=patches for pretrainer=kmeans",
            )
        return nn.ModuleDict({"encoder": encoder})

    def prepare(self, nets, data):
        from sklearn.cluster import MiniBatchKMeans

        net, x_NCHW = nets["encoder"], data["x"]
        rng = stream("kmeans", device=x_NCHW.device)
        per_image = -(-self.patches // len(x_NCHW))  # patches, drawn with replacement
        sampled = []
        for x_BCHW in x_NCHW.split(1000):
            p_BLP = net.patches(x_BCHW)
            size = (len(x_BCHW), per_image)
            index_BE = torch.randint(p_BLP.shape[1], size, generator=rng, device=x_BCHW.device)
            index_BEP = index_BE.unsqueeze(2).expand(-1, -1, p_BLP.shape[2])
            sampled.append(p_BLP.gather(1, index_BEP).flatten(0, 1))
        p_NP = torch.cat(sampled)[: self.patches]
        net.shift.copy_(p_NP.mean(0))
        net.whitening.copy_(whitening(p_NP, self.epsilon))
        white_NP = net.whiten(p_NP).cpu().numpy()
        count = min(len(net.centroids), len(white_NP))
        fit = MiniBatchKMeans(count, batch_size=4096, n_init=1, random_state=0).fit(white_NP)
        net.centroids.zero_()
        net.centroids[:count] = torch.from_numpy(fit.cluster_centers_).to(net.centroids)


def whitening(p_NP, epsilon):
    """The ZCA matrix V (E + epsilon)^-1/2 V', where V E V' is the patches' covariance [P, P]."""
    values_P, vectors_PP = torch.linalg.eigh(torch.cov(p_NP.T))
    return vectors_PP @ torch.diag((values_P.clamp_min(0) + epsilon).rsqrt()) @ vectors_PP.T
