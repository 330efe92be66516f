"""BYOL: predict what a slow teacher makes of another view, without negatives. Grill et al., arXiv:2006.07733, equations 2, 3.

Loss: 2 - 2 cos(p(z_a), z'_b) and the same with a and b exchanged; teacher <- m teacher + (1 - m) student, m rising to 1 along
a cosine (section 3.2 and appendix B). Kept: the student's encoder.
"""

from dataclasses import dataclass, field
from math import cos, pi
from typing import ClassVar

import torch
from torch import nn

from sft_exp.config.schema import AugmentConfig
from sft_exp.core.pretrainer import Pretrainer
from sft_exp.data.augment import view
from sft_exp.errors import require
from sft_exp.losses import cosine
from sft_exp.models.ema import ema_update, teacher_forward, teacher_of
from sft_exp.models.layers import chain, projector


@dataclass
class BYOL(Pretrainer):
    encoder_path: ClassVar[str] = "student.encoder"
    per_row: ClassVar[bool] = False  # BatchNorm, which keeps it from collapsing

    # m at the start; in short runs a teacher must be faster than the paper's 0.996
    momentum: float = 0.95
    hidden: int = 512  # width of projector and predictor
    projection: int = 128  # Z, width of what is predicted
    # fields of the augment group, whose option it takes
    views: dict = field(default_factory=lambda: {})

    def __post_init__(self):
        require(0 <= self.momentum <= 1, "momentum", self.momentum, "from 0 to 1")
        require(self.hidden > 0, "hidden", self.hidden, "above 0")
        require(self.projection > 0, "projection", self.projection, "above 0")
        self.how = AugmentConfig(**self.views)

    def networks(self, encoder, spec):
        student = chain(
            encoder=encoder, projector=projector(encoder.width, self.hidden, self.projection)
        )
        predictor = projector(self.projection, self.hidden, self.projection)
        return nn.ModuleDict(
            {"student": student, "teacher": teacher_of(student), "predictor": predictor}
        )

    def draw(self, batch, rng, progress):
        x_BCHW = batch["pool"]["x"]
        momentum = torch.tensor(
            1 - (1 - self.momentum) * (1 + cos(pi * progress)) / 2, device=x_BCHW.device
        )
        return view(x_BCHW, self.how, rng), view(x_BCHW, self.how, rng), momentum

    def loss(self, nets, a_BCHW, b_BCHW, momentum):
        p_MZ = nets["predictor"](nets["student"](torch.cat([a_BCHW, b_BCHW])))
        return 4 - 4 * cosine(
            p_MZ, teacher_forward(nets["teacher"], torch.cat([b_BCHW, a_BCHW]))
        ), {}

    def on_step_end(self, nets, a_BCHW, b_BCHW, momentum):
        ema_update(nets["teacher"], nets["student"], momentum)

    def show(self, nets, x_BCHW, rng):
        return {
            "input": x_BCHW,
            "view": view(x_BCHW, self.how, rng),
            "another view": view(x_BCHW, self.how, rng),
        }
