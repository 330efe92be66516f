"""K-means on whitened patches (scikit-learn), as the numbers of a `patches` encoder. Coates, Lee & Ng, AISTATS 2011. No gradient.

Kept: the activations of all centroids, averaged over the image's quarters. An SVM or logistic regression on them is a
baseline that many deeper methods do not reach: strategy=svm or strategy=logistic.
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
    trained_by: ClassVar[str] = "in closed form"

    patches: int = 100_000  # that centroids are fitted on, from up to 20,000 images
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
                "pretrainer=kmeans fits encoder=patches and no other",
            )
        return nn.ModuleDict({"encoder": encoder})

    def prepare(self, nets, data):
        from sklearn.cluster import MiniBatchKMeans

        net, x_NCHW = nets["encoder"], data["x"]
        rng = stream("kmeans", device=x_NCHW.device)
        each = -(-self.patches // len(x_NCHW))  # of an image, drawn with replacement
        found = []
        for x_BCHW in x_NCHW.split(1000):
            p_BLP = net.patches(x_BCHW)
            rows_BE = torch.randint(
                p_BLP.shape[1], (len(x_BCHW), each), generator=rng, device=x_BCHW.device
            )
            found.append(
                p_BLP.gather(1, rows_BE.unsqueeze(2).expand(-1, -1, p_BLP.shape[2])).flatten(0, 1)
            )
        p_NP = torch.cat(found)[: self.patches]
        net.shift.copy_(p_NP.mean(0))
        net.whitening.copy_(whitening(p_NP, self.epsilon))
        white_NP = net.whiten(p_NP).cpu().numpy()
        count = min(len(net.centroids), len(white_NP))
        fit = MiniBatchKMeans(count, batch_size=4096, n_init=1, random_state=0).fit(white_NP)
        net.centroids.zero_()
        net.centroids[:count] = torch.from_numpy(fit.cluster_centers_).to(net.centroids)


def whitening(p_NP, epsilon):
    """ZCA: V (E + epsilon)^-1/2 V' of the patches' covariance V E V' [P, P]."""
    values_P, vectors_PP = torch.linalg.eigh(torch.cov(p_NP.T))
    return vectors_PP @ torch.diag((values_P.clamp_min(0) + epsilon).rsqrt()) @ vectors_PP.T
