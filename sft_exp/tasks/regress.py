"""Numbers of an image: a linear head on standardised features. Loss: squared error or Huber's (Annals of Math. Statistics 35,
1964), of numbers on the scale of the labels' spread, a mean over images and numbers."""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from sft_exp.augment import view
from sft_exp.core import Task
from sft_exp.errors import require
from sft_exp.experiment import Views
from sft_exp.heads import fit_ridge
from sft_exp.nets import Standardise


@dataclass
class Regress(Task):
    predicts: ClassVar[str] = "numbers"
    needs: ClassVar[tuple[str, ...]] = ("value",)
    score: ClassVar[str] = "r2"
    columns: ClassVar[dict[str, str]] = {"r2": "R2", "mae": "MAE", "rmse": "RMSE"}
    raw: ClassVar[tuple[str, ...]] = ("mae", "rmse")
    footing: ClassVar[str] = "R2 is a mean over the numbers; MAE and RMSE are in the numbers' units"

    error: str = "mse"  # mse, or huber, which an outlier moves less
    head: str = "probe"  # where the head starts: probe (ridge regression on the frozen features), random (PyTorch's default)
    ridge: float = 1e-2  # weight of the squared norm in that fit
    standardise: str = "common"  # features to mean 0 and spread 1: common (one scale for all), each, none
    augment: bool = False  # train on views of the images, as the group `augment` draws them
    views: dict = field(default_factory=lambda: {})  # fields of that group, whose option it takes

    def __post_init__(self):
        require(self.error in ("mse", "huber"), "error", self.error, "mse or huber")
        require(self.head in ("probe", "random"), "head", self.head, "probe or random")
        require(self.ridge >= 0, "ridge", self.ridge, "0 or more")
        require(self.standardise in ("common", "each", "none"), "standardise", self.standardise, "common, each or none")
        self.views = self.views if self.augment else {}
        self.how = Views(**self.views)

    def alters(self):
        return self.augment

    def networks(self, encoder, spec):
        width, count = encoder.width, len(spec.of("value").classes)
        return nn.ModuleDict(
            {"encoder": encoder, "scale": Standardise(width), "head": nn.Linear(width, count), "units": Units(count)}
        )

    def prepare(self, nets, data):
        if self.standardise != "none":
            nets["scale"].fit(data["pool"], each=self.standardise == "each")
        nets["units"].fit(data["value"])
        if self.head == "probe":
            fit_ridge(nets["head"], nets["scale"](data["f"]), nets["units"].inverse(data["value"]), self.ridge)

    def draw(self, batch, rng, progress):
        x_BCHW = batch["labelled"]["x"]
        return view(x_BCHW, self.how, rng) if self.augment else x_BCHW, batch["labelled"]["value"]

    def loss(self, nets, x_BCHW, value_BK):
        units = nets["units"]
        told_BK, true_BK = units.inverse(self.predict(nets, x_BCHW)), units.inverse(value_BK)
        how = F.mse_loss if self.error == "mse" else F.huber_loss
        return how(told_BK, true_BK), {"mae": (told_BK - true_BK).abs().mean()}

    def predict(self, nets, x_BCHW):
        """-> numbers in their units [B, K]"""
        return nets["units"](nets["head"](nets["scale"](nets["encoder"](x_BCHW))))

    def metrics(self, spec):
        from torchmetrics import MeanAbsoluteError, MeanSquaredError

        return nn.ModuleDict({"r2": Determination(), "mae": MeanAbsoluteError(), "rmse": MeanSquaredError(squared=False)})

    def compared(self, predictions, batch):
        return predictions, batch["value"]

    def record(self, predictions, batch):
        """`predicted` and `true`, float32 [B, K]."""
        return {"predicted": predictions.float(), "true": batch["value"].float()}

    def examples(self, nets, batch, rng):
        return nets["encoder"](batch["x"]), batch["value"]


class Units(nn.Module):
    """y * sd + mean with fixed numbers: from the labels' scale [B, K] to their units [B, K]."""

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
    """torchmetrics' R2Score, a mean over the numbers; of fewer than two images it is not defined, and NaN."""

    def __init__(self):
        super().__init__()
        from torchmetrics import R2Score

        self.inner, self.seen = R2Score(), 0

    def update(self, told_BK: torch.Tensor, true_BK: torch.Tensor) -> None:
        self.seen += len(true_BK)
        self.inner.update(told_BK.squeeze(1), true_BK.squeeze(1))

    def compute(self) -> torch.Tensor:
        return self.inner.compute() if self.seen > 1 else torch.tensor(torch.nan)
