"""The contract of a metric: a score of predictions on test images, beside those of the task."""

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from sft_exp.core.types import Spec


@dataclass
class Metric:
    """A score of test predictions, as hyperparameters. It trains nothing and chooses nothing."""

    predicts: ClassVar[tuple[str, ...]] = ("classes",)  # what tasks must predict
    needs_probabilities: ClassVar[bool] = False  # softmax of the predictions must mean something

    @property
    def key(self) -> str:
        """The name of the score in results.json."""
        return type(self).__name__

    def build(self, spec: Spec) -> nn.Module:
        """A torchmetrics object for Y = len(spec.classes) classes. `update` gets what `Task.compared` returns: of
        classification logits [B, Y] and labels [B]. `compute` returns a number, one a class [Y], or a dict of them."""
        raise NotImplementedError
