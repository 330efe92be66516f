"""Any class of torchmetrics: `metrics=[{_target_:
torchmetrics.classification.MulticlassCohenKappa}]`."""

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
    needs_probabilities: ClassVar[bool] = True  # torchmetrics applies softmax to logits
    passes: ClassVar[tuple[str, ...]] = ("options",)

    path: str = "torchmetrics.classification.MulticlassCohenKappa"  # import path
    options: dict = field(default_factory=lambda: {})  # arguments of the class

    @property
    def key(self):
        return self.path.rpartition(".")[2]

    def build(self, spec):
        """The metric object; `num_classes` and `task` are those of the data set unless `options`
        has them, if the class takes them."""
        module, _, name = self.path.rpartition(".")
        try:
            kind: Any = getattr(import_module(module), name)
        except (ImportError, AttributeError, ValueError, TypeError) as error:
            raise ConfigError("path", self.path, f"cannot be imported ({error})") from error
        if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
            raise ConfigError("path", self.path, "must be a metric class of torchmetrics")
        parameters = inspect.signature(kind).parameters
        known = {"task": "multiclass", "num_classes": len(spec.classes)}
        defaults = {key: value for key, value in known.items() if key in parameters}
        try:
            return kind(**defaults | self.options)
        except (TypeError, ValueError) as error:
            raise ConfigError("options", self.options, f"{name} rejects them: {error}") from error
