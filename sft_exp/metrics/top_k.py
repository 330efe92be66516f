"""Top-k accuracy: the share of images whose class is among the k with the highest scores."""

from dataclasses import dataclass

from sft_exp.core.metric import Metric
from sft_exp.errors import ConfigError, require


@dataclass
class TopK(Metric):
    k: int = 5  # number of classes that may be predicted

    def __post_init__(self):
        require(self.k > 0, "k", self.k, "above 0")

    @property
    def key(self):
        return f"top_{self.k}"

    def build(self, spec):
        from torchmetrics.classification import MulticlassAccuracy

        classes = len(spec.classes)
        if self.k >= classes:
            raise ConfigError("k", self.k, f"must be below {classes}, the number of classes")
        return MulticlassAccuracy(classes, top_k=self.k, average="micro")
