"""The processes that share one training, as methods see them: hardly at all.

Each process, a rank, has some rows of every batch. Whatever must be the same however many ranks there are asks here: a loss
that compares rows with all others, BatchNorm, a queue (`gather`), and random numbers
(`BatchShard`, by way of core.Stream). Alone,
all of it gives back what it is given. The engines (sft_exp/engines) say who else there is; nothing else needs torch.distributed.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class BatchShard:
    """This rank's rows of a batch of `total` rows: from `start` up to `stop`. Where a pool has k rows for each, k times these."""

    start: int
    stop: int
    total: int

    def __len__(self) -> int:
        return self.stop - self.start

    def times(self, rows: int) -> int:
        """k, if `rows` are k times this rank's."""
        k, rest = divmod(rows, len(self))
        if rest:
            raise ValueError(
                f"{rows} rows are no multiple of the {len(self)} rows that this rank has of the batch"
            )
        return k

    def of(self, x: Tensor) -> Tensor:
        """This rank's rows of numbers for the whole batch [k * total, ...]."""
        k = len(x) // self.total
        return x[k * self.start : k * self.stop]


def share(total: int, rank: int, count: int) -> BatchShard:
    """Rank's rows of a batch. Rows are handed out in pairs: mixup and its kin mix neighbours."""
    pairs = -(-total // 2)
    start, stop = (2 * (pairs * r // count) for r in (rank, rank + 1))
    return BatchShard(start, min(stop, total), total)


class Ranks:
    """Who shares a batch. This one has it for itself."""

    rank, count = 0, 1
    share: BatchShard | None = None  # this rank's rows of the batch; None: all
    parts: Tensor = torch.ones(1)  # each rank's part of the batch [ranks]

    def gather(self, x: Tensor) -> Tensor:
        """Rows [n, ...] of every rank, in their order [N, ...], with gradients: what each rank's loss says of a row is added
        up where the row came from. The same number of rows for each row of the batch on all ranks."""
        return x

    def places(self, n: int, device: torch.device) -> Tensor:
        """Where n rows of this rank come to lie in what `gather` gives [n]."""
        return torch.arange(n, device=device)

    def each(self, x: Tensor) -> Tensor:
        """The same tensor of every rank, stacked [ranks, ...], with gradients."""
        return x[None]

    def mean(self, x: Tensor) -> Tensor:
        """Of the whole batch, from this rank's mean over its rows."""
        return torch.tensordot(self.parts.to(x), self.each(x), 1)


ALONE = Ranks()
_now: list[Ranks] = [ALONE]


def now() -> Ranks:
    """Who shares the batch that is being computed."""
    return _now[-1]


@contextmanager
def use_ranks(ranks: Ranks) -> Iterator[None]:
    _now.append(ranks)
    try:
        yield
    finally:
        _now.pop()


def gather(x: Tensor) -> Tensor:
    """`x` of all ranks: see Ranks.gather."""
    return now().gather(x)
