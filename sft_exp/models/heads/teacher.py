"""What mean teachers share: a slow copy of the networks, which predicts, and a weight that rises. Tarvainen & Valpola,
arXiv:1703.01780, section 2."""

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
    """The words of a task whose fields include decay, weight, ramp and shift, and that says which views of an image its student
    sees, `seen`, and which its teacher, `shifted`."""

    pools: ClassVar[dict[str, int]] = {"labelled": 1, "unlabelled": 5}
    per_row: ClassVar[bool] = False  # rows of two pools
    label: ClassVar[str] = "y"  # what is learnt, by its name in a batch

    decay: float
    weight: float
    ramp: float
    seen: AugmentConfig
    shifted: AugmentConfig

    def alters(self):
        return True

    def draw(self, batch, rng, progress):
        """-> labelled images as the student sees them, their labels; the unlabelled as the teacher and as the student sees them;
        the weight of their disagreement, which rises as exp(-5 (1 - t)^2)"""
        x_BCHW, u_MCHW = batch["labelled"]["x"], batch["unlabelled"]["x"]
        rise = 1.0 if progress >= self.ramp else exp(-5 * (1 - progress / self.ramp) ** 2)
        weight = torch.tensor(self.weight * rise, device=x_BCHW.device)
        views = (
            view(x_BCHW, self.seen, rng),
            view(u_MCHW, self.shifted, rng),
            view(u_MCHW, self.seen, rng),
        )
        return views[0], batch["labelled"][self.label], *views[1:], weight

    def on_step_end(self, nets, *drawn):
        teach(nets, self.decay)


def check(task: Any) -> None:
    """Refuse values of the shared fields that cannot be. ConfigError."""
    require(0 <= task.decay < 1, "decay", task.decay, "from 0 to below 1")
    require(task.weight >= 0, "weight", task.weight, "0 or more")
    require(0 <= task.ramp <= 1, "ramp", task.ramp, "from 0 to 1")
    require(0 <= task.shift <= 1, "shift", task.shift, "from 0 to 1")


def beside(nets: nn.ModuleDict) -> nn.ModuleDict:
    """The networks with their teacher, a copy that no gradient reaches."""
    nets["teacher"] = teacher_of(nets)
    return nets


def teach(nets: nn.ModuleDict, decay: float) -> None:
    teacher: Any = nets["teacher"]
    for part in ("encoder", "scale", "head"):
        ema_update_all(teacher[part], nets[part], decay)
