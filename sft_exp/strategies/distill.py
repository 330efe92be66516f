"""Distillation: a small network learns the teacher's predictions on images without labels, beside the labels there are.

Hinton et al., arXiv:1503.02531, section 2: soft targets at a temperature, weighted by its square; on unlabelled images as
Chen et al., arXiv:2006.10029, equation 3. The teacher is frozen; every number of the student moves.
"""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

from sft_exp.core.strategy import Strategy
from sft_exp.errors import require
from sft_exp.models.distillation import DistillationMethod


@dataclass
class Distil(Strategy):
    tasks: ClassVar[tuple[str, ...]] = ("classes",)
    uses_pool: ClassVar[bool] = True  # the teacher has something to say of the labelled ones too

    teacher: Any = None  # folder of a run, whose model (its first label draw) is imitated
    temperature: float = 4.0
    weight: float = 0.9  # of imitating the teacher; the rest is the task's own loss on the labels

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
