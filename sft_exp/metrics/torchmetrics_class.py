"""Any class of torchmetrics: `metrics=[{_target_: torchmetrics.classification.MulticlassCohenKappa}]`."""

import inspect
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, ClassVar

from torch import nn

from sft_exp.core.metric import Metric
from sft_exp.errors import ConfigError


@dataclass
class TorchMetric(Metric):
    predicts: ClassVar[tuple[str, ...]] = ("classes", "pixels", "numbers")
    needs_probabilities: ClassVar[bool] = True  # torchmetrics takes softmax where it sees logits
    passes: ClassVar[tuple[str, ...]] = ("options",)

    path: str = "torchmetrics.classification.MulticlassCohenKappa"  # of the class
    options: dict = field(default_factory=lambda: {})  # its arguments

    @property
    def key(self):
        return self.path.rpartition(".")[2]

    def build(self, spec):
        """With `num_classes` and `task` of the data set, where the class takes them and `options` say nothing else."""
        module, _, name = self.path.rpartition(".")
        try:
            kind: Any = getattr(import_module(module), name)
        except (ImportError, AttributeError) as error:
            raise ConfigError("path", self.path, f"cannot be imported ({error})") from error
        if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
            raise ConfigError("path", self.path, "must be a metric class of torchmetrics")
        taken = inspect.signature(kind).parameters
        known = {"task": "multiclass", "num_classes": len(spec.classes)}
        usual = {word: value for word, value in known.items() if word in taken}
        try:
            return kind(**usual | self.options)
        except (TypeError, ValueError) as error:
            raise ConfigError("options", self.options, f"{name} says: {error}") from error
