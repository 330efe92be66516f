"""The base class of metrics: scores of test predictions besides those of the task."""

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from sft_exp.core.types import Spec


@dataclass
class Metric:
    """The hyperparameters of a score of test predictions. Nothing is trained or chosen by it."""

    predicts: ClassVar[tuple[str, ...]] = ("classes",)  # kinds of predictions that it scores
    needs_probabilities: ClassVar[bool] = False  # the predictions must be logits

    @property
    def key(self) -> str:
        """The name of the score in results.json."""
        return type(self).__name__

    def build(self, spec: Spec) -> nn.Module:
        """A torchmetrics object for Y = len(spec.classes) classes.

        Its `update` gets what `Task.compared` returns: for classification, logits [B, Y] and labels
        [B]. Its `compute` returns a number, one per class [Y], or a dict of such.
        """
        raise NotImplementedError
