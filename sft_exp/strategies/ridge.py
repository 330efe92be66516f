"""Ridge regression on frozen features, in closed form (scikit-learn).

The weight of the penalty is chosen by leave-one-out cross-validation.
"""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import nn

from sft_exp.core.strategy import Strategy
from sft_exp.errors import require


@dataclass
class Ridge(Strategy):
    closed_form: ClassVar[bool] = True
    probabilistic: ClassVar[bool] = False
    closed_form_tasks: ClassVar[tuple[str, ...]] = ("numbers",)

    # weights of the L2 penalty that are tried
    alpha: list[float] = field(default_factory=lambda: [0.1, 1.0, 10.0, 100.0, 1000.0])
    rows: int = 10_000  # most labelled images that it is fitted on

    def __post_init__(self):
        valid = bool(self.alpha) and all(v > 0 for v in self.alpha)
        require(valid, "alpha", self.alpha, "a list of numbers above 0")
        require(self.rows > 0, "rows", self.rows, "above 0")

    def phases(self, layers):
        return [(1.0, {})]

    def fit_closed_form(self, f_BD, y_B, spec, seed):
        from sklearn.linear_model import RidgeCV

        order = torch.randperm(len(y_B), generator=torch.Generator().manual_seed(seed))
        index = order[: self.rows]
        x_ND, y_NK = f_BD.cpu()[index].double(), y_B.cpu()[index].double()
        fit = RidgeCV(alphas=list(self.alpha)).fit(x_ND.numpy(), y_NK.numpy())
        head = nn.Linear(x_ND.shape[1], y_NK.shape[1])
        with torch.no_grad():
            head.weight.copy_(torch.from_numpy(fit.coef_).reshape(head.weight.shape))
            head.bias.copy_(torch.from_numpy(fit.intercept_).reshape(head.bias.shape))
        return head

    def head(self, shapes, spec):
        return nn.Linear(shapes["weight"][1], shapes["weight"][0])
