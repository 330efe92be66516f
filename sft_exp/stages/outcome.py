"""What a fine-tuning came to on the images it learnt from: facts alone, which `health` judges."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sft_exp.core.rng import stream
from sft_exp.data.images import Images
from sft_exp.stages import model as models
from sft_exp.stages.model import Model

MOST = 2_000  # training images looked at; more would say nothing else
IGNORE = 255  # of masks: nothing is annotated there
# nats of one prediction; a larger cross-entropy counts as this, so that the mean is a number
MOST_LOSS = 1e30


def norm(nets: nn.Module) -> float:
    """Euclidean norm of all parameters."""
    return short(
        sum(p.detach().cpu().double().square().sum().item() for p in nets.parameters()) ** 0.5
    )


def on_training_images(model: Model, labelled: Images, device: torch.device) -> dict[str, Any]:
    """Facts about the finished model's predictions, in evaluation mode, for the images it learnt from, or for some of them.

    Classes of images and of pixels: see `agreement`. Numbers: `r2`. Empty for other tasks, whose losses and norms must do.
    """
    rows = torch.randperm(len(labelled), generator=stream("outcome"))[:MOST].sort().values
    some, pixels = labelled.at(rows), model.task.predicts == "pixels"
    if model.task.predicts == "numbers":
        return {"r2": short(explained(model, some, device))}
    if model.task.predicts not in ("classes", "pixels"):
        return {}
    true_Y, told_Y, right, loss = torch.zeros(0), torch.zeros(0), 0.0, 0.0
    for batch in some.batches(torch.arange(len(some)).split(models.at_once(some)), device):
        logits, y = model.predict(batch["x"]).float(), batch["mask" if pixels else "y"]
        known = y != IGNORE if pixels else y >= 0
        told, classes = logits.argmax(1), logits.shape[1]
        error = F.cross_entropy(logits, y.where(known, 0), reduction="none").clamp_max(MOST_LOSS)
        loss += error[known].cpu().double().sum().item()
        right += (told == y)[known].sum().item()
        true_Y = y[known].bincount(minlength=classes).cpu() + (true_Y if len(true_Y) else 0)
        told_Y = told[known].bincount(minlength=classes).cpu() + (told_Y if len(told_Y) else 0)
    return agreement(true_Y, told_Y, right, loss)


def explained(model: Model, images: Images, device: torch.device) -> float:
    """R2 of predicted numbers, the mean over those of an image: 1 - squared errors / squared deviations from the mean.

    Computed here and not by a metric: a training must not depend on the code of metrics.
    """
    predicted, true = [], []
    for batch in images.batches(torch.arange(len(images)).split(models.at_once(images)), device):
        numbers, targets = model.task.compared(model.predict(batch["x"]), batch)
        predicted.append(torch.as_tensor(numbers).double().cpu().reshape(len(batch["x"]), -1))
        true.append(torch.as_tensor(targets).double().cpu().reshape(len(batch["x"]), -1))
    p_NK, t_NK = torch.cat(predicted), torch.cat(true)
    errors_K = (p_NK - t_NK).square().sum(0)
    deviations_K = (t_NK - t_NK.mean(0)).square().sum(0).clamp_min(1e-30)
    return (1 - errors_K / deviations_K).mean().item()


def agreement(true_Y: Tensor, told_Y: Tensor, right: float, loss: float) -> dict[str, Any]:
    """Facts about predicted classes, from how often each is annotated and predicted [Y], how many predictions are right, and
    their cross-entropies added up, in nats.

    `classes` and `predicted`: how many different ones are annotated, and predicted; `missed`: the share of what is annotated
    whose class is never predicted; `accuracy`; `majority`: the share of the commonest class; `log_loss`, a mean; and the
    `entropy` of the annotated classes, which is the least log loss of a prediction that is the same for all.
    """
    count = true_Y.sum().item()
    if not count:
        return {}
    share_Y = true_Y.double() / count
    return {
        "classes": int((true_Y > 0).sum()),
        "predicted": int((told_Y > 0).sum()),
        "missed": short(share_Y[told_Y == 0].sum().item()),
        "accuracy": short(right / count),
        "majority": short(share_Y.max().item()),
        "log_loss": short(loss / count),
        "entropy": short(torch.special.entr(share_Y).sum().item()),
    }


def short(value: float) -> float:
    """To six digits: further ones depend on the number of threads."""
    return float(f"{value:.6g}")
