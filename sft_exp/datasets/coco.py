"""COCO's annotations (Lin et al., arXiv:1405.0312; format: cocodataset.org), in the official layout or in any COCO json:

    root/annotations/instances_train2017.json     images, annotations with bbox = [x, y, width, height], categories
    root/train2017/000000000139.jpg               images: in the folder named like the json's ending, in dataset.images, in
                                                  root/images, in root, or beside the json, wherever file_name is found

Category ids may have gaps: a label is the position of its category among those of the training json, in the order of their ids,
and the test json's categories are matched by name. A box that is missing is taken from the segmentation. A file_name may also be
a path on another machine: then the image of that name is looked for below root. Crowds (iscrowd) are neither learnt nor counted.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from sft_exp.data.corpus import Corpus
from sft_exp.data.exports import coco
from sft_exp.data.exports.annotated import LeftOut, Tree
from sft_exp.data.readers import boxed
from sft_exp.data.readers.boxed import Marked, path_of
from sft_exp.data.readers.files import File
from sft_exp.errors import DataError, listing, require

LAYOUT = (
    "Expected is root/annotations/instances_train2017.json with root/train2017/<images>, or dataset.train=<a COCO json>, "
    "dataset.test=<another, or null> and dataset.images=<folder>, all relative to root"
)


@dataclass
class Coco(boxed.BoxSet):
    unhashed: ClassVar[tuple[str, ...]] = ("root", "missing", "most_pixels", "memory", "workers")

    root: str | None = None  # folder of the data set
    train: str = "annotations/instances_train2017.json"  # relative to root
    # null = folds of the training images serve as test
    test: str | None = "annotations/instances_val2017.json"
    # folder of the images, relative to root; null = as in the official layout
    images: str | None = None
    # canvas in pixels, on which images are fitted whole: one number for a square, or [rows,
    # columns]
    size: Any = 320
    channels: int = 3  # 3 = colour, 1 = grey
    # boxes without area or outside of the image: refuse, or drop = leave them out and name them
    boxes: str = "refuse"
    # images that the json names and that are not there: refuse, or drop = leave them out and name
    # them
    missing: str = "refuse"
    # of an image that is decoded; null = Pillow's limit against decompression bombs
    most_pixels: int | None = None
    memory: float = 4.0  # GB of images held as one tensor; a larger set is decoded as it is used
    workers: int = 2  # processes that decode it

    def __post_init__(self):
        super().__post_init__()
        require(self.missing in ("refuse", "drop"), "missing", self.missing, "refuse or drop")

    def load(self) -> Corpus:
        root = path_of(self.root, LAYOUT)
        train, classes, notes = self.part(root, self.train)
        test, others, more = self.part(root, self.test) if self.test else (None, (), ())
        if unknown := [
            name
            for name in others
            if name not in classes and any(b.label == name for m in test or [] for b in m.boxes)
        ]:
            raise DataError(
                f"{root / str(self.test)}: has boxes of {unknown[0]!r}, a category that {self.train} has not"
            )
        said = list(dict.fromkeys([*notes, *more]))
        return boxed.corpus(self, root.resolve().name, classes, train, test, said)

    def part(self, root: Path, name: str) -> tuple[list[Marked], tuple[str, ...], tuple[str, ...]]:
        """(the images of a JSON, names of its categories by id, what was left out). DataError."""
        file = root / name
        content = coco.parse(file, LAYOUT)
        split = coco.split_of(file)
        places = (
            [root / self.images]
            if self.images
            else [root / split, root / "images", root, file.parent]
        )
        tree = Tree(places[0] if self.images else root)
        left = LeftOut()
        missing, marked = [], []
        for key, image in content.images.items():
            there = (place / image.name for place in places)
            path = next((p for p in there if p.is_file()), None) or tree.find(image.name, file)
            if path is None:
                missing.append(f"{image.name} (image {key})")
                left.add("images are named and not there", image.name)
                continue
            marked.append(
                Marked(File(f"{split}/{image.name}", path), image.boxes, image.size, str(file))
            )
        if missing and self.missing == "refuse":
            looked = ", ".join(map(str, places))
            raise DataError(
                f"{file}: {len(missing)} of its images are not in {looked}:{listing(missing)}\n"
                "dataset.missing=drop leaves them out"
            )
        return marked, content.classes, (*content.notes, *left.notes)
