"""COCO annotations (Lin et al., arXiv:1405.0312; format: cocodataset.org), in any COCO JSON:

    root/annotations/instances_train2017.json
        images, annotations with bbox = [x, y, width, height], categories
    root/train2017/000000000139.jpg
        images: in the folder named like the JSON's ending, in dataset.images, in root/images, in
        root, or beside the JSON, wherever file_name is found

Category ids may have gaps: a label is the position of its category among those of the training
JSON, ordered by id, and categories of the test JSON are matched by name. A missing box is computed
from the segmentation. If file_name is a path of another machine, the image of that name is searched
for below root. Crowds (iscrowd) are neither trained on nor counted.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from sft_exp.data.corpus import Corpus
from sft_exp.data.exports import coco
from sft_exp.data.exports.annotated import Omissions, Tree
from sft_exp.data.readers import boxed
from sft_exp.data.readers.boxed import ImageWithBoxes, path_of
from sft_exp.data.readers.files import File
from sft_exp.errors import DataError, listing, require

LAYOUT = (
    "Expected is root/annotations/instances_train2017.json with root/train2017/<images>, "
    "or dataset.train=<a COCO json>, dataset.test=<another, or null> and dataset.images=<folder>, "
    "all relative to root"
)


@dataclass
class Coco(boxed.BoxSet):
    unhashed: ClassVar[tuple[str, ...]] = ("root", "missing", "most_pixels", "memory", "workers")

    root: str | None = None  # folder of the data set
    train: str = "annotations/instances_train2017.json"  # relative to root
    # null = folds of the training images are tested
    test: str | None = "annotations/instances_val2017.json"
    # folder of the images, relative to root; null = as in the official layout
    images: str | None = None
    # canvas in pixels for letterboxed images: one number for a square, or [rows, columns]
    size: Any = 320
    channels: int = 3  # 3 = colour, 1 = grey
    # boxes without area or outside of the image: refuse, or drop = leave them out with a warning
    boxes: str = "refuse"
    # images of the JSON that are missing: refuse, or drop = leave them out with a warning
    missing: str = "refuse"
    # most pixels of a file that is decoded; null = Pillow's limit against decompression bombs
    most_pixels: int | None = None
    memory: float = 4.0  # GB of images kept as one tensor; a larger set is decoded per batch
    workers: int = 2  # worker processes that decode images

    def __post_init__(self):
        super().__post_init__()
        require(self.missing in ("refuse", "drop"), "missing", self.missing, "refuse or drop")

    def load(self) -> Corpus:
        root = path_of(self.root, LAYOUT)
        train, classes, notes = self.part(root, self.train)
        test, others, more = self.part(root, self.test) if self.test else (None, (), ())
        used = {box.label for image in test or [] for box in image.boxes}
        if unknown := [name for name in others if name not in classes and name in used]:
            raise DataError(
                f"{root / str(self.test)}: has boxes of {unknown[0]!r}, "
                f"a category that {self.train} does not have"
            )
        all_notes = list(dict.fromkeys([*notes, *more]))
        return boxed.corpus(self, root.resolve().name, classes, train, test, all_notes)

    def part(
        self, root: Path, name: str
    ) -> tuple[list[ImageWithBoxes], tuple[str, ...], tuple[str, ...]]:
        """Read a JSON: (its images, category names ordered by id, notes on what was left out).

        DataError for missing images, unless dataset.missing=drop.
        """
        file = root / name
        content = coco.parse(file, LAYOUT)
        split = coco.split_of(file)
        official = [root / split, root / "images", root, file.parent]
        folders = [root / self.images] if self.images else official
        tree = Tree(folders[0] if self.images else root)
        omissions = Omissions()
        missing, images = [], []
        for key, image in content.images.items():
            candidates = (folder / image.name for folder in folders)
            path = next((p for p in candidates if p.is_file()), None)
            path = path or tree.find(image.name, file)
            if path is None:
                missing.append(f"{image.name} (image {key})")
                omissions.add("images are named but missing", image.name)
                continue
            images.append(
                ImageWithBoxes(
                    File(f"{split}/{image.name}", path), image.boxes, image.size, str(file)
                )
            )
        if missing and self.missing == "refuse":
            searched = ", ".join(map(str, folders))
            raise DataError(
                f"{file}: {len(missing)} of its images are not in {searched}:{listing(missing)}\n"
                "dataset.missing=drop leaves them out"
            )
        return images, content.classes, (*content.notes, *omissions.notes)
