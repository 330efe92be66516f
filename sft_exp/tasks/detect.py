"""Object detection: torchvision's FCOS or RetinaNet on a pyramid of the encoder's maps.

Draws x [B, C, H, W], boxes [B, M, 4] (x0 y0 x1 y1 in pixels of the canvas) and labels [B, M]
(0 = none). The loss is torchvision's. Predicts [B, most, 6]: box, score and label (0 = none).
"""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import nn

from sft_exp.config.schema import AugmentConfig
from sft_exp.core.task import Task
from sft_exp.data.augment import view_with_boxes
from sft_exp.errors import require
from sft_exp.models.heads import detectors


@dataclass
class Detect(Task):
    predicts: ClassVar[str] = "boxes"
    needs: ClassVar[tuple[str, ...]] = ("boxes", "labels", "crowd")
    pooled: ClassVar[bool] = False
    # torchvision divides the loss terms by the number of boxes in the whole batch
    per_row: ClassVar[bool] = False
    shared: ClassVar[bool] = False  # and does not know of other processes
    score: ClassVar[str] = "map"
    columns: ClassVar[dict[str, str]] = {"map": "mAP", "map_50": "AP50", "map_75": "AP75"}
    footing: ClassVar[str] = (
        "mAP: mean over classes and overlaps of 50 to 95 % (COCO's);"
        " AP50, AP75: at these overlaps alone"
    )

    model: str = "fcos"  # fcos, or retinanet
    # stride of each pyramid level in pixels, finest first
    strides: list[int] = field(default_factory=lambda: [8, 16, 32])
    width: int = 64  # channels of the pyramid and the head
    convs: int = 2  # convolutions in each branch of FCOS's head; RetinaNet has 4
    # maximum number of groups in the head's GroupNorm; null = 32, of 2 channels at least
    groups: int | None = None
    threshold: float = 0.05  # minimum score of a box
    overlap: float = 0.5  # IoU threshold of non-maximum suppression
    most: int = 100  # maximum number of boxes per image
    augment: bool = True  # train on augmented views of images and boxes
    # fields of the group `augment`: how far a view may differ from the image
    views: dict = field(default_factory=lambda: {})

    def __post_init__(self):
        require(self.model in detectors.MODELS, "model", self.model, " or ".join(detectors.MODELS))
        ok = (
            bool(self.strides)
            and min(self.strides) > 0
            and sorted({*self.strides}) == list(self.strides)
        )
        require(ok, "strides", self.strides, "numbers of pixels above 0, finest first")
        require(self.width > 0, "width", self.width, "above 0")
        require(self.groups is None or self.groups > 0, "groups", self.groups, "above 0, or null")
        require(self.convs >= 0, "convs", self.convs, "0 or more")
        require(0 < self.threshold < 1, "threshold", self.threshold, "between 0 and 1")
        require(0 < self.overlap <= 1, "overlap", self.overlap, "above 0, to 1")
        require(self.most > 0, "most", self.most, "above 0")
        # unused fields must not distinguish two requests
        self.views = self.views if self.augment else {}
        self.how = AugmentConfig.of(self.views)

    def alters(self):
        return self.augment

    def networks(self, encoder, spec):
        pyramid = detectors.Pyramid(encoder, spec.image, self.strides, self.width)
        limits = {
            "score_thresh": self.threshold,
            "nms_thresh": self.overlap,
            "detections_per_img": self.most,
        }
        net = detectors.detector(
            self.model, pyramid, spec.image, len(spec.classes), self.convs, self.groups, limits
        )
        return nn.ModuleDict({"encoder": encoder, "detector": net})

    def drawn(self):
        return 3  # images, boxes, labels

    def draw(self, batch, rng, progress):
        labelled = batch["labelled"]
        x_BCHW, boxes_BM4 = labelled["x"], labelled["boxes"]
        labels_BM = labelled["labels"].masked_fill(labelled["crowd"] > 0, 0)
        if self.augment:
            return view_with_boxes(x_BCHW, boxes_BM4, labels_BM, self.how, rng)
        return x_BCHW, boxes_BM4, labels_BM

    def loss(self, nets, x_BCHW, boxes_BM4, labels_BM):
        parts = detectors.losses(nets["detector"], nets["encoder"], x_BCHW, boxes_BM4, labels_BM)
        return torch.stack([*parts.values()]).sum(), parts

    def predict(self, nets, x_BCHW):
        """-> boxes [B, most, 6]: x0 y0 x1 y1, score, label; best first, label 0 = none"""
        return detectors.detect(nets["detector"], nets["encoder"], x_BCHW)

    def metrics(self, spec):
        return nn.ModuleDict({"map": detectors.precision(spec.classes)})

    def compared(self, predictions, batch):
        boxes = [f[f[:, 5] > 0] for f in predictions]
        true = zip(batch["boxes"], batch["labels"], batch["crowd"], strict=True)
        return (
            [{"boxes": f[:, :4], "scores": f[:, 4], "labels": f[:, 5].long()} for f in boxes],
            [{"boxes": b[l > 0], "labels": l[l > 0], "iscrowd": c[l > 0]} for b, l, c in true],
        )

    def record(self, predictions, batch):
        return {"found": predictions}

    def show(self, predictions, batch, spec):
        scored = [f[(f[:, 5] > 0) & (f[:, 4] >= detectors.SURE)] for f in predictions]
        true = [
            torch.cat([b, l[:, None] * 0 + 1, l[:, None]], 1)[l > 0]
            for b, l in zip(batch["boxes"], batch["labels"], strict=True)
        ]
        return {
            "truth": detectors.pictures(batch["x"], true),
            "predicted": detectors.pictures(batch["x"], scored),
        }
