"""Named random streams, from which all random numbers of a step are drawn.

No random state is carried from one step to the next.
"""

import hashlib
import random
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from sft_exp.core.comm import BatchShard


def seed_of(*name: int | str) -> int:
    """The 63-bit seed of `name`, the same on every machine."""
    return int.from_bytes(hashlib.blake2b(repr(name).encode(), digest_size=8).digest(), "big") >> 1


class Stream(torch.Generator):
    """A source of random numbers for the examples of a batch.

    Processes that share a batch draw numbers for all of it, and each keeps those of its own
    examples, so that the draws do not depend on the number of processes. The first dimension of a
    shape is a multiple of this process's examples; an empty shape means one number for the whole
    batch. `torch.rand(..., generator=rng)` would give every process the numbers of the first rows.
    """

    def __new__(
        cls, device: torch.device | str = "cpu", share: BatchShard | None = None
    ) -> "Stream":
        return super().__new__(cls, device)  # type: ignore[call-arg]

    def __init__(self, device: torch.device | str = "cpu", share: BatchShard | None = None):
        self.share = share

    def rand(self, *shape: int) -> Tensor:
        """Uniform in [0, 1)."""
        x = torch.rand(self.batch_shape(shape), generator=self, device=self.device)
        return self.own_rows(x, shape)

    def randn(self, *shape: int) -> Tensor:
        """Standard normal."""
        x = torch.randn(self.batch_shape(shape), generator=self, device=self.device)
        return self.own_rows(x, shape)

    def bernoulli(self, p: Tensor) -> Tensor:
        """1 with probability p, else 0: [B, ...] -> [B, ...]."""
        if self.share is None:
            return torch.bernoulli(p, generator=self)
        batch = p.new_zeros(self.batch_shape(p.shape))
        self.own_rows(batch, p.shape).copy_(p)
        return self.own_rows(torch.bernoulli(batch, generator=self), p.shape)

    def beta(self, a: float, rows: int) -> Tensor:
        """Beta(a, a) [rows], as a ratio of Gamma(a) draws."""
        a_2N = torch.full((2, *self.batch_shape((rows,))), a, device=self.device)
        g_2N = torch._standard_gamma(a_2N, generator=self)
        return self.own_rows(g_2N[0] / g_2N.sum(0).clamp_min(1e-30), (rows,))

    def batch_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The shape of the numbers of the whole batch."""
        if self.share is None or not shape:
            return tuple(shape)
        return (self.share.times(shape[0]) * self.share.total, *shape[1:])

    def own_rows(self, x: Tensor, shape: Sequence[int]) -> Tensor:
        """This process's rows of numbers that were drawn for the whole batch."""
        return x if self.share is None or not shape else self.share.of(x)


def stream(
    *name: int | str, device: torch.device | str = "cpu", share: BatchShard | None = None
) -> Stream:
    """The random stream of this name, e.g. (seed, "draw", step), from its start.

    No random state is carried from step to step. Therefore a checkpoint has none, and neither
    resuming nor the number of worker processes can change a result.
    """
    result = Stream(device, share)
    result.manual_seed(seed_of(*name))
    return result


def seed_global(seed: int, device: torch.device) -> None:
    """Seed the global generators, which initialisation and dropout use.

    `torch.manual_seed` would also queue a stack trace for each absent kind of GPU, which takes
    longer than a small step.
    """
    torch.default_generator.manual_seed(seed)
    if device.type != "cpu":
        torch.get_device_module(device).manual_seed(seed)


_one_at_a_time = threading.RLock()


@contextmanager
def caller_generators() -> Iterator[None]:
    """Give the global generators of Python, NumPy and torch their state back at the end.

    Functions that other programs call are decorated with it: who seeded a program of their own goes
    on drawing as if they had not called us. Calls of several threads wait for one another, as they
    would draw from the same generators and compose with the same Hydra.
    """
    with _one_at_a_time:
        python_state, numpy_state = random.getstate(), np.random.get_state()
        gpus = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
        try:
            with torch.random.fork_rng(gpus):
                yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)
