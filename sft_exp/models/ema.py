"""Teachers: EMA copies of a network."""

from copy import deepcopy
from math import cos, pi

import torch
from torch import Tensor, nn


class StateBuffer(nn.Module):
    """A tensor that a method's `on_step_end` updates, without gradient: a queue, a centre."""

    value: Tensor

    def __init__(self, value: Tensor):
        super().__init__()
        self.register_buffer("value", value)


def rising_momentum(start: float, progress: float, device: torch.device) -> Tensor:
    """The momentum at `progress` (0 to 1): from `start` to 1 along a cosine [0-dim]. Grill et al.,
    arXiv:2006.07733, section 3.2."""
    momentum = 1 - (1 - start) * (1 + cos(pi * progress)) / 2
    return torch.full((), momentum, device=device)


def teacher_of(student: nn.Module) -> nn.Module:
    """A copy without gradients, to be updated by `ema_update`."""
    return deepcopy(student).requires_grad_(False)


@torch.no_grad()
def teacher_forward(teacher: nn.Module, x_BCHW: Tensor) -> Tensor:
    """The teacher's output, without gradients.

    Its BatchNorm uses and records the batch's statistics: an EMA of the student's statistics would
    lag behind the weights, and in a short run the teacher would predict the same for every image.
    """
    return teacher(x_BCHW)


def ema_update(teacher: nn.Module, student: nn.Module, momentum: Tensor | float) -> None:
    """teacher <- momentum * teacher + (1 - momentum) * student for parameters.

    He et al., arXiv:1911.05722, equation 2.
    """
    for t, s in zip(teacher.parameters(), student.parameters(), strict=True):
        t.lerp_(s, 1 - momentum)


def ema_update_all(teacher: nn.Module, student: nn.Module, decay: float) -> None:
    """teacher <- decay * teacher + (1 - decay) * student for parameters and buffers.

    Of a student's weight that is computed from others (LoRA) the value is averaged.
    """
    with torch.no_grad():
        for name, t in [*teacher.named_parameters(), *teacher.named_buffers()]:
            path, _, leaf = name.rpartition(".")
            s = getattr(student.get_submodule(path), leaf)
            t.lerp_(s, 1 - decay) if t.is_floating_point() else t.copy_(s)
