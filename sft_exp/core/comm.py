"""The processes that share one training, as methods see them.

Each process, a rank, has some of the examples of every batch. Whatever must not depend on the
number of ranks asks here: losses that compare all examples of a batch, BatchNorm, queues
(`gather`), and random numbers (`BatchShard`, through core.Stream). With a single process, all of it
returns its input. The engines (sft_exp/distributed) set the ranks; no other code needs
torch.distributed.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class BatchShard:
    """This rank's examples of a batch of `total`: from `start` up to, not including, `stop`.

    Of a pool with k examples for each of the batch, the rank has k times as many.
    """

    start: int
    stop: int
    total: int

    def __len__(self) -> int:
        return self.stop - self.start

    def times(self, rows: int) -> int:
        """The k for which `rows` is k times this rank's number of examples.

        Raises:
            ValueError: there is no such k.
        """
        k, rest = divmod(rows, len(self))
        if rest:
            raise ValueError(
                f"{rows} rows are not a multiple of this rank's {len(self)} examples of the batch"
            )
        return k

    def of(self, x: Tensor) -> Tensor:
        """This rank's rows of a tensor for the whole batch [k * total, ...]."""
        k = len(x) // self.total
        return x[k * self.start : k * self.stop]


def share(total: int, rank: int, count: int) -> BatchShard:
    """The rank's examples of a batch, in whole pairs, because mixup and similar mix neighbours."""
    pairs = -(-total // 2)
    start, stop = (2 * (pairs * r // count) for r in (rank, rank + 1))
    return BatchShard(start, min(stop, total), total)


class Ranks:
    """The ranks that share a batch. In this base class, one rank has all of it."""

    rank, count = 0, 1
    share: BatchShard | None = None  # this rank's examples of the batch; None: all
    parts: Tensor = torch.ones(1)  # each rank's fraction of the batch [ranks]

    def gather(self, x: Tensor) -> Tensor:
        """The rows [n, ...] of all ranks, in rank order [N, ...], with gradients.

        The gradients of all ranks' losses are added up on the rank that a row came from. All ranks
        must have the same number of rows for each example of the batch.
        """
        return x

    def places(self, n: int, device: torch.device) -> Tensor:
        """The indices of this rank's n rows in the result of `gather` [n]."""
        return torch.arange(n, device=device)

    def each(self, x: Tensor) -> Tensor:
        """One tensor of every rank, stacked [ranks, ...], with gradients."""
        return x[None]

    def mean(self, x: Tensor) -> Tensor:
        """The mean over the whole batch, from this rank's mean over its examples."""
        return torch.tensordot(self.parts.to(x), self.each(x), 1)


ALONE = Ranks()
_now: list[Ranks] = [ALONE]


def now() -> Ranks:
    """The ranks that share the batch which is being computed."""
    return _now[-1]


@contextmanager
def use_ranks(ranks: Ranks) -> Iterator[None]:
    """Inside, `now()` returns these ranks."""
    _now.append(ranks)
    try:
        yield
    finally:
        _now.pop()


def gather(x: Tensor) -> Tensor:
    """The rows of all ranks, see Ranks.gather."""
    return now().gather(x)
