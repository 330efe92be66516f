"""Distillation into a smaller encoder: a fine-tuning of its own with strategy=distill.

sft_exp/strategies/distill.py has the loss and its source.
"""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

from sft_exp.core.deploy import Compressor, Distillation
from sft_exp.core.encoder import Encoder
from sft_exp.errors import require

# suffix of the name of the student that has no teacher, which is a control
ALONE = "_alone"


@dataclass
class Distil(Compressor):
    unhashed: ClassVar[tuple[str, ...]] = ("tolerance",)

    tolerance: float | None = None  # largest loss of accuracy (a fraction); more fails the run
    student: Any = None  # the smaller encoder, an option of the group encoder
    temperature: float = 4.0
    weight: float = 0.9  # of the distillation loss; 1 - weight is that of the loss on labels
    steps: int = 3000  # number of training steps of the student
    lr: float = 1e-3  # learning rate of Adam, which falls to 0 along half a cosine
    batch_size: int = 128
    alone: bool = True  # also train the same student on the labels alone, for comparison

    def __post_init__(self):
        known = self.student is None or isinstance(self.student, Encoder)
        require(known, "student", self.student, "an encoder")
        require(self.temperature > 0, "temperature", self.temperature, "above 0")
        require(0 <= self.weight <= 1, "weight", self.weight, "from 0 to 1")
        require(self.steps > 0, "steps", self.steps, "above 0")
        require(self.lr > 0, "lr", self.lr, "above 0")
        require(self.batch_size > 0, "batch_size", self.batch_size, "above 0")

    def distillation(self):
        return Distillation(
            self.student, self.temperature, self.weight, self.steps, self.lr, self.batch_size
        )

    def variants(self, name):
        control = {f"{name}{ALONE}": [replace(self, weight=0.0)]} if self.alone else {}
        return {name: [self], **control}
