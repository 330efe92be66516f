"""No pretraining: the model is trained from scratch."""

from dataclasses import dataclass
from typing import ClassVar

from sft_exp.core.pretrainer import Pretrainer


@dataclass
class Nothing(Pretrainer):
    trained_by: ClassVar[str] = "nothing"
