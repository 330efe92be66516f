"""Shared parts of the regression tasks: encoder, standardised features and numbers, linear head."""

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sft_exp.core.task import Task
from sft_exp.core.types import Spec, Tensors
from sft_exp.errors import NonFiniteError, require
from sft_exp.models.heads.fitted import fit_ridge
from sft_exp.models.layers import Standardise


class Numbers(Task):
    """Base of tasks that predict numbers, with the fields error, head, ridge and standardise."""

    predicts: ClassVar[str] = "numbers"
    needs: ClassVar[tuple[str, ...]] = ("value",)
    score: ClassVar[str] = "r2"
    fewest_tested: ClassVar[int] = 2
    columns: ClassVar[dict[str, str]] = {"r2": "R2", "mae": "MAE", "rmse": "RMSE"}
    raw: ClassVar[tuple[str, ...]] = ("mae", "rmse")
    footing: ClassVar[str] = "R2 is a mean over the numbers; MAE and RMSE are in the numbers' units"

    def metrics(self, spec):
        from torchmetrics import MeanAbsoluteError, MeanSquaredError

        return nn.ModuleDict(
            {
                "r2": Determination(),
                "mae": MeanAbsoluteError(),
                "rmse": MeanSquaredError(squared=False),
            }
        )

    def compared(self, predictions, batch):
        return predictions, batch["value"]

    def record(self, predictions, batch):
        """`predicted` and `true`, float32 [B, K]."""
        return {"predicted": predictions.float(), "true": batch["value"].float()}

    def examples(self, nets, batch, rng):
        return nets["scale"](nets["encoder"](batch["x"])), batch["value"]


def check(task: Any) -> None:
    """ConfigError if a shared field has an invalid value."""
    require(task.error in ("mse", "huber"), "error", task.error, "mse or huber")
    require(task.head in ("probe", "random"), "head", task.head, "probe or random")
    require(task.ridge >= 0, "ridge", task.ridge, "0 or more")
    require(
        task.standardise in ("common", "each", "none"),
        "standardise",
        task.standardise,
        "common, each or none",
    )


def networks(encoder: nn.Module, spec: Spec) -> nn.ModuleDict:
    width: Any = encoder.width
    count = len(spec.of("value").classes)
    return nn.ModuleDict(
        {
            "encoder": encoder,
            "scale": Standardise(width),
            "head": nn.Linear(width, count),
            "units": Units(count),
        }
    )


def prepare(task: Any, nets: nn.ModuleDict, data: Tensors) -> None:
    """Fit the feature scale to the pool, the units to the labels, and start the head on both."""
    scale, units, head = (nets[name] for name in ("scale", "units", "head"))
    if task.standardise != "none":
        scale.fit(data["pool"], each=task.standardise == "each")  # type: ignore[operator]
    units.fit(data["value"])  # type: ignore[operator]
    if task.head == "probe":
        fit_ridge(head, scale(data["f"]), units.inverse(data["value"]), task.ridge)  # type: ignore[operator,arg-type]


def predict_scaled(nets: nn.ModuleDict, x_BCHW: Tensor) -> Tensor:
    """-> standardised numbers [B, K]"""
    return nets["head"](nets["scale"](nets["encoder"](x_BCHW)))


def error(task: Any, predicted_BK: Tensor, true_BK: Tensor) -> Tensor:
    """The task's error of standardised numbers, a mean over images and numbers."""
    return (F.mse_loss if task.error == "mse" else F.huber_loss)(predicted_BK, true_BK)


class Units(nn.Module):
    """y * sd + mean with fixed mean and sd: from standardised numbers [B, K] to their units."""

    mean: torch.Tensor
    sd: torch.Tensor

    def __init__(self, count: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(count))
        self.register_buffer("sd", torch.ones(count))

    def fit(self, value_NK: torch.Tensor) -> None:
        spread_K = value_NK.std(0) if len(value_NK) > 1 else torch.zeros_like(self.sd)
        self.mean.copy_(value_NK.mean(0))
        self.sd.copy_(spread_K.where(spread_K > 0, torch.ones_like(spread_K)))

    def forward(self, y_BK: torch.Tensor) -> torch.Tensor:
        return y_BK * self.sd + self.mean

    def inverse(self, value_BK: torch.Tensor) -> torch.Tensor:
        return (value_BK - self.mean) / self.sd


class Determination(nn.Module):
    """torchmetrics' R2Score, a mean over the numbers; NaN for fewer than two images.

    Raises:
        NonFiniteError: the squared errors of the predictions exceed float32.
    """

    def __init__(self):
        super().__init__()
        from torchmetrics import R2Score

        self.inner, self.count = R2Score(), 0

    def update(self, predicted_BK: torch.Tensor, true_BK: torch.Tensor) -> None:
        self.count += len(true_BK)
        self.inner.update(predicted_BK.squeeze(1), true_BK.squeeze(1))

    def compute(self) -> torch.Tensor:
        if self.count < Numbers.fewest_tested:
            return torch.tensor(torch.nan)
        value = self.inner.compute()
        if not value.isfinite():
            problem = (
                "the squared errors of the predictions exceed float32, as if training diverged"
            )
            raise NonFiniteError(f"{problem}. Try a smaller learning rate.")
        return value
