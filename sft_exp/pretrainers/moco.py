"""MoCo v2: find an EMA teacher's embedding of the other view among a queue of earlier images.

He et al., arXiv:1911.05722, equations 1 and 2; projector and temperature are those of Chen et al.,
arXiv:2003.04297. Loss: -log(exp(q k / t) / (exp(q k / t) + sum_i exp(q k_i / t))), where the k_i
are the queue; teacher <- m teacher + (1 - m) student. Fine-tuning starts from the student's
encoder; the projector is dropped.
"""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import nn
from torch.nn.functional import normalize

from sft_exp.core.comm import gather
from sft_exp.core.pretrainer import Pretrainer
from sft_exp.errors import require
from sft_exp.losses import info_nce
from sft_exp.models.ema import StateBuffer, ema_update, teacher_forward, teacher_of
from sft_exp.models.layers import chain, projector
from sft_exp.models.two_views import TwoViews


@dataclass
class MoCo(TwoViews, Pretrainer):
    encoder_path: ClassVar[str] = "student.encoder"
    per_row: ClassVar[bool] = False  # BatchNorm, and a queue that takes whole batches

    temperature: float = 0.2  # t
    # m, the teacher's momentum; short runs need a faster teacher than the paper's 0.999
    momentum: float = 0.95
    queue: int = 2048  # number of keys of earlier batches
    hidden: int = 512  # width of the projector's hidden layer
    projection: int = 128  # Z, width of the projections
    # arguments of the views: the keys of the group augment
    views: dict = field(default_factory=lambda: {})

    def __post_init__(self):
        require(self.temperature > 0, "temperature", self.temperature, "above 0")
        require(0 <= self.momentum <= 1, "momentum", self.momentum, "from 0 to 1")
        require(self.queue > 0, "queue", self.queue, "above 0")
        require(self.hidden > 0, "hidden", self.hidden, "above 0")
        require(self.projection > 0, "projection", self.projection, "above 0")
        super().__post_init__()

    def networks(self, encoder, spec):
        head = projector(encoder.width, self.hidden, self.projection)
        student = chain(encoder=encoder, projector=head)
        queue = StateBuffer(normalize(torch.randn(self.queue, self.projection), dim=1))
        return nn.ModuleDict({"student": student, "teacher": teacher_of(student), "queue": queue})

    def loss(self, nets, a_BCHW, b_BCHW):
        k_BZ = teacher_forward(nets["teacher"], b_BCHW)
        return info_nce(nets["student"](a_BCHW), k_BZ, nets["queue"].value, self.temperature), {}

    def on_step_end(self, nets, a_BCHW, b_BCHW):
        queue_KZ = nets["queue"].value
        keys_NZ = gather(normalize(teacher_forward(nets["teacher"], b_BCHW), dim=1))
        queue_KZ.copy_(torch.cat([keys_NZ, queue_KZ])[: len(queue_KZ)])
        ema_update(nets["teacher"], nets["student"], self.momentum)
