"""Boxes as exported by labelling tools. The format is recognised by the files below root:

    COCO JSON (COCO, Roboflow, CVAT, Label Studio), Pascal VOC XML (LabelImg, Roboflow, CVAT),
    YOLO texts (Ultralytics, Roboflow, CVAT, Label Studio, LabelImg), CVAT for images,
    Label Studio JSON, VIA, LabelMe

Polygons, circles and rotated boxes become the upright boxes around them. Splits named train, val
(or valid) and test are recognised as folders, by a word in the names of files, from data.yaml or
from lists of images. The test split is test, or else val, or else folds of all images.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from sft_exp.data.corpus import Corpus
from sft_exp.data.exports import recognised
from sft_exp.data.exports.annotated import Settings, Tree
from sft_exp.data.readers import boxed
from sft_exp.data.readers.boxed import path_of
from sft_exp.data.readers.files import require_folder
from sft_exp.errors import require


@dataclass
class Boxes(boxed.BoxSet):
    unhashed: ClassVar[tuple[str, ...]] = ("root", "images", "most_pixels", "memory", "workers")

    root: str | None = None  # folder of the export
    # coco, voc, yolo, cvat, label_studio, via, labelme; null = recognised by the files
    format: str | None = None
    images: str | None = None  # folder of the images, where it is not below root
    # class names in the order of their labels; [] = the export's list, or those in train, sorted
    classes: list[str] = field(default_factory=lambda: [])
    attribute: str | None = None  # VIA: the region attribute that is the class; null = the only one
    first: int = 1  # VOC: number of the first pixel, 1 or 0
    # canvas in pixels for letterboxed images: one number for a square, or [rows, columns]
    size: Any = 320
    channels: int = 3  # 3 = colour, 1 = grey
    # boxes without area or outside of the image: refuse, or drop = leave them out with a warning
    boxes: str = "refuse"
    # most pixels of a file that is decoded; null = Pillow's limit against decompression bombs
    most_pixels: int | None = None
    memory: float = 4.0  # GB of images kept as one tensor; a larger set is decoded per batch
    workers: int = 2  # worker processes that decode images

    def __post_init__(self):
        super().__post_init__()
        valid = ", ".join(recognised.FORMATS)
        ok = self.format is None or self.format in recognised.FORMATS
        require(ok, "format", self.format, f"{valid}, or null")
        require(self.first in (0, 1), "first", self.first, "0 or 1")

    def load(self) -> Corpus:
        root = path_of(self.root, f"These formats are read:{recognised.layouts()}")
        images = Path(self.images).expanduser() if self.images else None
        if images:
            require_folder(images, "dataset.images")
        settings = Settings(self.first, self.attribute)
        name, export = recognised.read(Tree(root, images), self.format, settings)
        train, test = recognised.parts(export.images)
        train_images = [image.to_input(root) for image in train]
        test_images = [image.to_input(root) for image in test] if test else None
        classes = tuple(self.classes or export.classes or boxed.labels(train_images))
        key = "dataset.classes" if self.classes else ""
        boxed.require_known_classes(classes, train_images + (test_images or []), key)
        return boxed.corpus(
            self,
            root.resolve().name,
            classes,
            train_images,
            test_images,
            export.notes,
            f"read as {name}",
        )
