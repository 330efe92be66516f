"""Shared parts of the mean-teacher tasks: the EMA teacher, which predicts, and the rising weight.

Tarvainen & Valpola, arXiv:1703.01780, section 2.
"""

from math import exp
from typing import Any, ClassVar

import torch
from torch import nn

from sft_exp.config.schema import AugmentConfig
from sft_exp.core.task import Task
from sft_exp.data.augment import view
from sft_exp.errors import require
from sft_exp.models.ema import ema_update_all, teacher_of


class MeanTeacherTask(Task):
    """Base of tasks with the fields decay, weight, ramp and shift.

    `seen` are the student's views of an image, `shifted` the teacher's.
    """

    pools: ClassVar[dict[str, int]] = {"labelled": 1, "unlabelled": 5}
    per_row: ClassVar[bool] = False  # the loss mixes examples of two pools
    label: ClassVar[str] = "y"  # name of the target in a batch

    decay: float
    weight: float
    ramp: float
    seen: AugmentConfig
    shifted: AugmentConfig

    def alters(self):
        return True

    def draw(self, batch, rng, progress):
        """-> the student's views of labelled images, their labels, the teacher's and the student's
        views of unlabelled images, and the consistency weight, which rises as exp(-5 (1 - t)^2)"""
        x_BCHW, u_MCHW = batch["labelled"]["x"], batch["unlabelled"]["x"]
        rise = 1.0 if progress >= self.ramp else exp(-5 * (1 - progress / self.ramp) ** 2)
        weight = torch.full((), self.weight * rise, device=x_BCHW.device)
        return (
            view(x_BCHW, self.seen, rng),
            batch["labelled"][self.label],
            view(u_MCHW, self.shifted, rng),
            view(u_MCHW, self.seen, rng),
            weight,
        )

    def on_step_end(self, nets, *drawn):
        teach(nets, self.decay)

    def predicting(self, nets):
        return nets["teacher"]


def check(task: Any) -> None:
    """ConfigError if a shared field has an invalid value."""
    require(0 <= task.decay < 1, "decay", task.decay, "from 0 to below 1")
    require(task.weight >= 0, "weight", task.weight, "0 or more")
    require(0 <= task.ramp <= 1, "ramp", task.ramp, "from 0 to 1")
    require(0 <= task.shift <= 1, "shift", task.shift, "from 0 to 1")


def with_teacher(nets: nn.ModuleDict) -> nn.ModuleDict:
    """The networks with their teacher, a copy without gradients."""
    nets["teacher"] = teacher_of(nets)
    return nets


def teach(nets: nn.ModuleDict, decay: float) -> None:
    """Update the teacher as the EMA of the student."""
    teacher: Any = nets["teacher"]
    for part in ("encoder", "scale", "head"):
        ema_update_all(teacher[part], nets[part], decay)
