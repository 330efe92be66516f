"""The contract of a task: a method that learns to predict from labels, and the network that it leaves."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from sft_exp.core.method import Method
from sft_exp.core.types import Spec, Tensors
from sft_exp.errors import ConfigError


@dataclass
class Task(Method):
    """Learns to predict, starting at an encoder. The words' neutral values are those of classification, which starts at the
    features [B, D] and predicts logits [B, Y]."""

    # or pixels, boxes, numbers, several: what strategies, floors, forms and pictures fit
    predicts: ClassVar[str] = "classes"
    # targets that a data set must have; none = a class for each image
    needs: ClassVar[tuple[str, ...]] = ()
    # starts at features [B, D], computed once if the encoder is frozen; False: at its maps
    pooled: ClassVar[bool] = True
    # the metric that models are chosen and judged by; higher is better
    score: ClassVar[str] = "accuracy"
    columns: ClassVar[dict[str, str]] = {
        "accuracy": "accuracy",
        "precision": "precision",
        "recall": "recall",
        "f1": "F1",
    }
    # metric -> head of its column in tables, `score` the first; fractions, shown in per cent, but for those
    readout: ClassVar[str] = "head"  # path, among its networks, of what a strategy may solve
    raw: ClassVar[tuple[str, ...]] = ()  # that are in units of their own
    footing: ClassVar[str] = "macro precision, recall and F1"  # what must be said of the columns

    # its loss is the cross-entropy of nets["head"], a linear layer, on nets["scale"]
    plain: ClassVar[bool] = False

    def alters(self) -> bool:
        """Whether `draw` changes images or pairs them anew, so that a frozen encoder's features cannot be computed once."""
        return False

    def predict(self, nets: nn.ModuleDict, x_BCHW: Tensor) -> Tensor:
        raise NotImplementedError

    def metrics(self, spec: Spec) -> nn.ModuleDict:
        """torchmetrics objects by the names that results.json uses; evaluate updates them batch by batch. One that computes a
        vector gives a number for each class, `name/class`; one that computes a dict gives several, by names of their own."""
        raise NotImplementedError

    def compared(self, predictions: Tensor, batch: Tensors) -> tuple[object, object]:
        """(predicted, true) as the metrics take them."""
        return predictions, batch["y"]

    def record(self, predictions: Tensor, batch: Tensors) -> Tensors:
        """What is kept of each image's prediction, [B, ...] each; where it is a class, as `predicted` and `confidence`."""
        confidence_B, predicted_B = predictions.softmax(1).max(1)
        return {"predicted": predicted_B.to(torch.int16), "confidence": confidence_B.float()}

    def show(self, predictions: Tensor, batch: Tensors, spec: Spec) -> Tensors:
        """Pictures of predictions for the report, beside the truth: name -> images [B, 3, H, W] in [0, 1]; {} = none."""
        return {}

    def of(self, spec: Spec) -> Spec:
        """What the head predicts, where a data set's targets have classes of their own."""
        return spec.of(self.needs[0]) if self.needs else spec

    def probed(self) -> bool:
        """Whether `prepare` is given the frozen encoder's features of the labelled images."""
        return self.pooled

    def alone(self) -> "dict[str, Task]":
        """Where several things are learnt at once: each alone, by name; as controls, `alone_<name>`."""
        return {}

    def supervised(self) -> "Task":
        """The task that learns from the labels alone, from the same start and on the same views: itself, unless it also takes
        unlabelled images. ConfigError where such a task does not say which."""
        if "unlabelled" in self.pools:
            raise ConfigError(
                "task",
                type(self).__name__,
                "learns from unlabelled images: its `supervised` must return a task of the labels alone",
            )
        return self

    def drawn(self) -> int:
        """How many tensors `draw` returns, for a task that holds this one: images, and each target."""
        return 1 + max(1, len(self.needs))

    def closed_form_task(self) -> "Task":
        """The same task with a head that a strategy can solve in closed form."""
        return self

    def examples(
        self, nets: nn.ModuleDict, batch: Tensors, rng: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """What such a head is fitted on: (features [M, D], their targets [M] or [M, K])."""
        return nets["encoder"](batch["x"]), batch["y"]


class Network(nn.Module):
    """A task's networks as one module: images in [0, 1] [B, C, H, W] -> its predictions, e.g. logits [B, Y]."""

    def __init__(self, task: Task, nets: nn.ModuleDict):
        super().__init__()
        self.task, self.nets = task, nets

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return self.task.predict(self.nets, x_BCHW)
