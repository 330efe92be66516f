"""Named random streams: every random number of a step comes from one, so nothing random is carried from step to step."""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from sft_exp.core.comm import BatchShard


def seed_of(*name: int | str) -> int:
    """The 63-bit seed that `name` stands for, the same on every machine."""
    return int.from_bytes(hashlib.blake2b(repr(name).encode(), digest_size=8).digest(), "big") >> 1


class Stream(torch.Generator):
    """A source of random numbers for the rows of a batch.

    Where several processes share the batch, numbers are drawn for all of it and each process gets those of its rows: the same
    draws whatever the number of processes. Shapes begin with rows, a multiple of the batch's here; or are empty: one number
    for the whole batch. `torch.rand(..., generator=rng)` would give the first rows' numbers to every process.
    """

    def __new__(
        cls, device: torch.device | str = "cpu", share: BatchShard | None = None
    ) -> "Stream":
        return super().__new__(cls, device)  # type: ignore[call-arg]

    def __init__(self, device: torch.device | str = "cpu", share: BatchShard | None = None):
        self.share = share

    def rand(self, *shape: int) -> Tensor:
        """Uniform between 0 and 1."""
        return self.mine(torch.rand(self.whole(shape), generator=self, device=self.device), shape)

    def randn(self, *shape: int) -> Tensor:
        """Standard normal."""
        return self.mine(torch.randn(self.whole(shape), generator=self, device=self.device), shape)

    def bernoulli(self, p: Tensor) -> Tensor:
        """1 with the probability p, else 0: [B, ...] -> [B, ...]."""
        if self.share is None:
            return torch.bernoulli(p, generator=self)
        every = p.new_zeros(self.whole(p.shape))
        self.mine(every, p.shape).copy_(p)
        return self.mine(torch.bernoulli(every, generator=self), p.shape)

    def beta(self, a: float, rows: int) -> Tensor:
        """Beta(a, a) [rows]: the ratio of Gamma(a) draws."""
        g_2N = torch._standard_gamma(
            torch.full((2, *self.whole((rows,))), a, device=self.device), generator=self
        )
        return self.mine(g_2N[0] / g_2N.sum(0).clamp_min(1e-30), (rows,))

    def whole(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The shape for the whole batch."""
        if self.share is None or not shape:
            return tuple(shape)
        return (self.share.times(shape[0]) * self.share.total, *shape[1:])

    def mine(self, x: Tensor, shape: Sequence[int]) -> Tensor:
        return x if self.share is None or not shape else self.share.of(x)


def stream(
    *name: int | str, device: torch.device | str = "cpu", share: BatchShard | None = None
) -> Stream:
    """The random stream named by `name`, e.g. (seed, "draw", step): asking again gives it again from its start.

    Nothing random is carried from step to step, so a checkpoint holds no random state, and neither resuming nor the
    number of workers can change a result.
    """
    made = Stream(device, share)
    made.manual_seed(seed_of(*name))
    return made


def seed_global(seed: int, device: torch.device) -> None:
    """Seed what draws without being handed a stream: initial weights, dropout. (`torch.manual_seed` also queues a stack
    trace for each absent kind of GPU, which takes longer than a small step.)"""
    torch.default_generator.manual_seed(seed)
    if device.type != "cpu":
        torch.get_device_module(device).manual_seed(seed)
