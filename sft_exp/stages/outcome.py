"""Facts about a fine-tuned model and its training images, from which `training.health` sees failures."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sft_exp.core.rng import stream
from sft_exp.data.images import Images
from sft_exp.stages import model as models
from sft_exp.stages.model import Model

MAX_IMAGES = 2_000  # number of training images that are predicted; more would change little
IGNORE = 255  # value of masks where nothing is annotated
# limit in nats of one prediction's cross-entropy, so that the mean is finite
MAX_LOSS = 1e30


def parameter_norm(nets: nn.Module) -> float:
    """Euclidean norm of all parameters."""
    return rounded(
        sum(p.detach().cpu().double().square().sum().item() for p in nets.parameters()) ** 0.5
    )


def on_training_images(model: Model, labelled: Images, device: torch.device) -> dict[str, Any]:
    """Facts about the model's predictions in eval mode for (a sample of) its training images.

    For classes of images or pixels they are those of `class_facts`, for numbers `r2`. Empty for other tasks, which
    are judged by their losses and norms.
    """
    rows = torch.randperm(len(labelled), generator=stream("outcome"))[:MAX_IMAGES].sort().values
    sample, pixels = labelled.at(rows), model.task.predicts == "pixels"
    if model.task.predicts == "numbers":
        return {"r2": rounded(r_squared(model, sample, device))}
    if model.task.predicts not in ("classes", "pixels"):
        return {}
    true_Y, predicted_Y, correct, loss = torch.zeros(0), torch.zeros(0), 0.0, 0.0
    for batch in sample.batches(torch.arange(len(sample)).split(models.at_once(sample)), device):
        logits, y = model.predict(batch["x"]).float(), batch["mask" if pixels else "y"]
        known = y != IGNORE if pixels else y >= 0
        predicted, classes = logits.argmax(1), logits.shape[1]
        error = F.cross_entropy(logits, y.where(known, 0), reduction="none").clamp_max(MAX_LOSS)
        loss += error[known].cpu().double().sum().item()
        correct += (predicted == y)[known].sum().item()
        true_Y = y[known].bincount(minlength=classes).cpu() + (true_Y if len(true_Y) else 0)
        count_Y = predicted[known].bincount(minlength=classes).cpu()
        predicted_Y = count_Y + (predicted_Y if len(predicted_Y) else 0)
    return class_facts(true_Y, predicted_Y, correct, loss)


def r_squared(model: Model, images: Images, device: torch.device) -> float:
    """The mean over an image's numbers of R2 = 1 - squared errors / squared deviations.

    It is computed here, because the hash of a training must not depend on the code of metrics.
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


def class_facts(true_Y: Tensor, predicted_Y: Tensor, correct: float, loss: float) -> dict[str, Any]:
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
        "missed": rounded(share_Y[predicted_Y == 0].sum().item()),
        "accuracy": rounded(correct / count),
        "majority": rounded(share_Y.max().item()),
        "log_loss": rounded(loss / count),
        "entropy": rounded(torch.special.entr(share_Y).sum().item()),
    }


def rounded(value: float) -> float:
    """The value with six digits, because further ones depend on the number of threads."""
    return float(f"{value:.6g}")
