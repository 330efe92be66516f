"""Boxes as labelling tools export them. The format is recognised by the content of the files below root:

    COCO JSON (COCO, Roboflow, CVAT, Label Studio), Pascal VOC XML (LabelImg, Roboflow, CVAT), YOLO texts (Ultralytics,
    Roboflow, CVAT, Label Studio, LabelImg), CVAT for images, Label Studio JSON, VIA, LabelMe

Polygons, circles and turned boxes become the upright boxes around them. Parts named train, val (or valid) and test are
understood as folders, in names of files or from data.yaml: test is tested on, or where there is none, val; without either,
folds of all images are.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from sft_exp.data.corpus import Corpus
from sft_exp.data.exports import recognised
from sft_exp.data.exports.annotated import Settings, Tree
from sft_exp.data.readers import boxed
from sft_exp.data.readers.boxed import path_of
from sft_exp.errors import DataError, require


@dataclass
class Boxes(boxed.BoxSet):
    unhashed: ClassVar[tuple[str, ...]] = ("root", "images", "most_pixels", "memory", "workers")

    root: str | None = None  # folder of the export
    # coco, voc, yolo, cvat, label_studio, via, labelme; null = told by the files
    format: str | None = None
    images: str | None = None  # folder of the images, where it is not below root
    # names in the order of their labels; [] = the export's own list, or those in train, sorted
    classes: list[str] = field(default_factory=lambda: [])
    attribute: str | None = None  # VIA: the region attribute that is the class; null = the only one
    first: int = 1  # VOC: number of the first pixel, 1 or 0
    # canvas in pixels, on which images are fitted whole: one number for a square, or [rows,
    # columns]
    size: Any = 320
    channels: int = 3  # 3 = colour, 1 = grey
    # boxes without area or outside of the image: refuse, or drop = leave them out and name them
    boxes: str = "refuse"
    # of an image that is decoded; null = Pillow's limit against decompression bombs
    most_pixels: int | None = None
    memory: float = 4.0  # GB of images held as one tensor; a larger set is decoded as it is used
    workers: int = 2  # processes that decode it

    def __post_init__(self):
        super().__post_init__()
        valid = ", ".join(recognised.FORMATS)
        ok = self.format is None or self.format in recognised.FORMATS
        require(ok, "format", self.format, f"{valid}, or null")
        require(self.first in (0, 1), "first", self.first, "0 or 1")

    def load(self) -> Corpus:
        root = path_of(self.root, f"These formats are read:{recognised.layouts()}")
        images = Path(self.images).expanduser() if self.images else None
        if images and not images.is_dir():
            raise DataError(f"dataset.images={images}: no such folder")
        settings = Settings(self.first, self.attribute)
        name, export = recognised.read(Tree(root, images), self.format, settings)
        train, test = recognised.parts(export.images)
        learnt = [image.marked(root) for image in train]
        tested = [image.marked(root) for image in test] if test else None
        classes = tuple(self.classes or export.classes or boxed.labels(learnt))
        boxed.must_know(classes, learnt + (tested or []), "dataset.classes" if self.classes else "")
        return boxed.corpus(
            self, root.resolve().name, classes, learnt, tested, export.notes, f"read as {name}"
        )
