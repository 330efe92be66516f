"""k-nearest-neighbour classification of frozen features (scikit-learn).

k is chosen by cross-validation on the labelled images.
"""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sft_exp.core.strategy import Strategy
from sft_exp.errors import require
from sft_exp.models.heads.fitted import grid_fit
from sft_exp.models.layers import distances


@dataclass
class KNN(Strategy):
    """Stores the features of the labelled images and classifies by the nearest of them."""

    closed_form: ClassVar[bool] = True

    # numbers of neighbours that are tried
    k: list[int] = field(default_factory=lambda: [1, 3, 5, 10, 20])
    metric: str = "cosine"  # cosine or euclidean
    rows: int = 60_000  # maximum number of labelled images that are stored

    def __post_init__(self):
        require(
            bool(self.k) and all(v > 0 for v in self.k), "k", self.k, "a list of numbers above 0"
        )
        known = ("cosine", "euclidean")
        require(self.metric in known, "metric", self.metric, "cosine or euclidean")
        require(self.rows > 0, "rows", self.rows, "above 0")

    def phases(self, layers):
        return [(1.0, {})]

    def fit_closed_form(self, f_BD, y_B, spec, seed):
        from sklearn.neighbors import KNeighborsClassifier

        if self.metric == "cosine":  # for unit vectors, the order by angle is that by distance
            f_BD = F.normalize(f_BD)
        limit = max(1, len(y_B) // 2)  # at least as many examples remain when a fold is held out
        grid = {"n_neighbors": sorted({min(k, limit) for k in self.k})}
        best = grid_fit(KNeighborsClassifier(), grid, f_BD, y_B, seed, self.rows)
        order = torch.randperm(len(y_B), generator=torch.Generator().manual_seed(seed))
        index = order[: self.rows].to(f_BD.device)
        head = Neighbours(len(index), f_BD.shape[1], len(spec.classes), self.metric == "cosine")
        head = head.to(f_BD.device)
        head.f_ND.copy_(f_BD[index])
        head.y_N.copy_(y_B[index])
        head.k.fill_(best.n_neighbors)
        head.count = int(head.k)
        return head

    def head(self, shapes, spec):
        n, width = shapes["f_ND"]
        return Neighbours(n, width, len(spec.classes), self.metric == "cosine")


class Neighbours(nn.Module):
    """Features [B, D] -> log share of each class among the k nearest stored ones [B, Y]."""

    f_ND: Tensor
    y_N: Tensor
    k: Tensor

    def __init__(self, n: int, width: int, classes: int, cosine: bool):
        super().__init__()
        self.classes, self.cosine = classes, cosine
        self.register_buffer("f_ND", torch.zeros(n, width))
        self.register_buffer("y_N", torch.zeros(n, dtype=torch.long))
        self.register_buffer("k", torch.ones((), dtype=torch.long))
        self.count = 1  # k as a number, which a graph needs where it is traced

    def _load_from_state_dict(self, state, prefix, *others):
        super()._load_from_state_dict(state, prefix, *others)
        self.count = int(self.k)

    def forward(self, f_BD: Tensor) -> Tensor:
        distance_BN = distances(F.normalize(f_BD) if self.cosine else f_BD, self.f_ND)
        k = self.count if torch.compiler.is_compiling() else int(self.k)
        nearest_BK = distance_BN.topk(k, largest=False).indices
        votes_BY = F.one_hot(self.y_N[nearest_BK], self.classes).sum(1)
        return (votes_BY / self.k).clamp_min(1e-8).log()
