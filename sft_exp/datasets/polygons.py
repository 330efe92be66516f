"""Masks drawn from the polygons of a labelling tool's export, recognised by its files below root:

    COCO JSON (COCO, Roboflow, CVAT, Label Studio), YOLO texts with polygons, CVAT for images,
    Label Studio JSON, VIA, LabelMe

A pixel has the class of the last shape that covers it (CVAT: by z_order), or `background`. Boxes
and ellipses are filled too; crowds are without annotation. Shapes without an outline (run-length
masks, brushes) are refused. Splits are those of dataset=boxes.
"""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from sft_exp.data.exports import recognised
from sft_exp.data.exports.annotated import AnnotatedImage, Settings, Tree
from sft_exp.data.exports.drawn import Drawn
from sft_exp.data.readers import boxed, masks
from sft_exp.data.readers.files import require_folder
from sft_exp.data.readers.masks import IGNORE, Codes, Pair
from sft_exp.errors import DataError, listing, require

FORMATS = [name for name in recognised.FORMATS if name != "voc"]  # which has no polygons
LARGE = (1000, 1000)  # stands for a size that the annotations do not state


@dataclass
class Polygons(masks.MaskSet):
    unhashed: ClassVar[tuple[str, ...]] = ("root", "images", "most_pixels", "memory", "workers")

    root: str | None = None  # folder of the export
    # coco, cvat, label_studio, via, labelme; null = recognised by the files
    format: str | None = None
    images: str | None = None  # folder of the images, where it is not below root
    # names of the polygons' classes in order; [] = the export's list, or those in train, sorted
    classes: list[str] = field(default_factory=lambda: [])
    background: str = "background"  # class 0, of pixels that no polygon covers
    attribute: str | None = None  # VIA: the region attribute that is the class; null = the only one
    # a regular expression for file names, whose one group names images that stay in one split
    group: str | None = None
    size: Any = 256  # pixels, or [rows, columns], of all images
    channels: int = 3  # 3 = colour, 1 = grey
    fit: str = "crop"  # how images are fitted to that size: crop (centre), stretch, letterbox
    # most pixels of a file that is decoded; null = Pillow's limit against decompression bombs
    most_pixels: int | None = None
    memory: float = 4.0  # GB of images and masks kept in memory; a larger set is decoded per batch
    workers: int = 2  # worker processes that decode images

    def __post_init__(self):
        super().__post_init__()
        ok = self.format is None or self.format in FORMATS
        require(ok, "format", self.format, f"{', '.join(FORMATS)}, or null")
        masks.require_group(self.group)

    def load(self):
        layouts = listing([f"{name}: {recognised.FORMATS[name].NAME}" for name in FORMATS])
        root = boxed.path_of(self.root, f"Polygons of these exports are read:{layouts}")
        images = Path(self.images).expanduser() if self.images else None
        if images:
            require_folder(images, "dataset.images")
        name, export = recognised.read(
            Tree(root, images), self.format, Settings(attribute=self.attribute)
        )
        bare = [
            f"{image.source}, {box.name}: {box.label}"
            for image in export.images
            for box in image.boxes
            if not (box.outlines or box.crowd)
        ]
        if bare:
            remedy = "Export them as polygons, or masks as files for dataset=mask_folder"
            raise DataError(
                f"{len(bare)} shapes of {name} have no polygon:{listing(bare)}\n{remedy}"
            )
        train, test = recognised.parts(export.images)
        found = boxed.labels([image.to_input(root) for image in train])
        shapes = tuple(self.classes or export.classes or found)
        everything = [image.to_input(root) for image in (*train, *(test or []))]
        boxed.require_known_classes(shapes, everything, "dataset.classes" if self.classes else "")
        boxed.refuse_other_units(everything, [image.size or LARGE for image in everything], 0)
        names = tuple(c for c in (self.background, *shapes))
        require(
            len(set(names)) == len(names), "background", self.background, "no class of a polygon"
        )
        require(1 < len(names) <= IGNORE, "classes", list(shapes), "one to 254 names")
        numbers = {label: n for n, label in enumerate(names)}
        pairs = [
            self.pair(root, image, split, numbers)
            for split, part in (("train", train), ("test", test or []))
            for image in part
        ]
        codes = Codes.plain(len(names), IGNORE)
        return masks.corpus(self, root.resolve().name, names, pairs, codes, notes=export.notes)

    def pair(self, root: Path, image: AnnotatedImage, split: str, numbers: dict[str, int]) -> Pair:
        name = Path(os.path.relpath(image.path, root)).as_posix()
        filled = tuple(
            (IGNORE if box.crowd else numbers[box.label], outline)
            for box in image.boxes
            for outline in box.outlines
        )
        return Pair(
            name,
            split,
            image.path,
            Drawn(image, filled, self.most_pixels),
            group=masks.group_in(name, self.group),
        )
