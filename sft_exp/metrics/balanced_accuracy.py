"""Balanced accuracy: the mean of the classes' recalls. Brodersen et al., ICPR 2010, equation 6."""

from dataclasses import dataclass

from sft_exp.core.metric import Metric


@dataclass
class BalancedAccuracy(Metric):
    @property
    def key(self):
        return "balanced_accuracy"

    def build(self, spec):
        from torchmetrics.classification import MulticlassAccuracy

        return MulticlassAccuracy(len(spec.classes), average="macro")
