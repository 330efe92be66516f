"""torchvision's detectors on maps of any of our encoders, for images of one size, with boxes padded to [B, M, 4].

    maps -> pyramid (Lin et al., arXiv:1612.03144)
         -> FCOS (Tian et al., arXiv:1904.01355) or RetinaNet (Lin et al., arXiv:1708.02002)

torchvision's own forward takes lists of images of different sizes and resizes them; here they lie on one canvas already, so its
parts are called one by one: head, anchors, loss, and what makes boxes of scores.
"""

from collections import OrderedDict
from collections.abc import Iterable
from importlib.util import find_spec
from typing import Any

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

MODELS = ("fcos", "retinanet")
SURE = 0.3  # least score of a box that is drawn
COLOURS = (
    "#3f90da",
    "#ffa90e",
    "#bd1f01",
    "#94a4a2",
    "#832db6",
    "#a96b59",
    "#e76300",
    "#b9ac70",
    "#717581",
    "#92dadd",
)
GROUPS = 16  # of the heads' GroupNorm, at most
# sizes of RetinaNet's anchors, in 4 strides (its section 4)
OCTAVES = [2 ** (n / 3) for n in range(3)]


class Pyramid(nn.Module):
    """One map for each stride [B, width, H / stride, W / stride], made of the deepest of the encoder's maps that are as fine, or
    if there are none, of the finest; each sees those above it."""

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
        found = [self._sized(maps[n], size) for n, size in zip(self.names, self.sizes, strict=True)]
        return list(self.fpn(OrderedDict((str(n), m) for n, m in enumerate(found))).values())

    @staticmethod
    def _sized(m_BCHW: Tensor, size: tuple[int, int]) -> Tensor:
        if m_BCHW.shape[2] >= size[0] and m_BCHW.shape[3] >= size[1]:
            return F.adaptive_max_pool2d(m_BCHW, size) if m_BCHW.shape[2:] != size else m_BCHW
        return F.interpolate(m_BCHW, size, mode="bilinear")


def detector(
    model: str,
    pyramid: Pyramid,
    image: tuple[int, int, int],
    classes: int,
    convs: int,
    limits: dict[str, Any],
) -> FCOS | RetinaNet:
    """torchvision's model on the pyramid; labels 1 to `classes` are those of boxes. `limits`: its score_thresh and so on."""
    sides = [image[1] // size[0] for size in pyramid.sizes]
    width = pyramid.out_channels
    if model == "retinanet":
        anchors = AnchorGenerator(
            [[round(4 * s * o) for o in OCTAVES] for s in sides], [[0.5, 1.0, 2.0]] * len(sides)
        )
        head = RetinaNetHead(width, anchors.num_anchors_per_location()[0], classes + 1, norm)
        return RetinaNet(pyramid, classes + 1, anchor_generator=anchors, head=head, **limits)
    # a point: its square's middle
    anchors = AnchorGenerator([[s] for s in sides], [[1.0]] * len(sides))
    towers = FCOSHead(width, 1, classes + 1, 0)
    towers.classification_head = FCOSClassificationHead(
        width, 1, classes + 1, convs, norm_layer=norm
    )
    towers.regression_head = FCOSRegressionHead(width, 1, convs, norm_layer=norm)
    return FCOS(pyramid, classes + 1, anchor_generator=anchors, head=towers, **limits)


def norm(width: int) -> nn.Module:
    return nn.GroupNorm(max(g for g in range(1, GROUPS + 1) if width % g == 0), width)


def seen(
    net: FCOS | RetinaNet, encoder: FeatureExtractor, x_BCHW: Tensor
) -> tuple[dict[str, Tensor], list[Tensor], list[int]]:
    """(what the head says of each point, anchors of each image, points on each level)"""
    levels = net.backbone(dict(encoder.maps(x_BCHW)))
    images = ImageList(x_BCHW, [tuple(x_BCHW.shape[2:])] * len(x_BCHW))
    anchors = net.anchor_generator(images, levels)
    said = net.head(levels)
    points = [m.shape[2] * m.shape[3] for m in levels]
    each = said["cls_logits"].shape[1] // sum(points)  # anchors at a point
    return said, anchors, [n * each for n in points]


def losses(
    net: FCOS | RetinaNet,
    encoder: FeatureExtractor,
    x_BCHW: Tensor,
    boxes_BM4: Tensor,
    labels_BM: Tensor,
) -> dict[str, Tensor]:
    """torchvision's terms by name, each a scalar."""
    said, anchors, points = seen(net, encoder, x_BCHW)
    targets = [
        {"boxes": b[l > 0], "labels": l[l > 0]} for b, l in zip(boxes_BM4, labels_BM, strict=True)
    ]
    counted = (points,) if isinstance(net, FCOS) else ()
    return net.compute_loss(targets, said, anchors, *counted)


def found(net: FCOS | RetinaNet, encoder: FeatureExtractor, x_BCHW: Tensor) -> Tensor:
    """Boxes [B, M, 6]: x0 y0 x1 y1, score, label, best first; label 0 is no box. M = the model's detections_per_img."""
    said, anchors, points = seen(net, encoder, x_BCHW)
    split = {k: list(v.split(points, dim=1)) for k, v in said.items()}
    sizes = [tuple(x_BCHW.shape[2:])] * len(x_BCHW)
    each = net.postprocess_detections(split, [list(a.split(points)) for a in anchors], sizes)
    rows = [
        torch.cat([d["boxes"], d["scores"][:, None], d["labels"][:, None].to(x_BCHW)], 1)
        for d in each
    ]
    return torch.stack(
        [F.pad(row_M6, (0, 0, 0, net.detections_per_img - len(row_M6))) for row_M6 in rows]
    )


def precision(classes: tuple[str, ...]) -> nn.Module:
    """COCO's average precision as torchmetrics and pycocotools compute it: a dict of map, map_50, map_75, and for each class
    that occurs map/<class> and map_50/<class>. ConfigError without pycocotools."""
    if find_spec("pycocotools") is None:
        raise ConfigError(
            "task",
            "detect",
            'must be another one, or its metrics installed: pip install "sft_exp[detection]"',
        )
    from torchmetrics.detection import MeanAveragePrecision

    class Precision(MeanAveragePrecision):
        def compute(self) -> dict[str, Tensor]:
            given = super().compute()
            scores = {name: given[name] for name in ("map", "map_50", "map_75")}
            for k, label in enumerate(given["classes"].flatten().tolist()):
                # overlaps x recalls, all areas, most boxes; -1: the class has no box
                at_TR = given["precision"][:, :, k, 0, -1]
                if at_TR.max() >= 0:
                    scores |= {
                        f"map/{classes[label - 1]}": at_TR.mean(),
                        f"map_50/{classes[label - 1]}": at_TR[0].mean(),
                    }
            return scores

    metric = Precision(backend="pycocotools", extended_summary=True)
    metric.warn_on_many_detections = False  # that only the best 100 count is COCO's rule
    return metric


def pictures(x_BCHW: Tensor, boxes: list[Tensor], names: tuple[str, ...] = ()) -> Tensor:
    """Images [B, C, H, W] in [0, 1] as colour pictures with a frame for each box [M, 6], in a colour for each label; and with
    `names` its class and score."""
    found = []
    for x_CHW, f_M6 in zip(x_BCHW.cpu(), boxes, strict=True):
        picture = (x_CHW.expand(3, -1, -1) * 255).round().to(torch.uint8)
        colours = [COLOURS[(int(label) - 1) % len(COLOURS)] for label in f_M6[:, 5].tolist()]
        told = (
            [f"{names[int(label) - 1]} {score:.2f}" for score, label in f_M6[:, 4:].tolist()]
            if names
            else None
        )
        found.append(
            draw_bounding_boxes(picture, f_M6[:, :4].cpu(), told, colours, width=2)
            if colours
            else picture
        )
    return torch.stack(found).float() / 255
