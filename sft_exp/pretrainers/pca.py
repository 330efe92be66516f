"""Principal components of the pool's pixels (scikit-learn), the weights of encoder=projection."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from sft_exp.core.pretrainer import Pretrainer
from sft_exp.errors import ConfigError, require
from sft_exp.models.backbones import LinearMap


@dataclass
class PCA(Pretrainer):
    """Fits a linear encoder as the principal components of the pool's pixels."""

    trained_by: ClassVar[str] = "in closed form"

    rows: int = 20_000  # most images that it is fitted on: the first of the pool's shuffled order

    def __post_init__(self):
        valid = "1 to 20000, the number of images that are loaded for it"
        require(0 < self.rows <= 20_000, "rows", self.rows, valid)

    def networks(self, encoder, spec):
        if not isinstance(encoder, LinearMap):
            raise ConfigError(
                "encoder",
                type(encoder).__name__,
                "must be encoder=projection for pretrainer=pca",
            )
        return nn.ModuleDict({"encoder": encoder})

    def prepare(self, nets, data):
        from sklearn import decomposition

        linear = nets["encoder"].linear
        x_ND = data["x"][: self.rows].flatten(1).cpu().numpy()
        width = min(len(linear.bias), *x_ND.shape)
        solver = "full" if x_ND.shape[1] < 1000 else "randomized"
        fit = decomposition.PCA(width, svd_solver=solver, random_state=0).fit(x_ND)
        weight = torch.zeros_like(linear.weight)
        weight[:width] = torch.from_numpy(fit.components_).to(weight)
        linear.weight.copy_(weight)
        linear.bias.copy_(-(weight @ torch.from_numpy(fit.mean_).to(weight)))
