"""DINO: match a slow teacher's centred, sharpened distribution over prototypes. Caron et al., arXiv:2104.14294, equation 3.

Loss: the mean over pairs of different views, the teacher's whole and the student's any, of
CE(softmax((t - c) / t_t), softmax(s / t_s)); teacher <- m teacher + (1 - m) student, c <- the mean of the teacher's outputs.
Smaller views (local crops) are windows of `local_crop` of the area, in the size of the whole image. Kept: the teacher's encoder.
"""

from dataclasses import dataclass, field, replace
from math import cos, pi
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, normalize

from sft_exp.config.schema import AugmentConfig
from sft_exp.core.comm import gather
from sft_exp.core.pretrainer import Pretrainer
from sft_exp.data.augment import view
from sft_exp.errors import require
from sft_exp.losses import dino
from sft_exp.models.ema import StateBuffer, ema_update, teacher_forward, teacher_of
from sft_exp.models.layers import chain, projector

CENTRE_MOMENTUM = 0.9


@dataclass
class DINO(Pretrainer):
    encoder_path: ClassVar[str] = "teacher.encoder"
    per_row: ClassVar[bool] = False  # BatchNorm, and a centre of the batch

    prototypes: int = 256  # K
    student_temperature: float = 0.1  # t_s
    teacher_temperature: float = 0.04  # t_t
    momentum: float = 0.95  # m at the start, rising to 1 along a cosine
    local: int = 0  # smaller views
    local_crop: list[float] = field(default_factory=lambda: [0.1, 0.4])  # their least and most area
    hidden: int = 512  # width of the head
    bottleneck: int = 128  # width of what is compared with the prototypes
    # fields of the augment group, whose option it takes
    views: dict = field(default_factory=lambda: {})

    def __post_init__(self):
        for name in (
            "prototypes",
            "student_temperature",
            "teacher_temperature",
            "hidden",
            "bottleneck",
        ):
            require(getattr(self, name) > 0, name, getattr(self, name), "above 0")
        require(0 <= self.momentum <= 1, "momentum", self.momentum, "from 0 to 1")
        require(self.local >= 0, "local", self.local, "0 or more")
        self.how = AugmentConfig(**self.views)
        self.how_local = replace(self.how, crop=self.local_crop)

    def networks(self, encoder, spec):
        head = projector(encoder.width, self.hidden, self.bottleneck)
        teacher = chain(
            encoder=encoder, head=head, prototypes=Prototypes(self.bottleneck, self.prototypes)
        )
        student = teacher_of(teacher).requires_grad_()
        teacher.requires_grad_(False)
        return nn.ModuleDict(
            {
                "student": student,
                "teacher": teacher,
                "centre": StateBuffer(torch.zeros(self.prototypes)),
            }
        )

    def draw(self, batch, rng, progress):
        x_BCHW = batch["pool"]["x"]
        momentum = torch.tensor(
            1 - (1 - self.momentum) * (1 + cos(pi * progress)) / 2, device=x_BCHW.device
        )
        local = [view(x_BCHW, self.how_local, rng) for _ in range(self.local)]
        return view(x_BCHW, self.how, rng), view(x_BCHW, self.how, rng), momentum, *local

    def loss(self, nets, a_BCHW, b_BCHW, momentum, *local):
        targets = teacher_forward(nets["teacher"], torch.cat([a_BCHW, b_BCHW])).chunk(2)
        views = nets["student"](torch.cat([a_BCHW, b_BCHW, *local])).chunk(2 + len(local))
        pairs = [(s, t) for j, t in enumerate(targets) for i, s in enumerate(views) if i != j]
        temperatures = self.student_temperature, self.teacher_temperature
        return sum(dino(s, t, nets["centre"].value, *temperatures) for s, t in pairs) / len(
            pairs
        ), {}

    def on_step_end(self, nets, a_BCHW, b_BCHW, momentum, *local):
        centre_K = gather(teacher_forward(nets["teacher"], torch.cat([a_BCHW, b_BCHW]))).mean(0)
        nets["centre"].value.lerp_(centre_K, 1 - CENTRE_MOMENTUM)
        ema_update(nets["teacher"], nets["student"], momentum)

    def show(self, nets, x_BCHW, rng):
        return {
            "input": x_BCHW,
            "view": view(x_BCHW, self.how, rng),
            "another view": view(x_BCHW, self.how, rng),
        }


class Prototypes(nn.Module):
    """Cosines with K directions: [B, D] -> [B, K]."""

    def __init__(self, width: int, count: int):
        super().__init__()
        self.directions = nn.Parameter(torch.randn(count, width))

    def forward(self, h_BD: Tensor) -> Tensor:
        return linear(normalize(h_BD, dim=1), normalize(self.directions, dim=1))
