"""The processes that torchrun, torch's elastic launcher or Slurm started together: who they are and what they tell each other."""

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
from sft_exp.errors import LostRank

T = TypeVar("T")
SIGNS = (
    "gloo",
    "NCCL",
    "ncclRemoteError",
    "Connection closed",
    "Connection reset",
    "Broken pipe",
    "Timed out",
    "timed out",
)
PATIENCE = timedelta(seconds=20)  # between two looks whether the first process has said something


def present() -> bool:
    """Whether this process was started as one of a group."""
    return {"RANK", "WORLD_SIZE"} <= os.environ.keys()


def first() -> bool:
    """Whether it is the one that keeps results."""
    return not present() or os.environ["RANK"] == "0"


class Group:
    """All processes. Beside the process group of torch's wrappers it has one of its own, on the CPU and on the device, so that
    neither's messages can come between the other's."""

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
        return Together(self, batch_size)

    def any(self, *flags: bool) -> list[bool]:
        """Whether some process says so, of each flag: the same answer for all."""
        told = torch.tensor([float(f) for f in flags])
        dist.all_reduce(told, dist.ReduceOp.MAX, group=self.channel)
        return [bool(t) for t in told]

    def same(self, value: Any) -> list[Any]:
        """The value of every process, in the order of ranks."""
        found: list[Any] = [None] * self.count
        dist.all_gather_object(found, value, group=self.channel)
        return found

    def broadcast(self, message: dict[str, Any]) -> None:
        """By the first process: what all are to do next."""
        self.store.set(f"sft_exp/{self.message_count}", json.dumps(message))
        self.message_count += 1

    def receive(self) -> dict[str, Any]:
        """By the others, who wait as long as it takes: whoever started us ends us if the first process is gone."""
        key = f"sft_exp/{self.message_count}"
        while True:
            try:
                self.store.wait([key], PATIENCE)
                break
            except (dist.DistStoreError, RuntimeError) as error:
                if "imeout" not in str(error) and "timed out" not in str(error):
                    raise lost(error) from error
        self.message_count += 1
        return json.loads(self.store.get(key))

    def close(self) -> None:
        """Orderly: a process that leaves while others still talk takes them down with it."""
        gc.collect()  # wrappers hold on to the group
        dist.barrier(group=self.channel)
        dist.destroy_process_group()


def shared(
    compute: Callable[[Iterable[Tensor]], Iterable[T]],
    pieces: Sequence[Tensor],
    group: Group | None,
) -> Iterator[T]:
    """What `compute` makes of each piece of the rows, in their order: each computed once, by one process, and known to all; on
    the CPU, if there are several."""
    if group is None:
        yield from compute(pieces)
        return
    mine = iter(compute(pieces[group.rank :: group.count]))
    for begun in range(0, len(pieces), group.count):
        yield from group.same(on_cpu(next(mine, None)))[: len(pieces) - begun]


def on_cpu(value: Any) -> Any:
    """The same with all tensors in it on the CPU: sent elsewhere they would claim the sender's device."""
    if isinstance(value, Tensor):
        return value.cpu()
    if isinstance(value, dict):
        return {k: on_cpu(v) for k, v in value.items()}
    return type(value)(map(on_cpu, value)) if isinstance(value, list | tuple) else value


@contextmanager
def missing(group: Group | None) -> Iterator[None]:
    """A process that is gone shows itself to the others as one of many errors: inside, all are LostRank."""
    try:
        yield
    except RuntimeError as error:
        if group is None or not any(sign in str(error) for sign in SIGNS):
            raise
        raise lost(error) from error


def lost(error: BaseException) -> LostRank:
    first = str(error).splitlines()[0]
    return LostRank(
        f"another process of this training is gone or hangs ({first}); the same command continues"
    )


class Together(Ranks):
    """Several processes share batches of this size."""

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
    """Rows of all ranks. Backward adds up what the losses of all ranks say of a row; a gradient that stopped at its own rank's
    loss would be short of what the others' losses say."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, sizes: Sequence[int], rank: int, group: Any) -> Tensor:
        ctx.start, ctx.size, ctx.group = sum(sizes[:rank]), sizes[rank], group
        most = max(sizes)
        full = (
            x.contiguous()
            if len(x) == most
            else torch.cat([x, x.new_zeros(most - len(x), *x.shape[1:])])
        )
        found = [torch.empty_like(full) for _ in sizes]
        dist.all_gather(found, full, group=group)
        return torch.cat([f[:n] for f, n in zip(found, sizes, strict=True)])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        total = grad.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total, group=ctx.group)
        return total[ctx.start : ctx.start + ctx.size], None, None, None
