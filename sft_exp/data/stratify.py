"""Stratified orders and folds of images that have several classes each, or none.

A set of classes is a row of zeros and ones. Images without any class count as a class of their own.
"""

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Sets = NDArray[np.int64]


def order(sets_NY: Tensor, total: int, seed: int) -> list[int]:
    """The first `total` rows of a random order whose every beginning has the classes in proportion.

    The next row is always one of the class that is furthest below its share; while a class has no
    row yet, the rarest such class comes first. It is the rule of iterative stratification
    (Sechidis et al., ECML 2011) for subsets that contain one another.
    """
    of_class_NL = with_none(sets_NY)
    rng = np.random.default_rng(seed)
    shuffled_N = rng.permutation(len(of_class_NL))
    queues = [
        [n for n in shuffled_N[::-1] if of_class_NL[n, c]] for c in range(of_class_NL.shape[1])
    ]
    share_L, count_L = of_class_NL.mean(0), np.zeros(of_class_NL.shape[1])
    rarity_L = 1 / share_L
    taken, chosen = np.zeros(len(of_class_NL), bool), list[int]()
    while len(chosen) < total:
        lack_L = share_L * (len(chosen) + 1) - count_L
        # above any shortfall, the rarest first
        lack_L = np.where(count_L == 0, len(of_class_NL) * rarity_L, lack_L)
        lack_L[[not queue for queue in queues]] = -np.inf
        queue = queues[int(lack_L.argmax())]
        n = queue.pop()
        if not taken[n]:
            taken[n] = True
            chosen.append(int(n))
            count_L += of_class_NL[n]
    return chosen


def folds(sets_NY: Tensor, groups: list[str] | None, count: int, seed: int) -> Sets:
    """The fold of each row, 0 to count - 1, by iterative stratification (Sechidis et al., ECML 2011,
    algorithm 1). Rows of one group are in one fold."""
    of_class_NL = with_none(sets_NY)
    names = groups if groups is not None else [str(n) for n in range(len(of_class_NL))]
    units, unit_N = np.unique(names, return_inverse=True)
    size_U = np.bincount(unit_N, minlength=len(units))
    of_class_UL = np.zeros((len(units), of_class_NL.shape[1]), np.int64)
    np.add.at(of_class_UL, unit_N, of_class_NL)
    rng = np.random.default_rng(seed)
    wanted_KL = np.tile(of_class_UL.sum(0) / count, (count, 1))
    room_K = np.full(count, len(of_class_NL) / count)
    fold_U = np.full(len(units), -1)
    while (left_U := fold_U < 0).any():
        remaining_L = (of_class_UL[left_U] > 0).sum(0)
        scarce = int(np.where(remaining_L > 0, remaining_L, len(units) + 1).argmin())
        of_scarce = rng.permutation(np.flatnonzero(left_U & (of_class_UL[:, scarce] > 0)))
        for u in of_scarce[np.argsort(-of_class_UL[of_scarce, scarce], kind="stable")]:
            # the fold that wants the class most, then the one with most room, then any
            k = int(np.lexsort((rng.random(count), -room_K, -wanted_KL[:, scarce]))[0])
            fold_U[u] = k
            wanted_KL[k] -= of_class_UL[u]
            room_K[k] -= size_U[u]
    return fold_U[unit_N]


def with_none(sets_NY: Tensor) -> Sets:
    """The classes that occur, and that of the images without any class."""
    sets = sets_NY.cpu().numpy().astype(np.int64)
    columns = np.concatenate([sets, sets.sum(1, keepdims=True) == 0], axis=1).astype(np.int64)
    return columns[:, columns.sum(0) > 0]
