"""The processes that torchrun, its elastic launcher or Slurm started, and their communication."""

import gc
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from sft_exp.core.comm import BatchShard, Ranks, share
from sft_exp.errors import LostRank, first_line

T = TypeVar("T")
LOST_SIGNS = (  # parts of the error messages that a lost process causes in the others
    "gloo",
    "NCCL",
    "ncclRemoteError",
    "Connection closed",
    "Connection reset",
    "Broken pipe",
    "Timed out",
    "timed out",
)
POLL = timedelta(seconds=20)  # timeout of one wait for a message of the first process


def present() -> bool:
    """Whether this process was started as a member of a group."""
    return {"RANK", "WORLD_SIZE"} <= os.environ.keys()


def first() -> bool:
    """Whether this process is the one that writes results, rank 0 or a single process."""
    return not present() or os.environ["RANK"] == "0"


class Group:
    """All processes of a training.

    Besides the process group of torch's wrappers it has one of its own, for the CPU and the device,
    so that the two cannot mix up their messages.
    """

    def __init__(self, device: torch.device, seconds: float):
        limit = timedelta(seconds=seconds)
        if device.type == "cuda":
            torch.cuda.set_device(device)
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", timeout=limit
        )
        self.rank, self.count = dist.get_rank(), dist.get_world_size()
        self.channel: Any = dist.new_group(timeout=limit)
        self.store = dist.distributed_c10d._get_default_store()
        self.device, self.message_count = device, 0

    def sharing(self, batch_size: int) -> "Together":
        """The ranks that share batches of this size."""
        return Together(self, batch_size)

    def any(self, *flags: bool) -> list[bool]:
        """For each flag, whether it is set in any process; the same result in all of them."""
        values = torch.tensor([float(f) for f in flags])
        dist.all_reduce(values, dist.ReduceOp.MAX, group=self.channel)
        return [bool(v) for v in values]

    def same(self, value: Any) -> list[Any]:
        """The values of all processes, in rank order."""
        values: list[Any] = [None] * self.count
        dist.all_gather_object(values, value, group=self.channel)
        return values

    def broadcast(self, message: dict[str, Any]) -> None:
        """Send a message from the first process to all others: what to do next."""
        self.store.set(f"sft_exp/{self.message_count}", json.dumps(message))
        self.message_count += 1

    def receive(self) -> dict[str, Any]:
        """Wait for the next message of the first process, without a time limit: the launcher ends
        this process if the first one is gone."""
        key = f"sft_exp/{self.message_count}"
        while True:
            try:
                self.store.wait([key], POLL)
                break
            except (dist.DistStoreError, RuntimeError) as error:
                if "imeout" not in str(error) and "timed out" not in str(error):
                    raise lost(error) from error
        self.message_count += 1
        return json.loads(self.store.get(key))

    def close(self) -> None:
        """Leave after a barrier: a process that exits earlier would break the others."""
        gc.collect()  # frees wrappers that still refer to the group
        dist.barrier(group=self.channel)
        dist.destroy_process_group()


def shared(
    compute: Callable[[Iterable[Tensor]], Iterable[T]],
    pieces: Sequence[Tensor],
    group: Group | None,
) -> Iterator[T]:
    """Yield the results of `compute` for the pieces, in order, in every process.

    Each piece is computed once, by one process. With several processes, the results are on the CPU.
    """
    if group is None:
        yield from compute(pieces)
        return
    own = iter(compute(pieces[group.rank :: group.count]))
    for start in range(0, len(pieces), group.count):
        yield from group.same(on_cpu(next(own, None)))[: len(pieces) - start]


def on_cpu(value: Any) -> Any:
    """A copy with all tensors on the CPU: unpickling must not use the sender's device."""
    if isinstance(value, Tensor):
        return value.cpu()
    if isinstance(value, dict):
        return {k: on_cpu(v) for k, v in value.items()}
    return type(value)(map(on_cpu, value)) if isinstance(value, list | tuple) else value


@contextmanager
def missing(group: Group | None) -> Iterator[None]:
    """Inside, the errors that a lost process causes in the others are raised as LostRank."""
    try:
        yield
    except RuntimeError as error:
        if group is None or not any(sign in str(error) for sign in LOST_SIGNS):
            raise
        raise lost(error) from error


def lost(error: BaseException) -> LostRank:
    """The error to raise for a process that is lost, with its cause."""
    cause = first_line(error)
    return LostRank(
        f"another process of this training is gone or hangs ({cause}); "
        "the same command continues the training"
    )


class Together(Ranks):
    """The ranks of a group that share batches of one size."""

    def __init__(self, group: Group, batch_size: int):
        self.rank, self.count, self.group = group.rank, group.count, group
        self.shares = [share(batch_size, r, self.count) for r in range(self.count)]
        self.share: BatchShard = self.shares[self.rank]
        self.parts = torch.tensor([len(s) / batch_size for s in self.shares])

    def gather(self, x: Tensor) -> Tensor:
        k = self.share.times(len(x))
        return Gather.apply(x, [k * len(s) for s in self.shares], self.rank, self.group.channel)

    def places(self, n: int, device: torch.device) -> Tensor:
        return torch.arange(n, device=device) + self.share.times(n) * self.share.start

    def each(self, x: Tensor) -> Tensor:
        return Gather.apply(x[None], [1] * self.count, self.rank, self.group.channel)


class Gather(torch.autograd.Function):
    """The rows of all ranks. Backward adds up the gradients of all ranks' losses for this rank's
    rows; the gradient of its own loss alone would be incomplete."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, sizes: Sequence[int], rank: int, group: Any) -> Tensor:
        ctx.start, ctx.size, ctx.group = sum(sizes[:rank]), sizes[rank], group
        largest = max(sizes)
        padded = x.contiguous()
        if len(x) < largest:
            padded = torch.cat([x, x.new_zeros(largest - len(x), *x.shape[1:])])
        received = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(received, padded, group=group)
        return torch.cat([r[:n] for r, n in zip(received, sizes, strict=True)])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        total = grad.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total, group=ctx.group)
        return total[ctx.start : ctx.start + ctx.size], None, None, None
