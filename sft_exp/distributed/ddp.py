"""Data parallelism with whole networks in every process: torch's DistributedDataParallel.

Every process computes some examples of each batch. Gradients are averaged while backward runs.
"""

from contextlib import AbstractContextManager, nullcontext
from inspect import signature
from typing import Any

from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from sft_exp.core.types import Rates, Tensors
from sft_exp.distributed.group import Group
from sft_exp.distributed.sharing import Shared

# Buffers need no broadcast: whatever fills them gathers, so they are the same in all processes.
# torch 2.14 renames the option.
NEWER = "forward_sync_buffers" in signature(DistributedDataParallel).parameters
OPTIONS: dict[str, Any] = {"forward_sync_buffers" if NEWER else "broadcast_buffers": False}


class Replicated(Shared):
    """The engine of DDP. It makes one wrapper for each objective and phase.

    A wrapper is made while the networks of other objectives are frozen: one for both networks of a
    GAN would wait for gradients that never come. Each phase needs its own, because the gradients of
    a parameter that becomes trainable only later would silently not be averaged.
    """

    def wrap(self, group: Group) -> None:
        self.wrapped: dict[str, tuple[Rates, Any]] = {}

    def begin(self, objective: str, rates: Rates) -> None:
        if objective in self.wrapped and self.wrapped[objective][0] is rates:
            return
        self.wrapped = {o: (r, ddp) for o, (r, ddp) in self.wrapped.items() if r is rates}
        self.wrapped[objective] = rates, DistributedDataParallel(self.bound, **OPTIONS)

    def loss(self, objective: str, *drawn: Tensor) -> tuple[Tensor, Tensors]:
        return self.wrapped[objective][1](objective, *drawn)

    def adding(self, objective: str, last: bool) -> AbstractContextManager:
        return nullcontext() if last else self.wrapped[objective][1].no_sync()
