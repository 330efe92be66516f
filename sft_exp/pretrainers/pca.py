"""Principal components of the pool's pixels (scikit-learn), as the weights of a `projection` encoder. No gradient."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from sft_exp.core.pretrainer import Pretrainer
from sft_exp.errors import ConfigError, require
from sft_exp.models.backbones import LinearMap


@dataclass
class PCA(Pretrainer):
    trained_by: ClassVar[str] = "in closed form"

    rows: int = 20_000  # images it is fitted on at most; the first of the pool's shuffled order

    def __post_init__(self):
        require(
            0 < self.rows <= 20_000,
            "rows",
            self.rows,
            "1 to 20000, the images that are held for it",
        )

    def networks(self, encoder, spec):
        if not isinstance(encoder, LinearMap):
            raise ConfigError(
                "encoder",
                type(encoder).__name__,
                "pretrainer=pca fits encoder=projection and no other",
            )
        return nn.ModuleDict({"encoder": encoder})

    def prepare(self, nets, data):
        from sklearn.decomposition import PCA as Fit

        linear = nets["encoder"].linear
        x_ND = data["x"][: self.rows].flatten(1).cpu().numpy()
        width = min(len(linear.bias), *x_ND.shape)
        fit = Fit(
            width, svd_solver="full" if x_ND.shape[1] < 1000 else "randomized", random_state=0
        ).fit(x_ND)
        weight = torch.zeros_like(linear.weight)
        weight[:width] = torch.from_numpy(fit.components_).to(weight)
        linear.weight.copy_(weight)
        linear.bias.copy_(-(weight @ torch.from_numpy(fit.mean_).to(weight)))
