"""A smaller encoder that imitates the model: its own fine-tuning, with strategy=distill (which has the loss and its source)."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

from sft_exp.core.deploy import Compressor, Distillation
from sft_exp.core.encoder import Encoder
from sft_exp.errors import require

# ends the name of the student that had no teacher: a control, and no form of the model
ALONE = "_alone"


@dataclass
class Distil(Compressor):
    unhashed: ClassVar[tuple[str, ...]] = ("tolerance",)

    tolerance: float | None = None  # accuracy (a fraction) that may be lost; more fails the run
    student: Any = None  # the smaller encoder, an option of the group encoder
    temperature: float = 4.0
    weight: float = 0.9  # of imitating the teacher; the rest is the labels'
    steps: int = 3000  # of the student's training
    lr: float = 1e-3  # Adam, half a cosine down to 0
    batch_size: int = 128
    alone: bool = True  # also train the same student on the labels alone, for the table

    def __post_init__(self):
        require(
            self.student is None or isinstance(self.student, Encoder),
            "student",
            self.student,
            "an encoder",
        )
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
        return {
            name: [self],
            **({f"{name}{ALONE}": [replace(self, weight=0.0)]} if self.alone else {}),
        }
