"""Parts of multi-label classification: a logit and a threshold for each class, and its metrics."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LOGIT, MARGIN = 0, 1  # planes of predictions [B, 2, Y]


class Thresholds(nn.Module):
    """The logit of each class from which it is predicted; 0, a probability of a half, at first."""

    logit: Tensor

    def __init__(self, classes: int):
        super().__init__()
        self.register_buffer("logit", torch.zeros(classes))

    def forward(self, logits_BY: Tensor) -> Tensor:
        """Predictions [B, 2, Y]: the logits, and by how much they exceed the thresholds."""
        return torch.stack([logits_BY, logits_BY - self.logit], 1)


def names(predicted_2Y: Tensor, classes: Sequence[str]) -> list[str]:
    """The classes that are predicted for one image, in their order."""
    present_Y = (predicted_2Y[MARGIN] >= 0).tolist()
    return [name for name, present in zip(classes, present_Y, strict=True) if present]


def fit_linear(head: nn.Linear, f_ND: Tensor, sets_NY: Tensor, ridge: float) -> None:
    """A logistic regression of each class with an L2 penalty, fitted in place by L-BFGS from zero.

    A weak penalty on the bias keeps it finite for a class that all images have, or none.
    """
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    optimizer = torch.optim.LBFGS(head.parameters(), max_iter=200, line_search_fn="strong_wolfe")
    true_NY = sets_NY.to(f_ND)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.binary_cross_entropy_with_logits(head(f_ND), true_NY)
        loss = loss + ridge * (head.weight.square().sum() + 1e-3 * head.bias.square().sum())
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
    optimizer.zero_grad(set_to_none=True)


def best_thresholds(logits_NY: Tensor, sets_NY: Tensor) -> Tensor:
    """The logits [Y] above which predictions have the largest F1 of each class.

    A threshold lies in the middle between two logits that occur, and of several that are equally
    good it is the one closest to 0. A class that no image has gets 0.
    """
    thresholds = torch.zeros(logits_NY.shape[1])
    for c, (logits_N, true_N) in enumerate(zip(logits_NY.double().T, sets_NY.T > 0, strict=True)):
        if not true_N.any():
            continue
        sorted_N, order_N = logits_N.sort(descending=True)
        hits_N = true_N[order_N].cumsum(0)
        predicted_N = torch.arange(1, len(sorted_N) + 1, device=sorted_N.device)
        f1_N = 2 * hits_N / (predicted_N + true_N.sum())
        # the first n images are predicted; below the lowest logit, all of them
        below_N = torch.cat([sorted_N[1:], sorted_N[-1:].clamp(max=0) * 2 - sorted_N[-1:]])
        cut_N = (sorted_N + below_N) / 2
        possible_N = sorted_N > below_N
        possible_N[-1] = True
        f1_N = f1_N.where(possible_N, -1.0)
        best_N = cut_N[f1_N >= f1_N.max() - 1e-12]
        thresholds[c] = best_N[best_N.abs().argmin()]
    return thresholds


class Ranking(nn.Module):
    """Average precision by torchmetrics: `map`, its mean over the classes that an image has, and
    `average_precision/<class>`."""

    def __init__(self, classes: tuple[str, ...]):
        super().__init__()
        from torchmetrics.classification import BinaryAveragePrecision

        self.classes = classes
        self.each = nn.ModuleList(BinaryAveragePrecision() for _ in classes)
        self.count = [0] * len(classes)

    def update(self, predictions_B2Y: Tensor, sets_BY: Tensor) -> None:
        # in this precision the order of the logits is that of their probabilities
        p_BY = predictions_B2Y[:, LOGIT].double().sigmoid()
        for c, metric in enumerate(self.each):
            metric.update(p_BY[:, c], sets_BY[:, c])  # type: ignore[operator]
            self.count[c] += int(sets_BY[:, c].sum())

    def compute(self) -> dict[str, Tensor]:
        """Undefined for a class that no image has, which is left out."""
        found = {
            name: metric.compute()  # type: ignore[operator]
            for name, metric, count in zip(self.classes, self.each, self.count, strict=True)
            if count
        }
        mean = torch.stack([*found.values()]).mean() if found else torch.tensor(torch.nan)
        return {"map": mean, **{f"average_precision/{name}": v for name, v in found.items()}}


class Decisions(nn.Module):
    """Precision, recall and F1 of the predicted classes by torchmetrics, macro, micro and of each
    class, and the thresholds, as probabilities."""

    def __init__(self, classes: tuple[str, ...]):
        super().__init__()
        from torchmetrics.classification import BinaryStatScores

        self.classes = classes
        self.each = nn.ModuleList(BinaryStatScores() for _ in classes)
        self.threshold_Y = torch.zeros(len(classes))

    def update(self, predictions_B2Y: Tensor, sets_BY: Tensor) -> None:
        predicted_BY = (predictions_B2Y[:, MARGIN] >= 0).long()
        for c, metric in enumerate(self.each):
            metric.update(predicted_BY[:, c], sets_BY[:, c])  # type: ignore[operator]
        first_2Y = predictions_B2Y[0]
        self.threshold_Y = (first_2Y[LOGIT] - first_2Y[MARGIN]).sigmoid().cpu()

    def compute(self) -> dict[str, Tensor]:
        """F1 counts a class that is neither predicted nor present as undefined."""
        counts_Y5 = torch.stack([metric.compute() for metric in self.each]).double().cpu()  # type: ignore[operator]
        hit_Y, false_Y, _, missed_Y, _ = counts_Y5.T
        f1_Y = 2 * hit_Y / (2 * hit_Y + false_Y + missed_Y)
        hits, misses = hit_Y.sum(), false_Y.sum() + missed_Y.sum()
        found = {"macro_f1": f1_Y.nanmean(), "micro_f1": 2 * hits / (2 * hits + misses)}
        of_class = {
            "images": hit_Y + missed_Y,
            "precision": hit_Y / (hit_Y + false_Y),
            "recall": hit_Y / (hit_Y + missed_Y),
            "f1": f1_Y,
            "threshold": self.threshold_Y,
        }
        return found | {
            f"{name}/{c}": value
            for name, value_Y in of_class.items()
            for c, value in zip(self.classes, value_Y, strict=True)
        }
