"""Distillation: the loss of strategy=distill and of fine-tuning compressed models."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor

from sft_exp.core.method import Method


@dataclass
class DistillationMethod(Method):
    """weight * T^2 KL(teacher || student) on unlabelled images + (1 - weight) * the task's loss.

    T is the temperature; arXiv:1503.02531, section 2. The teacher only predicts: its weights are in
    no optimizer and no checkpoint.
    """

    pools: ClassVar[dict[str, int]] = {"labelled": 1, "unlabelled": 1}

    task: Any
    teacher: Any  # has `predict`: images [B, C, H, W] -> logits [B, Y]
    temperature: float = 4.0
    weight: float = 0.9

    def draw(self, batch, rng, progress):
        u_BCHW = batch["unlabelled"]["x"]
        return *self.task.draw(batch, rng, progress), u_BCHW, self.teacher.predict(u_BCHW)

    def loss(self, nets, *drawn):
        *labelled, u_BCHW, target_BY = drawn
        task_loss, logged = self.task.loss(nets, *labelled)
        distilled = divergence(self.task.predict(nets, u_BCHW), target_BY, self.temperature)
        loss = self.weight * distilled + (1 - self.weight) * task_loss
        return loss, {**logged, "imitation": distilled}


def divergence(logits_BY: Tensor, target_BY: Tensor, temperature: float) -> Tensor:
    """T^2 KL(softmax(target / T) || softmax(logits / T)), a mean over examples.

    The factor T^2 makes the size of the gradient independent of T.
    """
    student, teacher = (F.log_softmax(z / temperature, 1) for z in (logits_BY, target_BY))
    return temperature**2 * F.kl_div(student, teacher, reduction="batchmean", log_target=True)
