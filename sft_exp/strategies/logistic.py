"""Logistic regression on frozen features, fitted to convergence (scikit-learn), C chosen by folds inside the labels."""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import nn

from sft_exp.core import Strategy
from sft_exp.heads import grid_fit


@dataclass
class Logistic(Strategy):
    solves: ClassVar[bool] = True

    c: list[float] = field(default_factory=lambda: [0.01, 0.1, 1.0, 10.0])  # inverse weights of the ridge to choose from
    rows: int = 10_000  # labelled images it is fitted on at most

    def phases(self, encoder):
        return [(1.0, {})]

    def solve(self, f_BD, y_B, spec, seed):
        from sklearn.linear_model import LogisticRegression

        fit = grid_fit(LogisticRegression(max_iter=1000), {"C": list(self.c)}, f_BD, y_B, seed, self.rows)
        head = nn.Linear(f_BD.shape[1], len(spec.classes))
        with torch.no_grad():
            weight, bias = torch.from_numpy(fit.coef_).float(), torch.from_numpy(fit.intercept_).float()
            if len(fit.classes_) == 2:  # scikit-learn keeps one row for two classes
                weight, bias = torch.cat([-weight, weight]) / 2, torch.cat([-bias, bias]) / 2
            head.weight.zero_()[fit.classes_] = weight
            head.bias.fill_(-1e4)[fit.classes_] = bias  # a class without a label is never predicted
        return head

    def head(self, shapes, spec):
        return nn.Linear(shapes["weight"][1], len(spec.classes))
