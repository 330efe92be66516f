"""Learning from another model's predictions: the one loss behind strategy=distill and what compressed models are tuned with."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor

from sft_exp.core.method import Method


@dataclass
class DistillationMethod(Method):
    """weight * T^2 * KL(teacher || student) at temperature T on unlabelled images + (1 - weight) * the task's loss on the labels.

    arXiv:1503.02531, section 2. The teacher only predicts: its weights are in no optimizer and in no checkpoint.
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
        own, logged = self.task.loss(nets, *labelled)
        imitation = divergence(self.task.predict(nets, u_BCHW), target_BY, self.temperature)
        return self.weight * imitation + (1 - self.weight) * own, {**logged, "imitation": imitation}


def divergence(logits_BY: Tensor, target_BY: Tensor, temperature: float) -> Tensor:
    """T^2 KL(softmax(target / T) || softmax(logits / T)), a mean over rows; T^2 keeps the gradient's size whatever T is."""
    student, teacher = (F.log_softmax(z / temperature, 1) for z in (logits_BY, target_BY))
    return temperature**2 * F.kl_div(student, teacher, reduction="batchmean", log_target=True)
