"""The contract of a strategy: which parameters the labels change, when and how fast."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from sft_exp.core.types import Layers, Rates, Spec, Tensors


@dataclass
class Strategy:
    """How labels change a network: which numbers move, when, how fast; or a head solved in closed form.

    What does not move is frozen: its bytes, its BatchNorm statistics, without weight decay and dropout. `phases`, or `solve`
    and `head`, are each strategy's own; `adapt`, `merge` and `penalty` are words that most leave neutral.
    """

    probabilistic: ClassVar[bool] = (
        True  # the head's predictions are logits; False: scores without that meaning
    )
    solves: ClassVar[bool] = (
        False  # the head comes from `solve`, and nothing is trained by gradient
    )
    solved: ClassVar[tuple[str, ...]] = (
        "classes",
        "pixels",
    )  # what tasks must predict for that; others need a gradient

    def adapt(self, encoder: nn.Module, rng: torch.Generator) -> None:
        """Add parameters to the encoder, pretrained by now, before `phases` is asked about them."""

    def merge(self, encoder: nn.Module) -> None:
        """After training, fold what `adapt` added into the encoder's own parameters, so that it is saved like any other."""

    def phases(self, layers: Layers) -> list[tuple[float, Rates]]:
        """[(share of the steps, rates of the encoder's parameters)]; shares sum to 1; the head always moves, at rate 1."""
        raise NotImplementedError

    def penalty(self, now: Tensors, start: Tensors) -> Tensor | None:
        """A term of the loss [scalar], of what moves: the parameters now, and the encoder's as they started."""
        return None

    def unlabelled(self) -> int:
        """How many unlabelled images `solve` is shown at most."""
        return 0

    def solve(self, f_BD: Tensor, y_B: Tensor, spec: Spec, seed: int) -> nn.Module:
        """A head fitted to convergence on frozen features; `y_B` are classes, or numbers [B, K]. Unlabelled images come last,
        with the class -1."""
        raise NotImplementedError

    def head(self, shapes: dict[str, torch.Size], spec: Spec) -> nn.Module:
        """The empty head that saved weights of these shapes fit."""
        raise NotImplementedError
