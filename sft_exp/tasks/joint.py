"""Joint training of a task and a pretrainer's objective on one encoder, instead of two stages.

Rasmus et al., arXiv:1507.02672, section 2, for reconstruction; Zhai et al., arXiv:1905.03670,
equation 1, for SimCLR's objective. Loss: the task's on the labels + weight * the pretrainer's on
the unlabelled images.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn

from sft_exp.core.pretrainer import Pretrainer
from sft_exp.core.task import Task
from sft_exp.errors import ConfigError, require


@dataclass
class Joint(Task):
    holds: ClassVar[dict[str, str]] = {"task": "task", "objective": "pretrainer"}
    per_row: ClassVar[bool] = False  # the loss mixes examples of two pools

    task: Any = None  # the supervised task, e.g. classify
    objective: Any = None  # the pretrainer of the unlabelled images, e.g. ae or simclr
    weight: float = 1.0  # of the objective
    ratio: int = 1  # unlabelled images per labelled image of a step

    def __post_init__(self):
        supervised = self.task is None or (
            isinstance(self.task, Task) and "unlabelled" not in self.task.pools
        )
        require(supervised, "task", self.task, "a task of labels alone, e.g. classify")
        suitable = self.objective is None or (
            isinstance(self.objective, Pretrainer)
            and (
                self.objective.trained_by,
                self.objective.encoder_path,
                [*self.objective.objectives],
            )
            == ("by gradient", "encoder", ["loss"])
            and type(self.objective).on_step_end is Pretrainer.on_step_end
            and not self.objective.labelled
        )
        require(
            suitable,
            "objective",
            self.objective,
            "a pretrainer of one loss and one network, e.g. ae, dae, vae or simclr",
        )
        require(self.weight >= 0, "weight", self.weight, "0 or more")
        require(self.ratio > 0, "ratio", self.ratio, "above 0")
        if self.task is not None:
            for name in (
                "predicts",
                "needs",
                "pooled",
                "score",
                "columns",
                "raw",
                "footing",
                "of_class",
                "decides",
            ):
                setattr(self, name, getattr(self.task, name))

    @property
    def pools(self):
        return {"labelled": 1, "unlabelled": self.ratio}

    def alters(self):
        return True

    def supervised(self):
        return self.task

    def of(self, spec):
        return self.task.of(spec)

    def probed(self):
        return self.task.probed()

    def networks(self, encoder, spec):
        if self.task is None or self.objective is None:
            raise ConfigError(
                "task.objective", self.objective, "must name a pretrainer, and task.task a task"
            )
        nets = self.task.networks(encoder, spec)
        objective_nets = self.objective.networks(encoder.backbone, spec)
        nets["beside"] = nn.ModuleDict(
            {name: net for name, net in objective_nets.items() if name != "encoder"}
        )
        return nets

    def prepare(self, nets, data):
        self.task.prepare(nets, data)

    def draw(self, batch, rng, progress):
        """-> the task's draw, then the objective's"""
        return *self.task.draw(batch, rng, progress), *self.objective.draw(
            {"pool": batch["unlabelled"]}, rng, progress
        )

    def loss(self, nets, *drawn):
        labelled, unlabelled = drawn[: self.task.drawn()], drawn[self.task.drawn() :]
        task_loss, logged = self.task.loss(nets, *labelled)
        objective_loss, _ = self.objective.loss(
            {**nets["beside"], "encoder": nets["encoder"].backbone}, *unlabelled
        )
        return task_loss + self.weight * objective_loss, {
            **logged,
            "labels": task_loss,
            "objective": objective_loss,
        }

    def predict(self, nets, x_BCHW):
        return self.task.predict(nets, x_BCHW)

    def decide(self, nets, predictions, targets):
        self.task.decide(nets, predictions, targets)

    def metrics(self, spec):
        return self.task.metrics(spec)

    def compared(self, predictions, batch):
        return self.task.compared(predictions, batch)

    def record(self, predictions, batch):
        return self.task.record(predictions, batch)

    def show(self, predictions, batch, spec):
        return self.task.show(predictions, batch, spec)
