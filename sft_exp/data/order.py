"""The order in which a training sees the examples, as a function of the step alone."""

from functools import lru_cache

import torch
from torch import Tensor

from sft_exp.core.rng import stream


def rows_of_step(n: int, size: int, step: int, *name: int | str) -> Tensor:
    """Rows of batch `step` of an endless shuffled walk over n rows; all n, in order, if `size` is as large."""
    if size >= n:
        return torch.arange(n)
    epoch, i = divmod(step, n // size)
    return order(n, *name, epoch)[i * size : (i + 1) * size]


@lru_cache(maxsize=8)
def order(n: int, *name: int | str) -> Tensor:
    return torch.randperm(n, generator=stream(*name, "order"))
