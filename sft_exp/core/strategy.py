"""The base class of strategies: which parameters fine-tuning trains, when, and how fast."""

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
    """Chooses which parameters the labels train, when and how fast, or solves a head in closed
    form.

    All other parameters are frozen: neither they nor BatchNorm's statistics change, and there is no
    weight decay or dropout. Every strategy defines `phases`, or `fit_closed_form` and `head`; few
    need `adapt`, `merge` or `penalty`.
    """

    # the head's predictions are logits; False: other scores
    probabilistic: ClassVar[bool] = True
    # `fit_closed_form` makes the head, and nothing is trained by gradient
    closed_form: ClassVar[bool] = False
    # predictions of tasks that have a closed form; others are trained by gradient
    closed_form_tasks: ClassVar[tuple[str, ...]] = ("classes", "pixels")

    tasks: ClassVar[tuple[str, ...]] = ()  # predictions of tasks that it supports; empty: all
    # the encoder is frozen in all phases, and `adapt` adds nothing
    frozen: ClassVar[bool] = False
    uses_pool: ClassVar[bool] = False  # also trains on the pool's images, as `unlabelled`

    def resolved(self, find: Callable[[str, Any], Path]) -> "Strategy":
        """A copy whose fields are the store folders of the models that it learns from.

        `find(field, value)` returns the folder that the field's value names, or raises ConfigError.
        """
        return self

    def models(self) -> tuple[Path, ...]:
        """The store folders of these models, whose content is part of the result's hash."""
        return ()

    def wraps(self, task: Task, models: list[Any]) -> Method:
        """The method that is trained: the task, unless the strategy adds a loss of its own.

        `models` are the loaded models of `models()`; their `predict` maps images [B, C, H, W] to
        the predictions of their task.
        """
        return task

    def adapt(self, encoder: nn.Module, rng: torch.Generator) -> None:
        """Add parameters to the pretrained encoder, before `phases` is called."""

    def merge(self, encoder: nn.Module) -> None:
        """Merge the parameters that `adapt` added into the encoder's own after training, so that it
        is saved like any other."""

    def phases(self, layers: Layers) -> list[tuple[float, Rates]]:
        """[(share of the steps, rates of the encoder's parameters)]. The shares sum to 1; the head
        is always trained, at rate 1."""
        raise NotImplementedError

    def penalty(self, now: Tensors, start: Tensors) -> Tensor | None:
        """An additional term of the loss [scalar], of the trainable parameters: `now` has all of
        them, `start` the initial values of the encoder's."""
        return None

    def unlabelled(self) -> int:
        """The largest number of unlabelled images that `fit_closed_form` gets."""
        return 0

    def fit_closed_form(self, f_BD: Tensor, y_B: Tensor, spec: Spec, seed: int) -> nn.Module:
        """A head fitted to convergence on frozen features; `y_B` are classes, or numbers [B, K].
        Unlabelled images come last, with the class -1."""
        raise NotImplementedError

    def head(self, shapes: dict[str, torch.Size], spec: Spec) -> nn.Module:
        """An uninitialised head for saved weights of these shapes."""
        raise NotImplementedError
