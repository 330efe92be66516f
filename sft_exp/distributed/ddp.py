"""Every process has all of the networks and some rows of each batch: torch's DistributedDataParallel, whose averaging of
gradients runs beside backward."""

from contextlib import AbstractContextManager, nullcontext
from inspect import signature
from typing import Any

from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from sft_exp.core.types import Rates, Tensors
from sft_exp.distributed.group import Group
from sft_exp.distributed.sharing import Shared

# Buffers are the same everywhere, because whatever fills them gathers; torch 2.14 renames the switch for sending them anyway.
NEWER = "forward_sync_buffers" in signature(DistributedDataParallel).parameters
KEPT: dict[str, Any] = {"forward_sync_buffers" if NEWER else "broadcast_buffers": False}


class Replicated(Shared):
    """One wrapper an objective, made while the other networks are frozen: a wrapper over both networks of a GAN would wait for
    gradients that never come. And one a phase: a parameter that moves only later would silently not be averaged."""

    def wrap(self, group: Group) -> None:
        self.wrapped: dict[str, tuple[Rates, Any]] = {}

    def begin(self, objective: str, moving: Rates) -> None:
        if objective in self.wrapped and self.wrapped[objective][0] is moving:
            return
        self.wrapped = {
            o: (rates, ddp) for o, (rates, ddp) in self.wrapped.items() if rates is moving
        }
        self.wrapped[objective] = moving, DistributedDataParallel(self.bound, **KEPT)

    def loss(self, objective: str, *drawn: Tensor) -> tuple[Tensor, Tensors]:
        return self.wrapped[objective][1](objective, *drawn)

    def adding(self, objective: str, last: bool) -> AbstractContextManager:
        return nullcontext() if last else self.wrapped[objective][1].no_sync()
