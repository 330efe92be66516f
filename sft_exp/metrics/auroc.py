"""Area under the ROC curve of each class against all others, averaged over classes.

Hand & Till, Machine Learning 45, 2001.
"""

from dataclasses import dataclass
from typing import ClassVar

from sft_exp.core.metric import Metric


@dataclass
class Auroc(Metric):
    needs_probabilities: ClassVar[bool] = True

    @property
    def key(self):
        return "auroc"

    def build(self, spec):
        from torchmetrics.classification import MulticlassAUROC

        return MulticlassAUROC(len(spec.classes), average="macro")
