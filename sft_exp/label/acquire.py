"""Strategies that choose the images to label next: typical and diverse ones in a pretrained
encoder's features.

Rows are indices into `f_ND`, the directions of labelled images and candidates; `known_N` is true
for labelled images. Every strategy returns rows of unlabelled images in order of preference,
deterministically for a seed.
"""

import torch
from torch import Tensor
from torch.nn.functional import normalize

from sft_exp.core.rng import stream

NEIGHBOURS = (
    20  # the mean distance to them is an image's typicality (arXiv:2202.02794, section 3.2)
)
CLUSTERS = 500  # at most
SMALLEST = 5  # smaller clusters come after all others
EXACT = 50  # up to this many clusters, k-means uses all images in each step
CHUNK = 2048  # rows whose distances to others are held at once


def directions(f_ND: Tensor) -> Tensor:
    """Centred features, each scaled to length 1: codes after a ReLU lie in one orthant, and their
    norms carry little."""
    return normalize(f_ND - f_ND.mean(0))


def typiclust(f_ND: Tensor, known_N: Tensor, n: int, seed: int) -> Tensor:
    """TypiClust (arXiv:2202.02794, algorithm 1): form as many clusters as there will be labels;
    from those with the fewest labels, the largest first, take the image whose `NEIGHBOURS` nearest
    in the cluster are closest."""
    clusters = min(int(known_N.sum()) + n, CLUSTERS, len(f_ND))
    of_N = kmeans(f_ND, clusters, seed)
    members = [(of_N == c).nonzero().flatten() for c in range(clusters)]
    labels = torch.bincount(of_N[known_N], minlength=clusters).tolist()
    orders = [typical(f_ND[rows], rows) for rows in members]
    queues = {c: order[~known_N[order]].tolist() for c, order in enumerate(orders)}
    chosen: list[int] = []
    while len(chosen) < n:
        c = min(
            (c for c in queues if queues[c]),
            key=lambda c: (len(members[c]) < SMALLEST, labels[c], -len(members[c])),
        )
        chosen.append(queues[c].pop(0))
        labels[c] += 1
    return torch.tensor(chosen)


def typical(f_ND: Tensor, rows: Tensor) -> Tensor:
    """The rows sorted by mean distance to their nearest neighbours among them, smallest first."""
    near = min(NEIGHBOURS, len(rows) // 2)
    if not near:
        return rows
    distance = torch.cat(
        [
            torch.cdist(f, f_ND).topk(near + 1, largest=False).values[:, 1:].mean(1)
            for f in f_ND.split(CHUNK)
        ]
    )
    return rows[distance.argsort(stable=True)]


def coreset(f_ND: Tensor, known_N: Tensor, n: int, seed: int) -> Tensor:
    """Greedy k-centre (arXiv:1708.00489, algorithm 1): repeatedly take the image farthest from all
    labelled or chosen ones. Without labels it starts at a random image."""
    if known_N.any():
        away_N = torch.cat([torch.cdist(f, f_ND[known_N]).min(1).values for f in f_ND.split(CHUNK)])
    else:
        away_N = (
            torch.rand(len(f_ND), generator=stream(seed, "coreset")) + f_ND.norm(dim=1).max() * 2
        )
    chosen: list[int] = []
    for _ in range(n):
        away_N[known_N] = -1
        chosen.append(int(away_N.argmax()))
        away_N = torch.minimum(away_N, torch.cdist(f_ND, f_ND[chosen[-1:]])[:, 0])
        away_N[chosen] = -1
    return torch.tensor(chosen)


def margin(logits_NY: Tensor, known_N: Tensor, n: int) -> Tensor:
    """The images where the top two class probabilities are closest."""
    first, second = logits_NY.softmax(1).topk(2).values.unbind(1)
    return (first - second).masked_fill(known_N, float("inf")).argsort(stable=True)[:n]


def random(known_N: Tensor, n: int, seed: int) -> Tensor:
    rows = (~known_N).nonzero().flatten()
    return rows[torch.randperm(len(rows), generator=stream(seed, "acquire"))[:n]]


def kmeans(f_ND: Tensor, clusters: int, seed: int) -> Tensor:
    """The cluster of each row, int64 [N]."""
    from sklearn.cluster import KMeans, MiniBatchKMeans

    kind = KMeans if clusters <= EXACT else MiniBatchKMeans
    return torch.from_numpy(
        kind(clusters, n_init=1, random_state=seed).fit_predict(f_ND.numpy())
    ).long()
