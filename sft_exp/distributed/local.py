"""One process computes the whole batch. What an engine is, and what the others change of it."""

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
    """A method's objectives as a module over its networks: what torch's wrappers wrap."""

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
    """How losses, gradients and numbers of one training come about; which processes share the work is its affair alone."""

    ranks: Ranks = ALONE
    # whether each process holds a part of the networks and optimizers, and `write` and `read` keep
    # them
    shares = False
    # of this process's loss: gradients are averaged over processes, and their rows may differ by a
    # pair
    weight = 1.0

    def __init__(
        self,
        method: Method,
        nets: nn.ModuleDict,
        penalty: Penalty | None = None,
        compiled: bool = False,
        recompute: bool = False,
    ):
        self.method, self.nets = method, nets  # `nets` are those that optimizers move
        self.bound = LossModule(method, nets, penalty, compiled, recompute)

    def begin(self, objective: str, moving: Rates) -> None:
        """What gradients reach is about to be this objective's, of these parameters."""

    def loss(self, objective: str, *drawn: Tensor) -> tuple[Tensor, Tensors]:
        """Of this process's rows: (scalar, scalars to log)."""
        return self.bound(objective, *drawn)

    def adding(self, objective: str, last: bool) -> AbstractContextManager:
        """Around loss and backward of a piece of the batch: only the last one's need be shared."""
        return nullcontext()

    def mean(self, values: Tensors) -> Tensors:
        """Of the whole batch, from those of this process's rows."""
        return values

    def on_step_end(self, *drawn: Tensor) -> None:
        self.method.on_step_end(self.nets, *drawn)

    def write(self, folder: Path, optimizers: dict[str, torch.optim.Optimizer]) -> None:
        """This process's part of networks and optimizers, into a new folder."""
        raise NotImplementedError

    def read(self, folder: Path, optimizers: dict[str, torch.optim.Optimizer]) -> None:
        """What this process needs of what any number of processes wrote."""
        raise NotImplementedError

    def refresh(self) -> None:
        """Bring the networks that the engine was given up to date with those that are trained."""


def inside(method: Method, network: str) -> list[str]:
    """Networks of other objectives that lie inside this one, and that its own objective leaves alone."""
    others = (other for other, _ in method.objectives.values())
    return [
        other
        for other in others
        if other != network and (not network or other.startswith(f"{network}."))
    ]


@contextmanager
def recomputing(net: nn.Module) -> Iterator[None]:
    """Blocks called inside keep their input and nothing else: backward computes the rest again. Chen et al., arXiv:1604.06174.
    A second time BatchNorm normalises and remembers nothing."""
    found = blocks(net) if torch.is_grad_enabled() else []
    for block in found:
        quiet: Any = partial(contexts, block)
        block.forward = partial(checkpoint, block.forward, use_reentrant=False, context_fn=quiet)
    try:
        yield
    finally:
        for block in found:
            del block.forward


def contexts(block: nn.Module) -> tuple[AbstractContextManager, AbstractContextManager]:
    return nullcontext(), statistics_repeated(block)
