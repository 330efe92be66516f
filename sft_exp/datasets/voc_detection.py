"""Pascal VOC's layout (Everingham et al., IJCV 2010), in which many tools write boxes:

    root/Annotations/<name>.xml       one <object> a box, with name, bndbox, and perhaps difficult
    root/JPEGImages/<name>.jpg
    root/ImageSets/Main/<split>.txt   a name a line

root may also be the VOCdevkit around VOC<year>, or the folder around that. VOC counts pixels from 1 and a box's last ones
belong to it: `first=1` makes (1, 1, 1, 1) the box of the first pixel. Tools that write edges instead want `first=0`. Difficult
objects are neither learnt nor counted.
"""

import xml.etree.ElementTree as ET
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sft_exp.data.corpus import Corpus
from sft_exp.data.readers import boxed, findings, voc
from sft_exp.data.readers.boxed import Box, Marked, path_of, refuse
from sft_exp.data.readers.files import File, is_image, names_in
from sft_exp.errors import DataError, require

LAYOUT = "Expected is root/Annotations/<name>.xml, root/JPEGImages/<name>.jpg and root/ImageSets/Main/train.txt, a name a line"
CORNERS = ("xmin", "ymin", "xmax", "ymax")


@dataclass
class VocDetection(boxed.BoxSet):
    root: str | None = None  # folder of the data set
    year: str | None = None  # which VOC<year>, where root holds several
    train: str = "train"  # a list of ImageSets/Main
    test: str | None = "val"  # another one; null = folds of the training images serve as test
    classes: list[str] = field(
        default_factory=lambda: []
    )  # names in the order of their labels; [] = those in train, sorted
    first: int = 1  # number of the first pixel: 1, and boxes include their last one, as VOC does; or 0, and boxes end before it
    size: Any = 320  # canvas in pixels, on which images are fitted whole: one number for a square, or [rows, columns]
    channels: int = 3  # 3 = colour, 1 = grey
    boxes: str = "refuse"  # boxes without area or outside of the image: refuse, or drop = leave them out and name them
    most_pixels: int | None = (
        None  # of an image that is decoded; null = Pillow's limit against decompression bombs
    )
    memory: float = 4.0  # GB of images held as one tensor; a larger set is decoded as it is used
    workers: int = 2  # processes that decode it

    def __post_init__(self):
        super().__post_init__()
        require(self.first in (0, 1), "first", self.first, "0 or 1")

    def load(self) -> Corpus:
        needs = ("Annotations", "JPEGImages", "ImageSets/Main")
        root = voc.home(path_of(self.root, LAYOUT), self.year, needs, LAYOUT)
        train = self.part(root, self.train)
        test = self.part(root, self.test) if self.test else None
        classes = tuple(self.classes or sorted({b.label for m in train for b in m.boxes}))
        unknown = [
            f"{m.told}: {b.label!r}"
            for m in train + (test or [])
            for b in m.boxes
            if b.label not in classes
        ]
        valid = (
            "dataset.classes"
            if self.classes
            else f"the training images, which have {', '.join(classes) or 'none'}"
        )
        refuse(unknown, f"boxes are of a class that is not in {valid}")
        name = root.parent.parent.name if root.parent.name == "VOCdevkit" else root.name
        return boxed.corpus(self, name, classes, train, test)

    def part(self, root: Path, split: str) -> list[Marked]:
        listed = root / "ImageSets" / "Main" / f"{split}.txt"
        names = names_in(listed, f". {LAYOUT}")
        folder, listed_names = root / "JPEGImages", set(names)
        images = findings.by_stem(
            (p for p in sorted(folder.iterdir()) if is_image(p.name) and p.stem in listed_names),
            folder,
        )
        refuse(
            [f"{listed}: {n} is not in {root / 'JPEGImages'}" for n in names if n not in images],
            "images are missing",
        )
        return [self.marked(root / "Annotations" / f"{n}.xml", images[n]) for n in names]

    def marked(self, file: Path, image: Path) -> Marked:
        """DataError names the file and what is wrong in it."""
        try:
            tree = ET.parse(file).getroot()  # noqa: S314 (entities do not grow: expat limits them since 2.4.1)
        except OSError as error:
            raise DataError(
                f"{file}: {error.strerror}; an image without boxes has one without objects"
            ) from error
        except ET.ParseError as error:
            raise DataError(f"{file}: no XML ({error})") from error
        boxes = []
        for n, thing in enumerate(tree.iter("object"), start=1):
            label, found = (
                findings.class_name(thing.findtext("name", "").strip()),
                [thing.findtext(f"bndbox/{c}", "") for c in CORNERS],
            )
            try:
                x0, y0, x1, y1 = map(float, found)
            except ValueError as error:
                raise DataError(
                    f"{file}: object {n} ({label}) has bndbox {', '.join(found)}, and not four numbers"
                ) from error
            if not label:
                raise DataError(f"{file}: object {n} has no name")
            difficult = thing.findtext("difficult", "0").strip() == "1"
            boxes.append(
                Box(label, (x0 - self.first, y0 - self.first, x1, y1), difficult, f"object {n}")
            )
        sides = [tree.findtext(f"size/{side}", "") for side in ("width", "height")]
        size = (
            (int(sides[0]), int(sides[1])) if all(s.isdecimal() and int(s) for s in sides) else None
        )
        return Marked(File(image.stem, image), boxes, size, str(file))
