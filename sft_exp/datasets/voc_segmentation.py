"""Masks in Pascal VOC's layout (Everingham et al., IJCV 2010): VOCdevkit/VOC<year>/{JPEGImages, SegmentationClass, ImageSets}.

root may be VOC<year>, the VOCdevkit around it, or the folder around that. A mask is a PNG whose pixel values are classes, 255
where nothing is annotated (VOC's outlines).
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sft_exp.data.readers import masks, voc
from sft_exp.data.readers.files import names_in
from sft_exp.data.readers.masks import Codes, Pair
from sft_exp.errors import DataError, require

LAYOUT = "Expected is VOC<year> with JPEGImages, SegmentationClass and ImageSets/Segmentation/train.txt, a name a line"
VOC = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip


@dataclass
class VocSegmentation(masks.MaskSet):
    root: str | None = None  # folder of the data set
    year: str | None = None  # which VOC<year>, where root holds several
    train: str = "train"  # list in ImageSets/Segmentation whose images are learnt from
    test: str | None = "val"  # and tested on; null = folds of the others take turns
    # list in ImageSets/Main whose images, but for those, are pretrained on, too
    extra: str | None = None
    # names of the values 0, 1, ...; none = VOC's 21
    classes: list[str] = field(default_factory=lambda: [])
    size: Any = 256  # pixels, or [rows, columns], of all images
    channels: int = 3  # 3 = colour, 1 = grey
    fit: str = "crop"  # how an image becomes that size: crop (its middle), stretch, letterbox
    # of an image that is decoded; null = Pillow's limit against decompression bombs
    most_pixels: int | None = None
    memory: float = 4.0  # GB of images and masks held; a larger set is decoded as it is used
    workers: int = 2  # processes that decode it

    def __post_init__(self):
        super().__post_init__()
        ok = isinstance(self.classes, list) and len(self.classes) != 1
        require(
            ok,
            "classes",
            self.classes,
            "two names or more, the first of value 0; or none for VOC's",
        )

    def load(self):
        root = self.folder("VOC<year>, the VOCdevkit around it, or the folder around that")
        top = voc.home(
            root, self.year, ("SegmentationClass", "JPEGImages", "ImageSets/Segmentation"), LAYOUT
        )
        pairs = self.listed(top, "Segmentation", self.train, "train")
        pairs += self.listed(top, "Segmentation", self.test, "test") if self.test else []
        taken = {p.id for p in pairs}
        if len(taken) < len(pairs):
            raise DataError(f"{top}: an image is both in {self.train}.txt and in {self.test}.txt")
        pairs += (
            [p for p in self.listed(top, "Main", self.extra, "pool") if p.id not in taken]
            if self.extra
            else []
        )
        classes = tuple(self.classes or VOC)
        codes = Codes.plain(len(classes), masks.IGNORE)
        return masks.corpus(self, top.name, classes, pairs, codes)

    def listed(self, top: Path, kind: str, name: str, split: str) -> list[Pair]:
        names = names_in(
            top / "ImageSets" / kind / f"{name}.txt", f"; it lists the images of {split}"
        )
        mask = (
            (lambda n: None)
            if split == "pool"
            else (lambda n: top / "SegmentationClass" / f"{n}.png")
        )
        return [Pair(n, split, top / "JPEGImages" / f"{n}.jpg", mask(n)) for n in names]
