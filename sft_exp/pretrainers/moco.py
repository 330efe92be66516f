"""MoCo v2: a view finds its partner, seen by a slow teacher, among a queue of earlier images. He et al., arXiv:1911.05722,
equations 1 and 2; the projector and temperature of Chen et al., arXiv:2003.04297.

Loss: -log(exp(q k / t) / (exp(q k / t) + sum_i exp(q k_i / t))), k_i the queue; teacher <- m teacher + (1 - m) student.
Kept: the student's encoder, without its projector.
"""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import nn
from torch.nn.functional import normalize

from sft_exp.config.schema import AugmentConfig
from sft_exp.core.comm import gather
from sft_exp.core.pretrainer import Pretrainer
from sft_exp.data.augment import view
from sft_exp.errors import require
from sft_exp.losses import info_nce
from sft_exp.models.ema import StateBuffer, ema_update, teacher_forward, teacher_of
from sft_exp.models.layers import chain, projector


@dataclass
class MoCo(Pretrainer):
    encoder_path: ClassVar[str] = "student.encoder"
    per_row: ClassVar[bool] = False  # BatchNorm, and a queue that holds whole batches

    temperature: float = 0.2  # t
    # m, of the teacher; in short runs it must be faster than the paper's 0.999
    momentum: float = 0.95
    queue: int = 2048  # keys of earlier batches that are compared with
    hidden: int = 512  # width of the projector
    projection: int = 128  # Z, width of what is compared
    # fields of the augment group, whose option it takes
    views: dict = field(default_factory=lambda: {})

    def __post_init__(self):
        require(self.temperature > 0, "temperature", self.temperature, "above 0")
        require(0 <= self.momentum <= 1, "momentum", self.momentum, "from 0 to 1")
        require(self.queue > 0, "queue", self.queue, "above 0")
        require(self.hidden > 0, "hidden", self.hidden, "above 0")
        require(self.projection > 0, "projection", self.projection, "above 0")
        self.how = AugmentConfig(**self.views)

    def networks(self, encoder, spec):
        student = chain(
            encoder=encoder, projector=projector(encoder.width, self.hidden, self.projection)
        )
        queue = StateBuffer(normalize(torch.randn(self.queue, self.projection), dim=1))
        return nn.ModuleDict({"student": student, "teacher": teacher_of(student), "queue": queue})

    def draw(self, batch, rng, progress):
        x_BCHW = batch["pool"]["x"]
        return view(x_BCHW, self.how, rng), view(x_BCHW, self.how, rng)

    def loss(self, nets, a_BCHW, b_BCHW):
        k_BZ = teacher_forward(nets["teacher"], b_BCHW)
        return info_nce(nets["student"](a_BCHW), k_BZ, nets["queue"].value, self.temperature), {}

    def on_step_end(self, nets, a_BCHW, b_BCHW):
        queue_KZ = nets["queue"].value
        queue_KZ.copy_(
            torch.cat(
                [gather(normalize(teacher_forward(nets["teacher"], b_BCHW), dim=1)), queue_KZ]
            )[: len(queue_KZ)]
        )
        ema_update(nets["teacher"], nets["student"], self.momentum)

    def show(self, nets, x_BCHW, rng):
        return {
            "input": x_BCHW,
            "view": view(x_BCHW, self.how, rng),
            "another view": view(x_BCHW, self.how, rng),
        }
