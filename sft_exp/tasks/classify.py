"""Image classification: a linear head on standardised features, trained with cross-entropy.

Label smoothing, class balancing, mixup, cutmix and augmentation are off by default.
"""

from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import nn

from sft_exp.config.schema import AugmentConfig
from sft_exp.core.rng import Stream
from sft_exp.core.task import Task
from sft_exp.data.augment import view
from sft_exp.errors import require
from sft_exp.models.heads import classifier


@dataclass
class Classify(Task):
    # start of the head: probe (fitted on the frozen features) or random (PyTorch's default)
    head: str = "probe"
    ridge: float = 1e-2  # L2 weight of the probe
    # features to mean 0, sd 1: common (one scale for all; not for closed-form heads), each or none
    standardise: str = "common"
    # label smoothing: share of the target spread over all classes (arXiv:1512.00567, section 7)
    smoothing: float = 0.0
    balanced: bool = False  # weight classes inversely to their frequency among the labels
    # a of Beta(a, a), the share of the other image mixed in (arXiv:1710.09412); 0 = none
    mixup: float = 0.0
    # a of Beta(a, a), the area taken from the other image (arXiv:1905.04899); 0 = none
    cutmix: float = 0.0
    augment: bool = False  # train on augmented views, drawn as the group `augment` says
    views: dict = field(default_factory=lambda: {})  # fields of the group `augment`

    def __post_init__(self):
        classifier.check(self)
        require(0 <= self.smoothing < 1, "smoothing", self.smoothing, "from 0 to below 1")
        require(self.mixup >= 0, "mixup", self.mixup, "0 or more")
        require(self.cutmix >= 0, "cutmix", self.cutmix, "0 or more")
        require(
            not (self.mixup and self.cutmix), "cutmix", self.cutmix, "0 with mixup: one of the two"
        )
        # unused fields must not distinguish two requests
        self.views = self.views if self.augment else {}
        self.how = AugmentConfig.of(self.views)

    @property
    def plain(self):
        """Whether the loss is the plain cross-entropy of unaltered images and labels."""
        own = ("networks", "draw", "loss", "errors", "predict")
        inherited = all(getattr(type(self), name) is getattr(Classify, name) for name in own)
        return inherited and not (self.smoothing or self.balanced or self.alters())

    def alters(self):
        return bool(self.augment or self.mixup or self.cutmix)

    def unaltered(self):
        return replace(self, augment=False, mixup=0.0, cutmix=0.0)

    def drawn(self):
        return super().drawn() + (2 if self.mixup or self.cutmix else 0)

    def networks(self, encoder, spec):
        nets = classifier.networks(encoder, spec)
        if self.balanced:
            nets["weights"] = Weights(len(spec.classes))
        return nets

    def prepare(self, nets, data):
        classifier.prepare(self, nets, data)
        if self.balanced:
            nets["weights"].y.copy_(classifier.balance(data["y"], len(nets["weights"].y)))

    def draw(self, batch, rng, progress):
        x_BCHW, y_B = batch["labelled"]["x"], batch["labelled"]["y"]
        if self.augment:
            x_BCHW = view(x_BCHW, self.how, rng)
        if not (self.mixup or self.cutmix):
            return x_BCHW, y_B
        # the batch is shuffled, so neighbours are random pairs
        other_B = torch.arange(len(y_B), device=y_B.device) ^ 1
        other_B = other_B.where(other_B < len(y_B), len(y_B) - 1)  # of an odd number, the last
        share_B = rng.beta(self.mixup or self.cutmix, len(y_B)).to(x_BCHW)
        if self.mixup:
            x_BCHW = torch.lerp(x_BCHW, x_BCHW[other_B], share_B[:, None, None, None])
        else:
            window_BHW = window(x_BCHW.shape, share_B, rng)
            x_BCHW = torch.where(window_BHW[:, None], x_BCHW[other_B], x_BCHW)
            share_B = window_BHW.to(x_BCHW).mean((1, 2))
        return x_BCHW, y_B, y_B[other_B], share_B

    def loss(self, nets, x_BCHW, y_B, other_B=None, share_B=None):
        logits_BY = self.predict(nets, x_BCHW)
        metrics = {"accuracy": classifier.accuracy(logits_BY, y_B)}
        if other_B is None and not self.balanced:
            return F.cross_entropy(logits_BY, y_B, label_smoothing=self.smoothing), metrics
        loss_B = self.errors(nets, logits_BY, y_B)
        if other_B is not None:
            loss_B = torch.lerp(loss_B, self.errors(nets, logits_BY, other_B), share_B)
        return loss_B.mean(), metrics

    def errors(self, nets, logits_BY, y_B):
        """Cross-entropy of each image [B], weighted by its class."""
        loss_B = F.cross_entropy(logits_BY, y_B, reduction="none", label_smoothing=self.smoothing)
        return loss_B * nets["weights"].y[y_B] if self.balanced else loss_B

    def predict(self, nets, x_BCHW):
        """-> logits [B, Y]"""
        return classifier.logits(nets, x_BCHW)

    def examples(self, nets, batch, rng):
        return nets["scale"](nets["encoder"](batch["x"])), batch["y"]

    def metrics(self, spec):
        return classifier.metrics(spec)


def of_labels_alone(task: Task) -> Classify:
    """The supervised counterpart of a semi-supervised task: same head, scale and views."""
    shared = {
        f: getattr(task, f) for f in ("head", "ridge", "standardise", "views") if hasattr(task, f)
    }
    return Classify(**shared, augment="views" in shared)


class Weights(nn.Module):
    """Fixed weights, one per class."""

    y: torch.Tensor

    def __init__(self, classes: int):
        super().__init__()
        self.register_buffer("y", torch.ones(classes))


def window(shape: torch.Size, share_B: torch.Tensor, rng: Stream) -> torch.Tensor:
    """Mask [B, H, W] of a rectangle with about that share of each image's area.

    Its centre is uniform over the image; the rectangle is clipped at the border.
    """
    masks_BS = []
    for size in shape[2:]:
        centre_B = rng.rand(len(share_B))
        middle_S = (torch.arange(size, device=share_B.device) + 0.5) / size
        masks_BS.append((middle_S - centre_B[:, None]).abs() < share_B.sqrt()[:, None] / 2)
    return masks_BS[0][:, :, None] & masks_BS[1][:, None, :]
