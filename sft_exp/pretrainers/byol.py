"""BYOL: predict an EMA teacher's projection of another view, without negatives.

Grill et al., arXiv:2006.07733, equations 2 and 3. Loss: 2 - 2 cos(p(z_a), z'_b), plus the same with
a and b exchanged. The teacher follows the student, teacher <- m teacher + (1 - m) student, with m
rising to 1 along a cosine (section 3.2 and appendix B). Fine-tuning starts from the student's
encoder.
"""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import nn

from sft_exp.core.pretrainer import Pretrainer
from sft_exp.errors import require
from sft_exp.losses import cosine
from sft_exp.models.ema import ema_update, rising_momentum, teacher_forward, teacher_of
from sft_exp.models.layers import chain, projector
from sft_exp.models.two_views import TwoViews


@dataclass
class BYOL(TwoViews, Pretrainer):
    encoder_path: ClassVar[str] = "student.encoder"
    per_row: ClassVar[bool] = False  # BatchNorm, which keeps the method from collapsing

    # m at the start; short runs need a faster teacher than the paper's 0.996
    momentum: float = 0.95
    hidden: int = 512  # width of the hidden layers of projector and predictor
    projection: int = 128  # Z, width of the projections
    # arguments of the views: the keys of the group augment
    views: dict = field(default_factory=lambda: {})

    def __post_init__(self):
        require(0 <= self.momentum <= 1, "momentum", self.momentum, "from 0 to 1")
        require(self.hidden > 0, "hidden", self.hidden, "above 0")
        require(self.projection > 0, "projection", self.projection, "above 0")
        super().__post_init__()

    def networks(self, encoder, spec):
        head = projector(encoder.width, self.hidden, self.projection)
        student = chain(encoder=encoder, projector=head)
        predictor = projector(self.projection, self.hidden, self.projection)
        return nn.ModuleDict(
            {"student": student, "teacher": teacher_of(student), "predictor": predictor}
        )

    def draw(self, batch, rng, progress):
        momentum = rising_momentum(self.momentum, progress, batch["pool"]["x"].device)
        return *super().draw(batch, rng, progress), momentum

    def loss(self, nets, a_BCHW, b_BCHW, momentum):
        predicted_MZ = nets["predictor"](nets["student"](torch.cat([a_BCHW, b_BCHW])))
        target_MZ = teacher_forward(nets["teacher"], torch.cat([b_BCHW, a_BCHW]))
        return 4 - 4 * cosine(predicted_MZ, target_MZ), {}

    def on_step_end(self, nets, a_BCHW, b_BCHW, momentum):
        ema_update(nets["teacher"], nets["student"], momentum)
