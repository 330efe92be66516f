"""Masks in Pascal VOC's layout (Everingham et al., IJCV 2010).

    VOCdevkit/VOC<year>/{JPEGImages, SegmentationClass, ImageSets}

root may be VOC<year>, the VOCdevkit around it, or the folder around that. A mask is a PNG whose
pixel values are classes, or 255 where nothing is annotated (VOC's outlines). The lists are in
ImageSets/Segmentation, or in ImageSets itself.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sft_exp.data.readers import findings, masks, voc
from sft_exp.data.readers.files import is_image, visible
from sft_exp.data.readers.masks import Codes, Pair
from sft_exp.errors import DataError, require

LAYOUT = (
    "Expected is VOC<year> with JPEGImages, SegmentationClass "
    "and ImageSets/Segmentation/train.txt, one name per line"
)
VOC = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip


@dataclass
class VocSegmentation(masks.MaskSet):
    root: str | None = None  # folder of the data set
    year: str | None = None  # which VOC<year>, where root holds several
    train: str = "train"  # list in ImageSets/Segmentation, or ImageSets, of the training images
    test: str | None = "val"  # list of the test images; null = folds of the training images
    # list in ImageSets/Main of more images for pretraining; those of train and test are left out
    extra: str | None = None
    # class names of the values 0, 1, ...; [] = VOC's 21
    classes: list[str] = field(default_factory=lambda: [])
    size: Any = 256  # pixels, or [rows, columns], of all images
    channels: int = 3  # 3 = colour, 1 = grey
    fit: str = "crop"  # how an image is brought to that size: crop (centre), stretch, letterbox
    # most pixels of a file that is decoded; null = Pillow's limit against decompression bombs
    most_pixels: int | None = None
    memory: float = 4.0  # GB of images and masks kept in memory; a larger set is decoded per batch
    workers: int = 2  # worker processes that decode images

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
        needs = ("SegmentationClass", "JPEGImages", "ImageSets")
        top = voc.home(root, self.year, needs, LAYOUT)
        pairs = self.listed(top, "Segmentation", self.train, "train")
        pairs += self.listed(top, "Segmentation", self.test, "test") if self.test else []
        taken = {p.id for p in pairs}
        if len(taken) < len(pairs):
            raise DataError(f"{top}: an image is both in {self.train}.txt and in {self.test}.txt")
        if self.extra:
            pool = self.listed(top, "Main", self.extra, "pool")
            pairs += [p for p in pool if p.id not in taken]
        classes = tuple(self.classes or VOC)
        codes = Codes.plain(len(classes), masks.IGNORE)
        masked = [p.stem for p in (top / "SegmentationClass").glob("*.png") if visible(p.name)]
        notes = voc.unlisted(top, "Segmentation", {*masked} - {p.id for p in pairs})
        return masks.corpus(self, top.name, classes, pairs, codes, notes=notes)

    def listed(self, top: Path, kind: str, name: str, split: str) -> list[Pair]:
        """The images of a list with their masks; those of the pool have none."""
        file = voc.list_of(top, kind, name)
        names = voc.names_in(file, f"; it lists the images of {split}")
        folder, masks_at, listed = top / "JPEGImages", top / "SegmentationClass", {*names}
        paths = (p for p in sorted(folder.iterdir()) if is_image(p.name) and p.stem in listed)
        images = findings.by_stem(paths, folder)
        return [
            Pair(
                n,
                split,
                images.get(n, folder / f"{n}.jpg"),
                None if split == "pool" else masks_at / f"{n}.png",
            )
            for n in names
        ]
