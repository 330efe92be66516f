"""Label spreading over the nearest-neighbour graph of frozen features. Zhou et al., NIPS 2003,
section 2.

F = (1 - a) (I - a S)^-1 Y with S = D^-1/2 W D^-1/2, computed by iterating F <- a S F + (1 - a) Y. W
connects each image, labelled or not, to its k nearest neighbours with the weight exp(-d^2 / (s
s')), where s is the distance of the k-th neighbour (Zelnik-Manor & Perona, NIPS 2004, equation 3).
Every class gets the same total share. A new image is classified by its nearest neighbours in the
graph; test images are never part of the graph.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sft_exp.core.strategy import Strategy
from sft_exp.errors import require
from sft_exp.models.layers import distances

CHUNK = 500  # images whose distances to all others are in memory at once
LEAST = 1e-6  # smallest scale of distances: duplicate images have distance 0


@dataclass
class LabelSpreading(Strategy):
    closed_form: ClassVar[bool] = True

    k: int = 7  # number of neighbours
    alpha: float = 0.99  # share that an image takes from its neighbours in one iteration
    turns: int = 40  # number of iterations
    rows: int = 6_000  # most unlabelled images in the graph, and most labelled ones

    def __post_init__(self):
        require(self.k > 0, "k", self.k, "above 0")
        require(0 < self.alpha < 1, "alpha", self.alpha, "between 0 and 1")
        require(self.turns > 0, "turns", self.turns, "above 0")
        require(self.rows > 0, "rows", self.rows, "above 0")

    def unlabelled(self):
        return self.rows

    def phases(self, layers):
        return [(1.0, {})]

    def fit_closed_form(self, f_BD, y_B, spec, seed):
        order = torch.randperm(len(y_B), generator=torch.Generator().manual_seed(seed))
        order = order.to(y_B.device)
        labelled, unlabelled = order[y_B[order] >= 0][: self.rows], order[y_B[order] < 0]
        index = torch.cat([labelled, unlabelled])
        y_LY = F.one_hot(y_B[labelled], len(spec.classes)).float()
        head = Graph(len(index), f_BD.shape[1], len(spec.classes), self.k).to(f_BD.device)
        head.f_ND.copy_(F.normalize(f_BD[index]))
        distance_NK, neighbour_NK = nearest(head.f_ND, head.f_ND, self.k, exclude_self=True)
        head.scale_N.copy_(distance_NK[:, -1].clamp_min(LEAST))
        s_NN = normalised(distance_NK, neighbour_NK, head.scale_N)
        start_NY = torch.cat([y_LY, y_LY.new_zeros(len(unlabelled), y_LY.shape[1])])
        share_NY = start_NY
        for _ in range(self.turns):
            share_NY = self.alpha * (s_NN @ share_NY) + (1 - self.alpha) * start_NY
        share_NY = share_NY / share_NY.sum(0).clamp_min(LEAST)
        head.share_NY.copy_(share_NY / share_NY.sum(1, keepdim=True).clamp_min(1e-12))
        return head

    def head(self, shapes, spec):
        return Graph(shapes["f_ND"][0], shapes["f_ND"][1], len(spec.classes), self.k)


def nearest(
    a_BD: Tensor, f_ND: Tensor, k: int, exclude_self: bool = False
) -> tuple[Tensor, Tensor]:
    """(distances, indices) of the k rows of `f` that are nearest to each row of `a` [B, k].

    With `exclude_self`, `a` must be `f`, and no row is its own neighbour.
    """
    k = min(k, len(f_ND) - exclude_self)
    if torch.compiler.is_compiling():  # a traced loop would hold for one size of batches alone
        found = distances(a_BD, f_ND).topk(k, largest=False)
        return found.values, found.indices
    chunks = []
    for start in range(0, len(a_BD), CHUNK):
        d_CN = torch.cdist(a_BD[start : start + CHUNK], f_ND)
        if exclude_self:
            d_CN[torch.arange(len(d_CN)), torch.arange(start, start + len(d_CN))] = torch.inf
        chunks.append(d_CN.topk(k, largest=False))
    return torch.cat([c.values for c in chunks]), torch.cat([c.indices for c in chunks])


def normalised(distance_NK: Tensor, neighbour_NK: Tensor, scale_N: Tensor) -> Tensor:
    """The symmetrically normalised adjacency matrix S, sparse [N, N]."""
    n, k = neighbour_NK.shape
    w_NK = (-distance_NK.square() / (scale_N[:, None] * scale_N[neighbour_NK])).exp()
    row = torch.arange(n, device=w_NK.device).repeat_interleave(k)
    column, w = neighbour_NK.flatten(), w_NK.flatten() / 2
    both = torch.stack([torch.cat([row, column]), torch.cat([column, row])])
    w_NN = torch.sparse_coo_tensor(both, torch.cat([w, w]), (n, n), check_invariants=False)
    w_NN = w_NN.coalesce()
    degree_N = torch.sparse.sum(w_NN, 1).to_dense().clamp_min(1e-12)
    row, column = w_NN.indices()
    s = w_NN.values() / (degree_N[row] * degree_N[column]).sqrt()
    return torch.sparse_coo_tensor(w_NN.indices(), s, (n, n), check_invariants=False)


class Graph(nn.Module):
    """Maps features [B, D] to the log share of each class among the nearest graph nodes [B, Y]."""

    f_ND: Tensor
    share_NY: Tensor
    scale_N: Tensor

    def __init__(self, n: int, width: int, classes: int, k: int):
        super().__init__()
        self.k = k
        self.register_buffer("f_ND", torch.zeros(n, width))
        self.register_buffer("share_NY", torch.zeros(n, classes))
        self.register_buffer("scale_N", torch.ones(n))

    def forward(self, f_BD: Tensor) -> Tensor:
        distance_BK, neighbour_BK = nearest(F.normalize(f_BD), self.f_ND, self.k)
        scale_B1 = distance_BK[:, -1:].clamp_min(LEAST)
        w_BK = (-distance_BK.square() / (scale_B1 * self.scale_N[neighbour_BK])).exp()
        weighted_BY = (w_BK[:, :, None] * self.share_NY[neighbour_BK]).sum(1)
        share_BY = weighted_BY / w_BK.sum(1, keepdim=True).clamp_min(1e-12)
        return share_BY.clamp_min(1e-8).log()
