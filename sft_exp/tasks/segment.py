"""Semantic segmentation from an encoder's maps. Masks hold 255 where nothing is annotated.

Loss: the weighted sum of cross-entropy, focal loss -(1 - p)^2 log p (Lin et al., arXiv:1708.02002,
equation 4) and soft Dice loss (Milletari et al., arXiv:1606.04797, section 3), each over an image's
annotated pixels, and a mean over images.
"""

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from sft_exp.config.schema import AugmentConfig
from sft_exp.core.task import Task
from sft_exp.data.augment import view_with_mask
from sft_exp.errors import require
from sft_exp.models.heads import dense

IGNORE = 255
SAMPLED = 200  # pixels per image that a closed-form head is fitted on
COLOURS = torch.tensor(  # of overlays; class 0, usually the background, is not coloured
    [
        [0, 0, 0],
        [230, 159, 0],
        [86, 180, 233],
        [0, 158, 115],
        [240, 228, 66],
        [0, 114, 178],
        [213, 94, 0],
        [204, 121, 167],
    ]
).div(255)


@dataclass
class Segment(Task):
    predicts: ClassVar[str] = "pixels"
    needs: ClassVar[tuple[str, ...]] = ("mask",)
    pooled: ClassVar[bool] = False
    readout: ClassVar[str] = "head.linear"
    score: ClassVar[str] = "miou"
    columns: ClassVar[dict[str, str]] = {"miou": "mIoU", "pixel_accuracy": "pixels", "dice": "Dice"}
    footing: ClassVar[str] = (
        "of all test pixels together, on the data set's canvas;"
        " mIoU and Dice are means over classes"
    )

    # fpn (feature pyramid); unet (U-Net's decoder, up to the image's size); torchvision's fcn,
    # deeplabv3, lraspp; or pixel (linear, largest map)
    head: str = "fpn"
    width: int = 64  # channels of the head
    # maximum number of groups in the GroupNorm of fpn and unet; null = 32, of 2 channels at least
    groups: int | None = None
    cross_entropy: float = 1.0  # weight of the cross-entropy
    dice: float = 0.0  # weight of the Dice loss
    focal: float = 0.0  # weight of the focal loss
    # train on augmented views of images and masks, drawn as the group `augment` says
    augment: bool = False
    views: dict = field(default_factory=lambda: {})  # fields of the group `augment`

    def __post_init__(self):
        require(self.head in dense.HEADS, "head", self.head, ", ".join(dense.HEADS))
        require(self.width > 0, "width", self.width, "above 0")
        require(self.groups is None or self.groups > 0, "groups", self.groups, "above 0, or null")
        for name in ("cross_entropy", "dice", "focal"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "0 or more")
        require(
            self.cross_entropy + self.dice + self.focal > 0,
            "cross_entropy",
            self.cross_entropy,
            "above 0, or dice or focal",
        )
        # unused fields must not distinguish two requests
        self.views = self.views if self.augment else {}
        self.how = AugmentConfig.of(self.views)

    def alters(self):
        return self.augment

    def networks(self, encoder, spec):
        classes = len(spec.of("mask").classes)
        head = dense.head(self.head, encoder.shapes, classes, self.width, self.groups, spec.image)
        return nn.ModuleDict({"encoder": encoder, "head": head})

    def draw(self, batch, rng, progress):
        x_BCHW, mask_BHW = batch["labelled"]["x"], batch["labelled"]["mask"]
        if self.augment:
            return view_with_mask(x_BCHW, mask_BHW, self.how, rng)
        return x_BCHW, mask_BHW

    def loss(self, nets, x_BCHW, mask_BHW):
        logits_BYHW = self.predict(nets, x_BCHW)
        known_BHW = mask_BHW != IGNORE
        count_B = known_BHW.sum((1, 2)).clamp_min(1)
        log_BYHW = logits_BYHW.log_softmax(1)
        # 0 where nothing is annotated
        error_BHW = F.nll_loss(log_BYHW, mask_BHW, reduction="none", ignore_index=IGNORE)
        parts = {}
        if self.cross_entropy:
            parts["cross_entropy"] = (error_BHW.sum((1, 2)) / count_B).mean()
        if self.focal:
            focal_BHW = (1 - (-error_BHW).exp()) ** 2 * error_BHW
            parts["focal"] = (focal_BHW.sum((1, 2)) / count_B).mean()
        if self.dice:
            parts["dice"] = soft_dice(log_BYHW.exp(), mask_BHW, known_BHW)
        correct = ((logits_BYHW.argmax(1) == mask_BHW) & known_BHW).sum()
        accuracy = correct / known_BHW.sum().clamp_min(1)
        total = sum(getattr(self, name) * value for name, value in parts.items())
        return total, {**parts, "pixel_accuracy": accuracy}

    def predict(self, nets, x_BCHW):
        """-> logits [B, Y, H, W]"""
        low_BYHW = nets["head"]({dense.IMAGE: x_BCHW, **dict(nets["encoder"].maps(x_BCHW))})
        if low_BYHW.shape[2:] == x_BCHW.shape[2:]:
            return low_BYHW
        return F.interpolate(low_BYHW, x_BCHW.shape[2:], mode="bilinear", align_corners=False)

    def metrics(self, spec):
        from torchmetrics.classification import (
            MulticlassAccuracy,
            MulticlassF1Score,
            MulticlassJaccardIndex,
        )

        classes = len(spec.of("mask").classes)
        options: dict[str, Any] = {"ignore_index": IGNORE, "validate_args": False}
        return nn.ModuleDict(
            {
                "miou": MulticlassJaccardIndex(classes, average="macro", **options),
                "iou": MulticlassJaccardIndex(classes, average="none", **options),
                "pixel_accuracy": MulticlassAccuracy(classes, average="micro", **options),
                # over all pixels together, Dice and F1 are equal
                "dice": MulticlassF1Score(classes, average="macro", **options),
            }
        )

    def compared(self, predictions, batch):
        return predictions.argmax(1), batch["mask"]

    def record(self, predictions, batch):
        """`intersection` and `union` of each class in pixels, int32 [B, Y]: the parts of mIoU."""
        known_BHW, classes = batch["mask"] != IGNORE, predictions.shape[1]
        predicted_BYHW, true_BYHW = (
            one_hot(m, known_BHW, classes) for m in (predictions.argmax(1), batch["mask"])
        )
        return {
            "intersection": (predicted_BYHW & true_BYHW).sum((2, 3)).int(),
            "union": (predicted_BYHW | true_BYHW).sum((2, 3)).int(),
        }

    def show(self, predictions, batch, spec):
        x_BCHW = batch["x"].expand(-1, 3, -1, -1)
        return {
            "image": x_BCHW,
            "truth": overlay(x_BCHW, batch["mask"]),
            "predicted": overlay(x_BCHW, predictions.argmax(1)),
        }

    def closed_form_task(self):
        return replace(self, head="pixel", augment=False, views={})

    def examples(self, nets, batch, rng):
        """Features [M, D] and classes [M] of a sample of annotated pixels, from the head's map."""
        maps, name = dict(nets["encoder"].maps(batch["x"])), nets["head"].name
        mask_BHW = F.interpolate(
            batch["mask"][:, None].float(), maps[name].shape[2:], mode="nearest-exact"
        )[:, 0].long()
        f_BLD, mask_BL = maps[name].flatten(2).mT, mask_BHW.flatten(1)
        random_BL = torch.rand(mask_BL.shape, generator=rng, device=mask_BL.device)
        sample_BM = random_BL.topk(min(SAMPLED, mask_BL.shape[1])).indices
        f_MD = f_BLD.gather(1, sample_BM[..., None].expand(-1, -1, f_BLD.shape[2])).flatten(0, 1)
        y_M = mask_BL.gather(1, sample_BM).flatten()
        return f_MD[y_M != IGNORE], y_M[y_M != IGNORE]


def soft_dice(
    p_BYHW: torch.Tensor, mask_BHW: torch.Tensor, known_BHW: torch.Tensor
) -> torch.Tensor:
    """1 - 2 |p y| / (|p| + |y|), a mean over images and classes; 0 for a class absent from both."""
    y_BYHW = one_hot(mask_BHW, known_BHW, p_BYHW.shape[1]).to(p_BYHW)
    p_BYHW = p_BYHW * known_BHW[:, None]
    both_BY, sizes_BY = (p_BYHW * y_BYHW).sum((2, 3)), (p_BYHW + y_BYHW).sum((2, 3))
    return 1 - ((2 * both_BY + 1) / (sizes_BY + 1)).mean()


def one_hot(mask_BHW: torch.Tensor, known_BHW: torch.Tensor, classes: int) -> torch.Tensor:
    """-> bool [B, Y, H, W], false for all classes where nothing is annotated."""
    return (
        mask_BHW[:, None] == torch.arange(classes, device=mask_BHW.device)[:, None, None]
    ) & known_BHW[:, None]


def overlay(x_B3HW: torch.Tensor, mask_BHW: torch.Tensor) -> torch.Tensor:
    """Images in [0, 1] with their classes in half-transparent colours; white if not annotated."""
    classes_BHW = mask_BHW.where(mask_BHW != IGNORE, 0)
    index_BHW = classes_BHW.where(classes_BHW == 0, (classes_BHW - 1) % (len(COLOURS) - 1) + 1)
    colour_B3HW = COLOURS.to(x_B3HW)[index_BHW].movedim(-1, 1)
    mixed = torch.where((classes_BHW > 0)[:, None], 0.5 * x_B3HW + 0.5 * colour_B3HW, x_B3HW)
    return torch.where((mask_BHW == IGNORE)[:, None], 0.5 * x_B3HW + 0.5, mixed)
