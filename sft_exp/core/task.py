"""The base class of tasks, which learn to predict from labels, and of their networks."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from sft_exp.core.method import Method
from sft_exp.core.types import Spec, Tensors
from sft_exp.errors import ConfigError


@dataclass
class Task(Method):
    """Learns to predict, starting from an encoder. The defaults are those of classification, which
    takes features [B, D] and predicts logits [B, Y]."""

    # kind of predictions: classes, label sets, pixels, boxes, numbers or several; strategies,
    # baselines, compressors and pictures depend on it
    predicts: ClassVar[str] = "classes"
    # targets that the data set must have; empty: a class for each image
    needs: ClassVar[tuple[str, ...]] = ()
    # takes features [B, D], cached if the encoder is frozen; False: takes feature maps
    pooled: ClassVar[bool] = True
    # the metric by which models are selected and compared; higher is better
    score: ClassVar[str] = "accuracy"
    fewest_tested: ClassVar[int] = 1  # test images for which the score is defined
    # metric -> head of its column in tables, `score` first; fractions are shown in per cent
    columns: ClassVar[dict[str, str]] = {
        "accuracy": "accuracy",
        "precision": "precision",
        "recall": "recall",
        "f1": "F1",
    }
    raw: ClassVar[tuple[str, ...]] = ()  # metrics with units of their own, not fractions
    footing: ClassVar[str] = "macro precision, recall and F1"  # footnote of the columns
    # metric of each class, `name/class` in results.json -> head of its column in the table of classes
    of_class: ClassVar[dict[str, str]] = {}
    decides: ClassVar[bool] = False  # whether `decide` sets something
    readout: ClassVar[str] = "head"  # path of the network that a strategy may solve

    # the loss is the cross-entropy of nets["head"], a linear layer, on nets["scale"]
    plain: ClassVar[bool] = False

    def alters(self) -> bool:
        """Whether `draw` changes or mixes images, so that features cannot be cached."""
        return False

    def unaltered(self) -> "Task":
        """The task on the images as they are, if it can do without altering them."""
        return self

    def predict(self, nets: nn.ModuleDict, x_BCHW: Tensor) -> Tensor:
        """The predictions for these images [B, ...]."""
        raise NotImplementedError

    def predicting(self, nets: nn.ModuleDict) -> nn.ModuleDict:
        """The networks that `predict` uses, `encoder` among them: a teacher's, where it predicts."""
        return nets

    def decide(self, nets: nn.ModuleDict, predictions: Tensor, targets: Tensors) -> None:
        """Set, after the training, what turns predictions into decisions, such as thresholds.

        `predictions` [N, ...] and `targets` by name are of labelled images: those held out by
        val=holdout, or else those trained on.
        """

    def metrics(self, spec: Spec) -> nn.ModuleDict:
        """torchmetrics objects by their names in results.json, updated batch by batch.

        A metric that computes a vector gives one number per class, `name/class`; one that computes
        a dict gives several, under the names in it.
        """
        raise NotImplementedError

    def compared(self, predictions: Tensor, batch: Tensors) -> tuple[object, object]:
        """(predictions, targets) for the metrics."""
        return predictions, batch["y"]

    def record(self, predictions: Tensor, batch: Tensors) -> Tensors:
        """What is stored of each prediction, [B, ...] each; of a class, these two."""
        confidence_B, predicted_B = predictions.softmax(1).max(1)
        return {"predicted": predicted_B.to(torch.int16), "confidence": confidence_B.float()}

    def show(self, predictions: Tensor, batch: Tensors, spec: Spec) -> Tensors:
        """Pictures for the report: name -> images [B, 3, H, W] in [0, 1]; {} = none."""
        return {}

    def of(self, spec: Spec) -> Spec:
        """The spec of the target that the head predicts, which may have other classes."""
        return spec.of(self.needs[0]) if self.needs else spec

    def probed(self) -> bool:
        """Whether `prepare` gets the frozen encoder's features of the labelled images."""
        return self.pooled

    def alone(self) -> "dict[str, Task]":
        """The single tasks of a multi-task one, by name, for the controls `alone_<name>`."""
        return {}

    def supervised(self) -> "Task":
        """The task that learns from labels alone, with the same start and the same views: itself,
        unless it uses unlabelled images.

        Raises:
            ConfigError: the task uses unlabelled images and does not override this method.
        """
        if "unlabelled" in self.pools:
            raise ConfigError(
                "task",
                type(self).__name__,
                "uses unlabelled images: its `supervised` must return a task on labels alone",
            )
        return self

    def drawn(self) -> int:
        """The number of tensors that `draw` returns: the images and each target."""
        return 1 + max(1, len(self.needs))

    def closed_form_task(self) -> "Task":
        """The same task with a head that a strategy can solve in closed form."""
        return self

    def examples(
        self, nets: nn.ModuleDict, batch: Tensors, rng: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """The examples that such a head is fitted on: (features [M, D], targets [M] or [M, K])."""
        return nets["encoder"](batch["x"]), batch["y"]


class Network(nn.Module):
    """A task's networks as one module: images [B, C, H, W] in [0, 1] -> predictions [B, ...]."""

    def __init__(self, task: Task, nets: nn.ModuleDict):
        super().__init__()
        self.task, self.nets = task, nets

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return self.task.predict(self.nets, x_BCHW)
