"""Every process has all of the networks and some rows of each batch: torch's DistributedDataParallel, whose averaging of
gradients runs beside backward."""

from contextlib import AbstractContextManager, nullcontext
from inspect import signature
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from sft_exp.core import Method, Rates, Tensors
from sft_exp.engines.group import Group, Together
from sft_exp.engines.local import Engine, Penalty
from sft_exp.nets import across_ranks

# Buffers are the same everywhere, because whatever fills them gathers; torch 2.14 renames the switch for sending them anyway.
NEWER = "forward_sync_buffers" in signature(DistributedDataParallel).parameters
KEPT: dict[str, Any] = {"forward_sync_buffers" if NEWER else "broadcast_buffers": False}


class Shared(Engine):
    """What both engines of several processes have in common."""

    ranks: Together

    def share(self, group: Group, batch_size: int) -> None:
        self.ranks = group.sharing(batch_size)
        self.part = len(self.ranks.share) / batch_size
        self.weight = self.part * self.ranks.count

    def mean(self, values: Tensors) -> Tensors:
        told = torch.stack([v.detach() * self.part for v in values.values()])
        dist.all_reduce(told, group=self.ranks.group.channel)
        return dict(zip(values, told.unbind(), strict=True))


class Replicated(Shared):
    """One wrapper an objective, made while the other networks are frozen: a wrapper over both networks of a GAN would wait for
    gradients that never come. And one a phase: a parameter that moves only later would silently not be averaged."""

    def __init__(
        self,
        method: Method,
        nets: nn.ModuleDict,
        group: Group,
        batch_size: int,
        penalty: Penalty | None = None,
        compiled: bool = False,
        recompute: bool = False,
    ):
        across_ranks(nets)
        super().__init__(method, nets, penalty, compiled, recompute)
        self.share(group, batch_size)
        self.wrapped: dict[str, tuple[Rates, Any]] = {}

    def begin(self, objective: str, moving: Rates) -> None:
        if objective in self.wrapped and self.wrapped[objective][0] is moving:
            return
        self.wrapped = {o: (rates, ddp) for o, (rates, ddp) in self.wrapped.items() if rates is moving}
        self.wrapped[objective] = moving, DistributedDataParallel(self.bound, **KEPT)

    def loss(self, objective: str, *drawn: Tensor) -> tuple[Tensor, Tensors]:
        return self.wrapped[objective][1](objective, *drawn)

    def adding(self, objective: str, last: bool) -> AbstractContextManager:
        return nullcontext() if last else self.wrapped[objective][1].no_sync()
