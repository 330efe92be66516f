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


def sampled_rows(y_N: Tensor, size: int, exponent: float, step: int, *name: int | str) -> Tensor:
    """Indices of batch `step`, drawn with replacement: a class with probability proportional to its
    number of examples to the power of `exponent`, and one of its examples uniformly.

    Kang et al., arXiv:1910.09217, equation 1: 1 = instance-balanced, 0.5 = square-root, 0 =
    class-balanced sampling.
    """
    count_Y = torch.bincount(y_N).double()
    weight_N = count_Y.pow(exponent - 1)[y_N]  # a class's probability, shared by its examples
    return torch.multinomial(
        weight_N, size, replacement=True, generator=stream(*name, "rows", step)
    )


@lru_cache(maxsize=8)
def order(n: int, *name: int | str) -> Tensor:
    """A random permutation of n indices, named by `name`."""
    return torch.randperm(n, generator=stream(*name, "order"))
