"""Distillation: train a small network on a teacher's predictions, besides the labels.

Hinton et al., arXiv:1503.02531, section 2: soft targets at a temperature, weighted by its square;
on unlabelled images as in Chen et al., arXiv:2006.10029, equation 3. The teacher is frozen, and all
of the student's parameters are trained.
"""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

from sft_exp.core.strategy import Strategy
from sft_exp.errors import require
from sft_exp.models.distillation import DistillationMethod


@dataclass
class Distil(Strategy):
    tasks: ClassVar[tuple[str, ...]] = ("classes",)
    uses_pool: ClassVar[bool] = True  # the teacher also predicts unlabelled images

    teacher: Any = None  # folder of the run whose model (first labelled split) is the teacher
    temperature: float = 4.0
    weight: float = 0.9  # of the distillation loss; 1 - weight is that of the task's loss on labels

    def __post_init__(self):
        require(self.temperature > 0, "temperature", self.temperature, "above 0")
        require(0 <= self.weight <= 1, "weight", self.weight, "from 0 to 1")

    def resolved(self, find):
        return replace(self, teacher=find("teacher", self.teacher))

    def models(self):
        return (self.teacher,)

    def wraps(self, task, models):
        return DistillationMethod(task, models[0], self.temperature, self.weight)

    def phases(self, layers):
        return [(1.0, {name: 1.0 for names in layers.values() for name in names})]
