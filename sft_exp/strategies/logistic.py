"""Logistic regression on frozen features, fitted to convergence (scikit-learn).

C is chosen by cross-validation on the labelled images.
"""

import math
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import nn

from sft_exp.core.strategy import Strategy
from sft_exp.errors import require
from sft_exp.models.heads.fitted import grid_fit


@dataclass
class Logistic(Strategy):
    closed_form: ClassVar[bool] = True
    closed_form_tasks: ClassVar[tuple[str, ...]] = ("classes", "pixels", "label sets")

    # inverse strengths of the L2 penalty that are tried
    c: list[float] = field(default_factory=lambda: [0.01, 0.1, 1.0, 10.0])
    rows: int = 10_000  # most labelled images that it is fitted on

    def __post_init__(self):
        require(
            bool(self.c) and all(v > 0 for v in self.c), "c", self.c, "a list of numbers above 0"
        )
        require(self.rows > 0, "rows", self.rows, "above 0")

    def phases(self, layers):
        return [(1.0, {})]

    def fit_closed_form(self, f_BD, y_B, spec, seed):
        from sklearn.linear_model import LogisticRegression

        # The L2 penalty keeps the weights in the span of the features. With fewer images than
        # features, the fit in an orthonormal basis of that span is the same, and smaller.
        span_DR = torch.linalg.qr(f_BD.T).Q if len(f_BD) < f_BD.shape[1] else None
        few_BR = f_BD if span_DR is None else f_BD @ span_DR
        # Newton's method reaches the optimum in tens of steps. L-BFGS with its usual tolerance
        # stopped far from it (probabilities off by 0.15), after ten times the time.
        model = LogisticRegression(solver="newton-cg", tol=1e-6, max_iter=1000)
        grid = {"C": list(self.c)}
        if y_B.dim() == 2:
            return self.one_for_each_class(model, f_BD, few_BR, span_DR, y_B, seed)
        fit = grid_fit(model, grid, few_BR.cpu().double(), y_B, seed, self.rows)
        head = nn.Linear(f_BD.shape[1], len(spec.classes))
        with torch.no_grad():
            weight, bias = (torch.from_numpy(a).float() for a in (fit.coef_, fit.intercept_))
            weight = weight if span_DR is None else weight @ span_DR.cpu().T
            if len(fit.classes_) == 2:  # scikit-learn stores one row for two classes
                weight, bias = torch.cat([-weight, weight]) / 2, torch.cat([-bias, bias]) / 2
            head.weight.zero_()[fit.classes_] = weight
            head.bias.fill_(-1e4)[fit.classes_] = bias  # a class without a label is never predicted
        return head

    def one_for_each_class(self, model, f_BD, few_BR, span_DR, sets_BY, seed):
        """A head of independent classes, each with its own C, which is chosen by average precision.

        A class that all images have, or none, gets the logit of its frequency.
        """
        head = nn.Linear(f_BD.shape[1], sets_BY.shape[1])
        nn.init.zeros_(head.weight)
        few_BR, grid, n = few_BR.cpu().double(), {"C": list(self.c)}, len(sets_BY)
        with torch.no_grad():
            for c, y_B in enumerate((sets_BY.cpu() > 0).long().T):
                if (count := int(y_B.sum())) in (0, n):
                    head.bias[c] = math.log((count + 0.5) / (n - count + 0.5))
                    continue
                fit = grid_fit(model, grid, few_BR, y_B, seed, self.rows, "average_precision")
                weight_R = torch.from_numpy(fit.coef_[0]).float()
                head.weight[c] = weight_R if span_DR is None else span_DR.cpu() @ weight_R
                head.bias[c] = float(fit.intercept_[0])
        return head

    def head(self, shapes, spec):
        return nn.Linear(shapes["weight"][1], len(spec.classes))
