"""DINO: match an EMA teacher's centred and sharpened distribution over prototypes.

Caron et al., arXiv:2104.14294, equation 3. Loss: the mean of CE(softmax((t - c) / t_t),
softmax(s / t_s)) over all pairs of different views, one of the teacher's two global views and any
of the student's. After each step, teacher <- m teacher + (1 - m) student, and the centre c follows
the mean of the teacher's outputs. Local views (smaller crops) cover `local_crop` of the image's
area and are resized to the whole image's size. Fine-tuning starts from the teacher's encoder.
"""

from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, normalize

from sft_exp.core.comm import gather
from sft_exp.core.pretrainer import Pretrainer
from sft_exp.data.augment import view
from sft_exp.errors import require
from sft_exp.losses import dino
from sft_exp.models.ema import (
    StateBuffer,
    ema_update,
    rising_momentum,
    teacher_forward,
    teacher_of,
)
from sft_exp.models.layers import chain, projector
from sft_exp.models.two_views import TwoViews

CENTRE_MOMENTUM = 0.9


@dataclass
class DINO(TwoViews, Pretrainer):
    encoder_path: ClassVar[str] = "teacher.encoder"
    per_row: ClassVar[bool] = False  # BatchNorm, and a centre over the batch

    prototypes: int = 256  # K
    student_temperature: float = 0.1  # t_s
    teacher_temperature: float = 0.04  # t_t
    momentum: float = 0.95  # m at the start; it rises to 1 along a cosine
    local: int = 0  # number of local views
    # smallest and largest share of the image's area in a local view
    local_crop: list[float] = field(default_factory=lambda: [0.1, 0.4])
    hidden: int = 512  # width of the head's hidden layer
    bottleneck: int = 128  # width of the vectors that are compared with the prototypes
    # arguments of the views: the keys of the group augment
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
        super().__post_init__()
        self.local_augmentation = replace(self.augmentation, crop=self.local_crop)

    def networks(self, encoder, spec):
        head = projector(encoder.width, self.hidden, self.bottleneck)
        prototypes = Prototypes(self.bottleneck, self.prototypes)
        teacher = chain(encoder=encoder, head=head, prototypes=prototypes)
        student = teacher_of(teacher).requires_grad_()
        teacher.requires_grad_(False)
        centre = StateBuffer(torch.zeros(self.prototypes))
        return nn.ModuleDict({"student": student, "teacher": teacher, "centre": centre})

    def draw(self, batch, rng, progress):
        x_BCHW = batch["pool"]["x"]
        momentum = rising_momentum(self.momentum, progress, x_BCHW.device)
        local = [view(x_BCHW, self.local_augmentation, rng) for _ in range(self.local)]
        return *super().draw(batch, rng, progress), momentum, *local

    def loss(self, nets, a_BCHW, b_BCHW, momentum, *local):
        targets = teacher_forward(nets["teacher"], torch.cat([a_BCHW, b_BCHW])).chunk(2)
        outputs = nets["student"](torch.cat([a_BCHW, b_BCHW, *local])).chunk(2 + len(local))
        pairs = [(s, t) for j, t in enumerate(targets) for i, s in enumerate(outputs) if i != j]
        temperatures = self.student_temperature, self.teacher_temperature
        total = sum(dino(s, t, nets["centre"].value, *temperatures) for s, t in pairs)
        return total / len(pairs), {}

    def on_step_end(self, nets, a_BCHW, b_BCHW, momentum, *local):
        centre_K = gather(teacher_forward(nets["teacher"], torch.cat([a_BCHW, b_BCHW]))).mean(0)
        nets["centre"].value.lerp_(centre_K, 1 - CENTRE_MOMENTUM)
        ema_update(nets["teacher"], nets["student"], momentum)


class Prototypes(nn.Module):
    """Cosines with K learned directions: [B, D] -> [B, K]."""

    def __init__(self, width: int, count: int):
        super().__init__()
        self.directions = nn.Parameter(torch.randn(count, width))

    def forward(self, h_BD: Tensor) -> Tensor:
        return linear(normalize(h_BD, dim=1), normalize(self.directions, dim=1))
