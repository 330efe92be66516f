"""SVM with an RBF kernel on frozen features, fitted to convergence (scikit-learn).

C and gamma are chosen by cross-validation on the labelled images.
"""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from sft_exp.core.strategy import Strategy
from sft_exp.errors import require
from sft_exp.models.heads.fitted import grid_fit


@dataclass
class Svm(Strategy):
    closed_form: ClassVar[bool] = True
    probabilistic: ClassVar[bool] = False

    # values of C that are tried
    c: list[float] = field(default_factory=lambda: [1.0, 10.0, 100.0])
    # values of gamma that are tried, in units of 1 / (D * variance of the features)
    gamma: list[float] = field(default_factory=lambda: [0.3, 1.0, 3.0])
    rows: int = 10_000  # most labelled images that it is fitted on

    def __post_init__(self):
        require(
            bool(self.c) and all(v > 0 for v in self.c), "c", self.c, "a list of numbers above 0"
        )
        valid = bool(self.gamma) and all(v > 0 for v in self.gamma)
        require(valid, "gamma", self.gamma, "a list of numbers above 0")
        require(self.rows > 0, "rows", self.rows, "above 0")

    def phases(self, layers):
        return [(1.0, {})]

    def fit_closed_form(self, f_BD, y_B, spec, seed):
        from sklearn.svm import SVC

        scale = 1 / (f_BD.shape[1] * max(f_BD.var().item(), 1e-12))
        grid = {"C": list(self.c), "gamma": [g * scale for g in self.gamma]}
        # The kernel is a function of distances. With fewer images than features these are the same
        # in an orthonormal basis of the images' span, and take far fewer operations.
        x_BR = f_BD.cpu().double()
        if len(x_BR) < x_BR.shape[1]:
            x_BR = x_BR @ torch.linalg.qr(x_BR.T).Q
        fit = grid_fit(SVC(), grid, x_BR, y_B, seed, self.rows)
        classes = torch.from_numpy(fit.classes_)
        head = KernelMachine(len(fit.support_), f_BD.shape[1], len(classes), len(spec.classes))
        order = torch.randperm(len(y_B), generator=torch.Generator().manual_seed(seed))
        head.support_SD.copy_(f_BD.cpu()[order[: self.rows]][torch.from_numpy(fit.support_).long()])
        sign = -1 if len(classes) == 2 else 1  # scikit-learn flips the sign of both for two classes
        head.dual_KS.copy_(torch.from_numpy(fit.dual_coef_) * sign)
        head.bias_P.copy_(torch.from_numpy(fit.intercept_) * sign)
        head.start_K.copy_(torch.cat([torch.zeros(1), torch.from_numpy(fit.n_support_).cumsum(0)]))
        head.gamma.fill_(fit.gamma)
        head.classes_K.copy_(classes)
        return head

    def head(self, shapes, spec):
        support, width = shapes["support_SD"]
        return KernelMachine(support, width, shapes["classes_K"][0], len(spec.classes))


class KernelMachine(nn.Module):
    """One-against-one RBF-SVM: features [B, D] -> scores [B, Y], the largest for the predicted
    class.

    There are S support vectors, ordered by class, K classes in the training labels, and
    P = K (K - 1) / 2 pairs of these. The score is scikit-learn's (`decision_function_shape="ovr"`):
    votes, plus the margins squeezed into +-1/3 to break ties.
    """

    support_SD: Tensor
    dual_KS: Tensor
    bias_P: Tensor
    start_K: Tensor
    gamma: Tensor
    classes_K: Tensor

    def __init__(self, support: int, width: int, fitted: int, classes: int):
        super().__init__()
        self.classes = classes
        self.register_buffer("support_SD", torch.zeros(support, width))
        self.register_buffer("dual_KS", torch.zeros(fitted - 1, support))
        self.register_buffer("bias_P", torch.zeros(fitted * (fitted - 1) // 2))
        self.register_buffer("start_K", torch.zeros(fitted + 1, dtype=torch.long))
        self.register_buffer("gamma", torch.zeros(()))
        self.register_buffer("classes_K", torch.zeros(fitted, dtype=torch.long))

    def forward(self, f_BD: Tensor) -> Tensor:
        # Relative to the centre, single precision is enough; some devices have no other.
        centre_D = self.support_SD.mean(0)
        distance_BS = torch.cdist(f_BD - centre_D, self.support_SD - centre_D)
        k_BS = (-self.gamma * distance_BS.square()).exp()
        fitted, start = len(self.classes_K), self.start_K.tolist()
        votes, margins = (torch.zeros(len(f_BD), fitted, device=f_BD.device) for _ in range(2))
        pair = 0
        for i in range(fitted):
            for j in range(i + 1, fitted):
                a, b = slice(start[i], start[i + 1]), slice(start[j], start[j + 1])
                d_B = (
                    k_BS[:, a] @ self.dual_KS[j - 1, a]
                    + k_BS[:, b] @ self.dual_KS[i, b]
                    + self.bias_P[pair]
                )
                votes[:, i] += d_B > 0
                votes[:, j] += d_B <= 0
                margins[:, i] += d_B
                margins[:, j] -= d_B
                pair += 1
        scores = torch.full((len(f_BD), self.classes), -1e4, device=f_BD.device)
        scores[:, self.classes_K] = votes + margins / (3 * (margins.abs() + 1))
        return scores
