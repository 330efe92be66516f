"""Support-vector regression with an RBF kernel on frozen features (scikit-learn).

C is chosen by cross-validation on the labelled images.
"""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from sft_exp.core.strategy import Strategy
from sft_exp.errors import require


@dataclass
class Svr(Strategy):
    """Fits a support-vector regression for each number that the task predicts."""

    closed_form: ClassVar[bool] = True
    probabilistic: ClassVar[bool] = False
    closed_form_tasks: ClassVar[tuple[str, ...]] = ("numbers",)

    # candidates for C, for targets scaled to a standard deviation of 1
    c: list[float] = field(default_factory=lambda: [1.0, 10.0, 100.0])
    epsilon: float = 0.1  # errors up to this have no loss; for targets of standard deviation 1
    rows: int = 5_000  # maximum number of labelled images for the fit

    def __post_init__(self):
        require(
            bool(self.c) and all(v > 0 for v in self.c), "c", self.c, "a list of numbers above 0"
        )
        require(self.epsilon >= 0, "epsilon", self.epsilon, "0 or more")
        require(self.rows > 0, "rows", self.rows, "above 0")

    def phases(self, layers):
        return [(1.0, {})]

    def fit_closed_form(self, f_BD, y_B, spec, seed):
        from sklearn.model_selection import GridSearchCV, KFold
        from sklearn.svm import SVR

        order = torch.randperm(len(y_B), generator=torch.Generator().manual_seed(seed))
        index = order[: self.rows]
        x_ND, y_NK = f_BD.cpu()[index], y_B.cpu()[index]
        mean_K, sd_K = y_NK.mean(0), y_NK.std(0).nan_to_num(1.0).clamp_min(1e-12)
        gamma = 1 / (x_ND.shape[1] * max(x_ND.var().item(), 1e-12))
        head = KernelRegression(len(x_ND), x_ND.shape[1], y_NK.shape[1])
        head.support_SD.copy_(x_ND)
        head.gamma.fill_(gamma)
        for k, y_N in enumerate(((y_NK - mean_K) / sd_K).T.numpy()):
            model = SVR(gamma=gamma, epsilon=self.epsilon, C=self.c[len(self.c) // 2])
            if len(y_N) >= 10:  # fewer images are not enough to choose by
                folds = KFold(5, shuffle=True, random_state=seed % 2**32)
                search = GridSearchCV(model, {"C": list(self.c)}, cv=folds).fit(x_ND.numpy(), y_N)
                model = search.best_estimator_
            fit = model.fit(x_ND.numpy(), y_N)
            dual_S = torch.from_numpy(fit.dual_coef_[0]).float()
            head.dual_KS[k, torch.from_numpy(fit.support_).long()] = dual_S * sd_K[k]
            head.bias_K[k] = float(fit.intercept_[0]) * sd_K[k] + mean_K[k]
        return head

    def head(self, shapes, spec):
        return KernelRegression(
            shapes["support_SD"][0], shapes["support_SD"][1], shapes["bias_K"][0]
        )


class KernelRegression(nn.Module):
    """Features [B, D] -> numbers [B, K] by the dual form of a regression with an RBF kernel.

    Number k is sum_s dual_ks exp(-gamma |f - support_s|^2) + bias_k, over S support vectors.
    """

    support_SD: Tensor
    dual_KS: Tensor
    bias_K: Tensor
    gamma: Tensor

    def __init__(self, supports: int, width: int, numbers: int):
        super().__init__()
        self.register_buffer("support_SD", torch.zeros(supports, width))
        self.register_buffer("dual_KS", torch.zeros(numbers, supports))
        self.register_buffer("bias_K", torch.zeros(numbers))
        self.register_buffer("gamma", torch.zeros(()))

    def forward(self, f_BD: Tensor) -> Tensor:
        k_BS = (-self.gamma * torch.cdist(f_BD, self.support_SD).square()).exp()
        return k_BS @ self.dual_KS.T + self.bias_K
