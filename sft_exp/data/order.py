"""The order of the training examples, as a function of the step alone."""

from functools import lru_cache

import torch
from torch import Tensor

from sft_exp.core.rng import stream


def rows_of_step(n: int, size: int, step: int, *name: int | str) -> Tensor:
    """Indices of batch `step`, when n examples are shuffled anew in each epoch.

    The last n % size examples of an epoch are dropped. If `size` >= n, each batch is 0 ... n - 1.
    """
    if size >= n:
        return torch.arange(n)
    epoch, i = divmod(step, n // size)
    return order(n, *name, epoch)[i * size : (i + 1) * size]


@lru_cache(maxsize=8)
def order(n: int, *name: int | str) -> Tensor:
    """A random permutation of n indices, named by `name`."""
    return torch.randperm(n, generator=stream(*name, "order"))
