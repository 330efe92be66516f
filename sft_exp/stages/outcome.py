"""Facts about a fine-tuned model on its training images, which `training.health` judges."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sft_exp.core.rng import stream
from sft_exp.data.images import Images
from sft_exp.stages import model as models
from sft_exp.stages.model import Model

MOST = 2_000  # maximum number of training images; more would not change the result
IGNORE = 255  # value of masks where nothing is annotated
# limit in nats of one prediction's cross-entropy, so that the mean is finite
MOST_LOSS = 1e30


def norm(nets: nn.Module) -> float:
    """Euclidean norm of all parameters."""
    return short(
        sum(p.detach().cpu().double().square().sum().item() for p in nets.parameters()) ** 0.5
    )


def on_training_images(model: Model, labelled: Images, device: torch.device) -> dict[str, Any]:
    """Facts about the model's predictions in eval mode for (a sample of) its training images.

    For classes of images or pixels see `agreement`; for numbers `r2`. Empty for other tasks, which
    are judged by their losses and norms.
    """
    rows = torch.randperm(len(labelled), generator=stream("outcome"))[:MOST].sort().values
    some, pixels = labelled.at(rows), model.task.predicts == "pixels"
    if model.task.predicts == "numbers":
        return {"r2": short(explained(model, some, device))}
    if model.task.predicts not in ("classes", "pixels"):
        return {}
    true_Y, predicted_Y, correct, loss = torch.zeros(0), torch.zeros(0), 0.0, 0.0
    for batch in some.batches(torch.arange(len(some)).split(models.at_once(some)), device):
        logits, y = model.predict(batch["x"]).float(), batch["mask" if pixels else "y"]
        known = y != IGNORE if pixels else y >= 0
        predicted, classes = logits.argmax(1), logits.shape[1]
        error = F.cross_entropy(logits, y.where(known, 0), reduction="none").clamp_max(MOST_LOSS)
        loss += error[known].cpu().double().sum().item()
        correct += (predicted == y)[known].sum().item()
        true_Y = y[known].bincount(minlength=classes).cpu() + (true_Y if len(true_Y) else 0)
        count_Y = predicted[known].bincount(minlength=classes).cpu()
        predicted_Y = count_Y + (predicted_Y if len(predicted_Y) else 0)
    return agreement(true_Y, predicted_Y, correct, loss)


def explained(model: Model, images: Images, device: torch.device) -> float:
    """R2 of predicted numbers, a mean over those of an image: 1 - squared errors / deviations.

    It is computed here, because a training must not depend on the code of metrics.
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


def agreement(true_Y: Tensor, predicted_Y: Tensor, correct: float, loss: float) -> dict[str, Any]:
    """Facts about predicted classes, from counts of annotated and of predicted classes [Y], the
    number of correct predictions, and the sum of their cross-entropies in nats.

    `classes` and `predicted`: numbers of different annotated and predicted classes; `missed`: share
    of annotations whose class is never predicted; `accuracy`; `majority`: share of the commonest
    class; `log_loss`, a mean; `entropy` of the annotated classes, which is the smallest log loss of
    a constant prediction.
    """
    count = true_Y.sum().item()
    if not count:
        return {}
    share_Y = true_Y.double() / count
    return {
        "classes": int((true_Y > 0).sum()),
        "predicted": int((predicted_Y > 0).sum()),
        "missed": short(share_Y[predicted_Y == 0].sum().item()),
        "accuracy": short(correct / count),
        "majority": short(share_Y.max().item()),
        "log_loss": short(loss / count),
        "entropy": short(torch.special.entr(share_Y).sum().item()),
    }


def short(value: float) -> float:
    """The value rounded to six digits: further ones depend on the number of threads."""
    return float(f"{value:.6g}")
