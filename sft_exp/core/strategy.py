"""The contract of a strategy: which parameters the labels change, when and how fast."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from sft_exp.core.method import Method
from sft_exp.core.task import Task
from sft_exp.core.types import Layers, Rates, Spec, Tensors


@dataclass
class Strategy:
    """How labels change a network: which numbers move, when, how fast; or a head solved in closed form.

    What does not move is frozen: its bytes, its BatchNorm statistics, without weight decay and
    dropout. `phases`, or `fit_closed_form`
    and `head`, are each strategy's own; `adapt`, `merge` and `penalty` are words that most leave neutral.
    """

    # the head's predictions are logits; False: scores without that meaning
    probabilistic: ClassVar[bool] = True
    # the head comes from `fit_closed_form`, and nothing is trained by gradient
    closed_form: ClassVar[bool] = False
    # what tasks must predict for that; others need a gradient
    closed_form_tasks: ClassVar[tuple[str, ...]] = ("classes", "pixels")

    tasks: ClassVar[tuple[str, ...]] = ()  # what tasks must predict; empty: anything
    # `phases` never let the encoder move, and nothing is added to it
    frozen: ClassVar[bool] = False
    uses_pool: ClassVar[bool] = False  # trains on the pool's images, too, as `unlabelled`

    def resolved(self, find: Callable[[str, Any], Path]) -> "Strategy":
        """The strategy with the store folders of the models that it learns from. `find(field, value)` gives the folder that
        the value of a field names, or a ConfigError."""
        return self

    def models(self) -> tuple[Path, ...]:
        """Those folders; what is in them is part of the result's name."""
        return ()

    def wraps(self, task: Task, models: list[Any]) -> Method:
        """What is trained: the task, unless the strategy adds a loss of its own. `models` are those of `models()`, loaded:
        `predict` takes images [B, C, H, W] and gives the predictions of their task."""
        return task

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
        """How many unlabelled images `fit_closed_form` is shown at most."""
        return 0

    def fit_closed_form(self, f_BD: Tensor, y_B: Tensor, spec: Spec, seed: int) -> nn.Module:
        """A head fitted to convergence on frozen features; `y_B` are classes, or numbers [B, K]. Unlabelled images come last,
        with the class -1."""
        raise NotImplementedError

    def head(self, shapes: dict[str, torch.Size], spec: Spec) -> nn.Module:
        """The empty head that saved weights of these shapes fit."""
        raise NotImplementedError
