"""The engine of one process, which computes whole batches, and base class of the others."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from sft_exp.core.comm import ALONE, Ranks
from sft_exp.core.method import Method
from sft_exp.core.types import Rates, Tensors
from sft_exp.models.batchnorm import statistics_repeated
from sft_exp.models.layers import blocks

Penalty = Callable[[nn.ModuleDict], Tensor | None]


class LossModule(nn.Module):
    """A method's objectives as one module over its networks, for torch's DDP and FSDP wrappers."""

    def __init__(
        self,
        method: Method,
        nets: nn.ModuleDict,
        penalty: Penalty | None,
        compiled: bool,
        recompute: bool,
    ):
        super().__init__()
        self.nets, self.penalty, self.recompute = nets, penalty, recompute
        self.losses = {
            o: torch.compile(getattr(method, o)) if compiled else getattr(method, o)
            for o in method.objectives
        }

    def forward(self, objective: str, *drawn: Tensor) -> tuple[Tensor, Tensors]:
        with recomputing(self.nets) if self.recompute else nullcontext():
            value, logged = self.losses[objective](self.nets, *drawn)
        if self.penalty and (term := self.penalty(self.nets)) is not None:
            value, logged = value + term, {**logged, "penalty": term}
        return value, logged


class Engine:
    """Computes losses and gradients; only the engine knows which processes share the work."""

    ranks: Ranks = ALONE
    # each process has a shard of networks and optimizers, which `write` and `read` checkpoint
    shares = False
    # weight of this process's loss: gradients are averaged over processes, whose numbers of
    # examples may differ by a pair
    weight = 1.0

    def __init__(
        self,
        method: Method,
        nets: nn.ModuleDict,
        penalty: Penalty | None = None,
        compiled: bool = False,
        recompute: bool = False,
    ):
        self.method, self.nets = method, nets  # `nets` are those that the optimizers update
        self.bound = LossModule(method, nets, penalty, compiled, recompute)

    def begin(self, objective: str, rates: Rates) -> None:
        """Prepare for the loss and the gradients of this objective at these rates."""

    def loss(self, objective: str, *drawn: Tensor) -> tuple[Tensor, Tensors]:
        """(scalar, scalars to log) of this process's examples."""
        return self.bound(objective, *drawn)

    def adding(self, objective: str, last: bool) -> AbstractContextManager:
        """The context of loss and backward of a piece; only the last synchronises gradients."""
        return nullcontext()

    def mean(self, values: Tensors) -> Tensors:
        """The values of the whole batch, from those of this process's examples."""
        return values

    def on_step_end(self, *drawn: Tensor) -> None:
        """Call the method's `on_step_end`."""
        self.method.on_step_end(self.nets, *drawn)

    def write(self, folder: Path, optimizers: dict[str, torch.optim.Optimizer]) -> None:
        """Write this process's shard of networks and optimizers into a new folder."""
        raise NotImplementedError

    def read(self, folder: Path, optimizers: dict[str, torch.optim.Optimizer]) -> None:
        """Read this process's shard from a folder that any number of processes wrote."""
        raise NotImplementedError

    def refresh(self) -> None:
        """Copy the trained networks into those that the engine was given, if they differ."""


def inside(method: Method, network: str) -> list[str]:
    """Paths of networks inside this one that other objectives train, and that its own does not."""
    others = (other for other, _ in method.objectives.values())
    return [
        other
        for other in others
        if other != network and (not network or other.startswith(f"{network}."))
    ]


@contextmanager
def recomputing(net: nn.Module) -> Iterator[None]:
    """Activation checkpointing of the net's blocks. Chen et al., arXiv:1604.06174.

    A block stores its input alone, and backward computes the rest again. In this second pass
    BatchNorm does not update its running statistics.
    """
    wrapped = blocks(net) if torch.is_grad_enabled() else []
    for block in wrapped:
        context_fn: Any = partial(contexts, block)
        block.forward = partial(
            checkpoint, block.forward, use_reentrant=False, context_fn=context_fn
        )
    try:
        yield
    finally:
        for block in wrapped:
            del block.forward


def contexts(block: nn.Module) -> tuple[AbstractContextManager, AbstractContextManager]:
    """The contexts of a block's forward pass and of its recomputation."""
    return nullcontext(), statistics_repeated(block)
