"""Heads fitted on frozen features to convergence."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

SEARCH_ROWS = 2_000  # labelled examples on which hyperparameters are chosen


def fit_linear(head: nn.Linear, f_ND: Tensor, y_N: Tensor, ridge: float) -> None:
    """Multinomial logistic regression with an L2 penalty, fitted in place by L-BFGS from zero."""
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    optimizer = torch.optim.LBFGS(head.parameters(), max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(head(f_ND), y_N) + ridge * head.weight.square().sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
    optimizer.zero_grad(set_to_none=True)


def fit_ridge(head: nn.Linear, f_ND: Tensor, y_NK: Tensor, ridge: float) -> None:
    """Ridge regression of means over examples, solved exactly and in place."""
    mean_D, mean_K = f_ND.mean(0), y_NK.mean(0)
    x_ND, t_NK = (f_ND - mean_D).double(), (y_NK - mean_K).double()
    gram = x_ND.T @ x_ND / len(x_ND) + max(ridge, 1e-9) * torch.eye(
        x_ND.shape[1], dtype=x_ND.dtype, device=x_ND.device
    )
    weight_KD = torch.linalg.solve(gram, x_ND.T @ t_NK / len(x_ND)).T.to(f_ND)
    with torch.no_grad():
        head.weight.copy_(weight_KD)
        head.bias.copy_(mean_K - weight_KD @ mean_D)


def grid_fit(
    model,
    grid: dict[str, list],
    f_ND: Tensor,
    y_N: Tensor,
    seed: int,
    rows: int,
    scoring: str | None = None,
):
    """A scikit-learn classifier fitted on `rows` random examples, at most.

    Stratified cross-validation on the first `SEARCH_ROWS` of them chooses the hyperparameters. If a
    class has a single example, nothing can be held out and the middle of the grid is used.
    """
    from sklearn.base import clone
    from sklearn.model_selection import GridSearchCV, StratifiedKFold

    order = torch.randperm(len(y_N), generator=torch.Generator().manual_seed(seed))[:rows]
    x, y = f_ND.cpu()[order].numpy(), y_N.cpu()[order].numpy()
    few_x, few_y = x[:SEARCH_ROWS], y[:SEARCH_ROWS]
    folds = min(5, int(np.unique(few_y, return_counts=True)[1].min()))
    if folds < 2:
        best = {name: values[len(values) // 2] for name, values in grid.items()}
    else:
        split = StratifiedKFold(folds, shuffle=True, random_state=seed % 2**32)
        best = (
            GridSearchCV(model, grid, cv=split, refit=False, scoring=scoring)
            .fit(few_x, few_y)
            .best_params_
        )
    return clone(model).set_params(**best).fit(x, y)
