"""torchvision's detectors on the maps of any encoder, for images of one size and padded boxes.

    maps -> pyramid (Lin et al., arXiv:1612.03144)
         -> FCOS (Tian et al., arXiv:1904.01355) or RetinaNet (Lin et al., arXiv:1708.02002)

torchvision's own forward takes lists of images of different sizes and resizes them. Here all images
have one size and boxes are padded to [B, M, 4], so its parts are called one by one: head, anchors,
loss and postprocessing.
"""

from collections import OrderedDict
from collections.abc import Iterable
from functools import partial
from importlib.util import find_spec
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection import FCOS, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.fcos import FCOSClassificationHead, FCOSHead, FCOSRegressionHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.ops import FeaturePyramidNetwork
from torchvision.utils import draw_bounding_boxes

from sft_exp.errors import ConfigError
from sft_exp.models.feature_extractor import FeatureExtractor
from sft_exp.models.layers import group_norm

MODELS = ("fcos", "retinanet")
SURE = 0.3  # minimum score of a box that is drawn
COLOURS = (
    "#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6", "#a96b59", "#e76300", "#b9ac70",
    "#717581", "#92dadd",
)  # fmt: skip
# sizes of RetinaNet's anchors in units of 4 strides (its section 4)
OCTAVES = [2 ** (n / 3) for n in range(3)]


class Pyramid(nn.Module):
    """A feature pyramid: one map [B, width, H / stride, W / stride] for each stride.

    Each is made from the deepest of the encoder's maps that are at least as fine, or else from the
    finest map.
    """

    def __init__(
        self,
        encoder: FeatureExtractor,
        image: tuple[int, int, int],
        strides: Iterable[int],
        width: int,
    ):
        super().__init__()
        shapes = encoder.shapes
        self.sizes = [(-(-image[1] // s), -(-image[2] // s)) for s in strides]
        fine = [
            [n for n, s in shapes.items() if s[1] >= size[0] and s[2] >= size[1]]
            for size in self.sizes
        ]
        self.names = [
            names[-1] if names else max(shapes, key=lambda n: shapes[n][1]) for names in fine
        ]
        self.fpn = FeaturePyramidNetwork([shapes[n][0] for n in self.names], width)
        self.out_channels = width

    def forward(self, maps: dict[str, Tensor]) -> list[Tensor]:
        resized = [
            self._resized(maps[n], size) for n, size in zip(self.names, self.sizes, strict=True)
        ]
        return list(self.fpn(OrderedDict((str(n), m) for n, m in enumerate(resized))).values())

    @staticmethod
    def _resized(m_BCHW: Tensor, size: tuple[int, int]) -> Tensor:
        if m_BCHW.shape[2] >= size[0] and m_BCHW.shape[3] >= size[1]:
            return F.adaptive_max_pool2d(m_BCHW, size) if m_BCHW.shape[2:] != size else m_BCHW
        return F.interpolate(m_BCHW, size, mode="bilinear")


def detector(
    model: str,
    pyramid: Pyramid,
    image: tuple[int, int, int],
    classes: int,
    convs: int,
    groups: int | None,
    limits: dict[str, Any],
) -> FCOS | RetinaNet:
    """torchvision's model on the pyramid, with labels from 1 to `classes`.

    `groups` are the most of a GroupNorm; `limits` are torchvision's options of postprocessing, such as score_thresh.
    """
    sides = [image[1] // size[0] for size in pyramid.sizes]
    width, norm = pyramid.out_channels, partial(group_norm, groups)
    if model == "retinanet":
        anchors = AnchorGenerator(
            [[round(4 * s * o) for o in OCTAVES] for s in sides], [[0.5, 1.0, 2.0]] * len(sides)
        )
        head = RetinaNetHead(width, anchors.num_anchors_per_location()[0], classes + 1, norm)
        return RetinaNet(pyramid, classes + 1, anchor_generator=anchors, head=head, **limits)
    # one anchor per point, a square centred on it
    anchors = AnchorGenerator([[s] for s in sides], [[1.0]] * len(sides))
    towers = FCOSHead(width, 1, classes + 1, 0)
    towers.classification_head = FCOSClassificationHead(
        width, 1, classes + 1, convs, norm_layer=norm
    )
    towers.regression_head = FCOSRegressionHead(width, 1, convs, norm_layer=norm)
    return FCOS(pyramid, classes + 1, anchor_generator=anchors, head=towers, **limits)


def head_outputs(
    net: FCOS | RetinaNet, encoder: FeatureExtractor, x_BCHW: Tensor
) -> tuple[dict[str, Tensor], list[Tensor], list[int]]:
    """-> (the head's outputs, anchors of each image, number of anchors on each level)"""
    levels = net.backbone(dict(encoder.maps(x_BCHW)))
    images = ImageList(x_BCHW, [tuple(x_BCHW.shape[2:])] * len(x_BCHW))
    anchors = net.anchor_generator(images, levels)
    outputs = net.head(levels)
    points = [m.shape[2] * m.shape[3] for m in levels]
    anchors_per_point = outputs["cls_logits"].shape[1] // sum(points)
    return outputs, anchors, [n * anchors_per_point for n in points]


def losses(
    net: FCOS | RetinaNet,
    encoder: FeatureExtractor,
    x_BCHW: Tensor,
    boxes_BM4: Tensor,
    labels_BM: Tensor,
) -> dict[str, Tensor]:
    """torchvision's loss terms by name, each a scalar."""
    outputs, anchors, counts = head_outputs(net, encoder, x_BCHW)
    targets = [
        {"boxes": b[l > 0], "labels": l[l > 0]} for b, l in zip(boxes_BM4, labels_BM, strict=True)
    ]
    if isinstance(net, FCOS):
        return net.compute_loss(targets, outputs, anchors, counts)
    return net.compute_loss(targets, outputs, anchors)


def detect(net: FCOS | RetinaNet, encoder: FeatureExtractor, x_BCHW: Tensor) -> Tensor:
    """Boxes [B, M, 6]: x0 y0 x1 y1, score, label, best first; label 0 is no box.

    M is the model's detections_per_img.
    """
    outputs, anchors, counts = head_outputs(net, encoder, x_BCHW)
    by_level = {k: list(v.split(counts, dim=1)) for k, v in outputs.items()}
    sizes = [tuple(x_BCHW.shape[2:])] * len(x_BCHW)
    detections = net.postprocess_detections(
        by_level, [list(a.split(counts)) for a in anchors], sizes
    )
    boxes = [
        torch.cat([d["boxes"], d["scores"][:, None], d["labels"][:, None].to(x_BCHW)], 1)
        for d in detections
    ]
    return torch.stack(
        [F.pad(boxes_M6, (0, 0, 0, net.detections_per_img - len(boxes_M6))) for boxes_M6 in boxes]
    )


BACKENDS: tuple[Literal["faster_coco_eval", "pycocotools"], ...] = (
    "faster_coco_eval",  # the faster one
    "pycocotools",
)


def precision(classes: tuple[str, ...]) -> nn.Module:
    """COCO's average precision by torchmetrics, and faster-coco-eval if it is installed, else
    pycocotools; both give the same numbers. ConfigError without either.

    It computes a dict of map, map_50, map_75, and map/<class> and map_50/<class> for each class
    that occurs.
    """
    backend = next((name for name in BACKENDS if find_spec(name)), None)
    if backend is None:
        raise ConfigError(
            "task",
            "detect",
            'needs further packages for its metrics: pip install "sft_exp[detection]"',
        )
    from torchmetrics.detection import MeanAveragePrecision

    class Precision(MeanAveragePrecision):
        def compute(self) -> dict[str, Tensor]:
            results = super().compute()
            scores = {name: results[name] for name in ("map", "map_50", "map_75")}
            for k, label in enumerate(results["classes"].flatten().tolist()):
                # IoU thresholds x recalls, all areas, most boxes; -1: the class has no box
                precision_TR = results["precision"][:, :, k, 0, -1]
                if precision_TR.max() >= 0:
                    scores |= {
                        f"map/{classes[label - 1]}": precision_TR.mean(),
                        f"map_50/{classes[label - 1]}": precision_TR[0].mean(),
                    }
            return scores

    metric = Precision(backend=backend, extended_summary=True)
    metric.warn_on_many_detections = False  # by COCO's rule only the best 100 count
    return metric


def pictures(x_BCHW: Tensor, boxes: list[Tensor], names: tuple[str, ...] = ()) -> Tensor:
    """Images [B, C, H, W] in [0, 1] with their boxes [M, 6] drawn -> [B, 3, H, W] in [0, 1].

    Each label has a colour; with `names` the class and the score are written too.
    """
    drawn = []
    for x_CHW, boxes_M6 in zip(x_BCHW.cpu(), boxes, strict=True):
        picture = (x_CHW.expand(3, -1, -1) * 255).round().to(torch.uint8)
        colours = [COLOURS[(int(label) - 1) % len(COLOURS)] for label in boxes_M6[:, 5].tolist()]
        captions = (
            [f"{names[int(label) - 1]} {score:.2f}" for score, label in boxes_M6[:, 4:].tolist()]
            if names
            else None
        )
        if colours:
            picture = draw_bounding_boxes(
                picture, boxes_M6[:, :4].cpu(), captions, colours, width=2
            )
        drawn.append(picture)
    return torch.stack(drawn).float() / 255
