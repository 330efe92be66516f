"""Boxes in Pascal VOC's layout (Everingham et al., IJCV 2010), which many tools write:

    root/Annotations/<name>.xml       one <object> per box, with name, bndbox and maybe difficult
    root/JPEGImages/<name>.jpg
    root/ImageSets/Main/<split>.txt   one name per line; or in ImageSets itself

Without ImageSets, as LabelImg and Roboflow write it, all XMLs below root are read, beside their
images or not, and folders named train, val (or valid) and test are the splits.

root may also be the VOCdevkit around VOC<year>, or the folder around that. VOC counts pixels from 1
and a box includes its last pixels: with `first=1`, (1, 1, 1, 1) is the box of the first pixel. For
tools that write edges instead, set `first=0`. Difficult objects are neither trained on nor counted.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sft_exp.data.corpus import Corpus
from sft_exp.data.exports import recognised
from sft_exp.data.exports import voc as exports_voc
from sft_exp.data.exports.annotated import Settings, Tree
from sft_exp.data.readers import boxed, findings, voc
from sft_exp.data.readers.boxed import ImageWithBoxes, path_of, refuse
from sft_exp.data.readers.files import is_image, visible
from sft_exp.errors import require

LAYOUT = (
    "Expected is root/Annotations/<name>.xml, root/JPEGImages/<name>.jpg "
    "and root/ImageSets/Main/train.txt, one name per line"
)


@dataclass
class VocDetection(boxed.BoxSet):
    root: str | None = None  # folder of the data set
    year: str | None = None  # which VOC<year>, where root holds several
    train: str = "train"  # list in ImageSets/Main, or ImageSets, of the training images
    test: str | None = "val"  # list of the test images; null = folds of the training images
    # class names in the order of their labels; [] = those in train, sorted
    classes: list[str] = field(default_factory=lambda: [])
    # number of the first pixel: 1 = boxes include their last pixel (VOC); 0 = they end before it
    first: int = 1
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
        require(self.first in (0, 1), "first", self.first, "0 or 1")

    def load(self) -> Corpus:
        needs = ("Annotations", "JPEGImages", "ImageSets")
        folder = path_of(self.root, LAYOUT)
        tree = Tree(folder)
        if not voc.has_lists(folder) and (found := exports_voc.files(tree)):
            return self.without_lists(tree, found)
        root = voc.home(folder, self.year, needs, LAYOUT)
        train = self.part(root, self.train)
        test = self.part(root, self.test) if self.test else None
        annotated = [p.stem for p in (root / "Annotations").glob("*.xml") if visible(p.name)]
        notes = voc.unlisted(root, "Main", annotated)
        name = root.parent.parent.name if root.parent.name == "VOCdevkit" else root.name
        return self.corpus(name, train, test, notes)

    def without_lists(self, tree: Tree, found: list[Path]) -> Corpus:
        """Read XMLs without ImageSets, as labelling tools write them; the splits are folders."""
        export = exports_voc.read(tree, found, Settings(self.first))
        recognised.refuse_annotated_twice(export.images)
        train, test = recognised.parts(export.images)
        notes = list(export.notes)
        if test and not self.test:
            notes.append(f"{len(test):,} images of the test part are left out: dataset.test=null")
            test = None
        name = tree.root.resolve().name
        parts = [[i.to_input(tree.root) for i in part or []] for part in (train, test)]
        return self.corpus(name, parts[0], parts[1] or None, notes, "read without ImageSets")

    def corpus(
        self,
        name: str,
        train: list[ImageWithBoxes],
        test: list[ImageWithBoxes] | None,
        notes: Sequence[str] = (),
        how: str = "",
    ) -> Corpus:
        classes = tuple(self.classes or boxed.labels(train))
        boxed.require_known_classes(
            classes, train + (test or []), "dataset.classes" if self.classes else ""
        )
        return boxed.corpus(self, name, classes, train, test, notes, how)

    def part(self, root: Path, split: str) -> list[ImageWithBoxes]:
        """The images of a list in ImageSets with their boxes. DataError for missing images."""
        file = voc.list_of(root, "Main", split)
        names = voc.names_in(file, f". {LAYOUT}")
        folder, listed = root / "JPEGImages", set(names)
        paths = (p for p in sorted(folder.iterdir()) if is_image(p.name) and p.stem in listed)
        images = findings.by_stem(paths, folder)
        missing = [f"{file}: {n} is not in {folder}" for n in names if n not in images]
        refuse(missing, "images are missing")
        return [
            exports_voc.image_with_boxes(root / "Annotations" / f"{n}.xml", images[n], self.first)
            for n in names
        ]
