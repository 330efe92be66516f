"""COCO's annotations (Lin et al., arXiv:1405.0312; format: cocodataset.org), in the official layout or in any COCO json:

    root/annotations/instances_train2017.json     images, annotations with bbox = [x, y, width, height], categories
    root/train2017/000000000139.jpg               images: in the folder named like the json's ending, in dataset.images, in
                                                  root/images, in root, or beside the json, wherever file_name is found

Category ids may have gaps: a label is the position of its category among those of the training json, in the order of their ids,
and the test json's categories are matched by name. Crowds (iscrowd) are neither learnt nor counted.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sft_exp.data.corpus import Corpus
from sft_exp.data.readers import boxed, findings
from sft_exp.data.readers.boxed import Box, Marked, path_of
from sft_exp.data.readers.files import File
from sft_exp.errors import DataError, listing

LAYOUT = (
    "Expected is root/annotations/instances_train2017.json with root/train2017/<images>, or dataset.train=<a COCO json>, "
    "dataset.test=<another, or null> and dataset.images=<folder>, all relative to root"
)


@dataclass
class Coco(boxed.BoxSet):
    root: str | None = None  # folder of the data set
    train: str = "annotations/instances_train2017.json"  # relative to root
    test: str | None = (
        "annotations/instances_val2017.json"  # null = folds of the training images serve as test
    )
    images: str | None = (
        None  # folder of the images, relative to root; null = as in the official layout
    )
    size: Any = 320  # canvas in pixels, on which images are fitted whole: one number for a square, or [rows, columns]
    channels: int = 3  # 3 = colour, 1 = grey
    boxes: str = "refuse"  # boxes without area or outside of the image: refuse, or drop = leave them out and name them
    most_pixels: int | None = (
        None  # of an image that is decoded; null = Pillow's limit against decompression bombs
    )
    memory: float = 4.0  # GB of images held as one tensor; a larger set is decoded as it is used
    workers: int = 2  # processes that decode it

    def load(self) -> Corpus:
        root = path_of(self.root, LAYOUT)
        train, classes = self.part(root, self.train)
        test, others = self.part(root, self.test) if self.test else (None, ())
        if unknown := [
            name
            for name in others
            if name not in classes and any(b.label == name for m in test or [] for b in m.boxes)
        ]:
            raise DataError(
                f"{root / str(self.test)}: has boxes of {unknown[0]!r}, a category that {self.train} has not"
            )
        return boxed.corpus(self, root.resolve().name, classes, train, test)

    def part(self, root: Path, name: str) -> tuple[list[Marked], tuple[str, ...]]:
        """(the images of a json, names of its categories by id). DataError."""
        file = root / name
        content = read(file)
        names = {
            c["id"]: findings.class_name(str(c["name"]))
            for c in sorted(content["categories"], key=lambda c: c["id"])
        }
        images = {image["id"]: image for image in content["images"]}
        if len(images) < len(content["images"]):
            raise DataError(
                f"{file}: {len(content['images']) - len(images)} images have the id of another"
            )
        if len({*names.values()}) < len(content["categories"]):
            raise DataError(f"{file}: two categories have the same id or name")
        boxes: dict[Any, list[Box]] = {key: [] for key in images}
        for a in content["annotations"]:
            where = f"annotation {a.get('id', '?')}"
            if a.get("image_id") not in boxes:
                raise DataError(
                    f"{file}: {where} is of image {a.get('image_id')}, which is not among its images"
                )
            if a.get("category_id") not in names:
                raise DataError(
                    f"{file}: {where} is of category {a.get('category_id')}, which is not among its categories"
                )
            at = a.get("bbox")
            if not (
                isinstance(at, list)
                and len(at) == 4
                and all(isinstance(v, int | float) for v in at)
            ):
                raise DataError(f"{file}: {where} has bbox={at}, and not [x, y, width, height]")
            x, y, width, height = map(float, at)
            boxes[a["image_id"]].append(
                Box(
                    names[a["category_id"]],
                    (x, y, x + width, y + height),
                    bool(a.get("iscrowd", 0)),
                    where,
                )
            )
        places = (
            [root / self.images]
            if self.images
            else [root / split_of(file), root / "images", root, file.parent]
        )
        missing, marked = [], []
        for key, image in images.items():
            path = next(
                (p / image["file_name"] for p in places if (p / image["file_name"]).is_file()), None
            )
            if path is None:
                missing.append(f"{image['file_name']} (image {key})")
                continue
            size = (
                (image["width"], image["height"])
                if "width" in image and "height" in image
                else None
            )
            marked.append(
                Marked(
                    File(f"{split_of(file)}/{image['file_name']}", path),
                    boxes[key],
                    size,
                    str(file),
                )
            )
        if missing:
            looked = ", ".join(map(str, places))
            raise DataError(
                f"{file}: {len(missing)} of its images are not in {looked}:{listing(missing)}"
            )
        return marked, tuple(names.values())


def split_of(file: Path) -> str:
    """annotations/instances_val2017.json -> val2017"""
    return file.stem.removeprefix("instances_")


def read(file: Path) -> dict[str, Any]:
    """A COCO json's content, with the three lists that boxes need. DataError."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{file}: {error.strerror}. {LAYOUT}") from error
    except ValueError as error:
        raise DataError(f"{file}: no JSON ({error})") from error
    for key, needs in (
        ("images", ("id", "file_name")),
        ("annotations", ()),
        ("categories", ("id", "name")),
    ):
        rows = content.get(key) if isinstance(content, dict) else None
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise DataError(f"{file}: no COCO json of boxes: it has no list {key!r}")
        if bad := [n for n, row in enumerate(rows) if any(k not in row for k in needs)]:
            raise DataError(
                f"{file}: {key}[{bad[0]}] has no {' or no '.join(k for k in needs if k not in rows[bad[0]])}"
            )
    return content
