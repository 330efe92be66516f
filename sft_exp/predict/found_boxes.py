"""Boxes that a model finds in images: one COCO json for all, and each image with its boxes drawn on it.

The json opens as a data set of its own, with a `score` beside each box (pycocotools' COCO, or dataset=coco as a start for
annotating), in pixels of the images as they are. Told of another COCO json, it is instead the list of results that COCO's own
evaluation takes, with that file's ids of images (by file name) and of categories (by name).
"""

import json
from pathlib import Path
from typing import Any, TextIO

import torch
from PIL import Image
from torch import Tensor

from sft_exp.data import tables
from sft_exp.data.boxes import Letterbox
from sft_exp.data.decode import decode, whole
from sft_exp.data.readers.files import png, unique
from sft_exp.errors import DataError
from sft_exp.models.heads import detectors
from sft_exp.stages.model import Model
from sft_exp.store import atomic_io

FILE = "boxes.json"


class BoxFiles:
    """Called with each image: writes a row with its boxes of each class, and its picture; `close` writes the json. DataError for
    an image that cannot be read, or is not in `like`."""

    def __init__(self, model: Model, folder: Path, out: TextIO, like: Path | None = None):
        self.model, self.folder, self.like = model, folder, like
        self.rows, self.classes = tables.Writer(out), model.spec.classes
        self.rows.writerow(["file", "picture", *self.classes])
        numbers = dict(zip(self.classes, range(1, len(self.classes) + 1), strict=True))
        self.images_there, self.categories = ids_in(like, self.classes) if like else ({}, numbers)
        self.images: list[dict[str, Any]] = []
        self.found: list[dict[str, Any]] = []
        self.drawn = set[str]()

    def __call__(self, path: Path, content: bytes) -> None:
        x_CHW = whole(content, 3, self.model.spec.levels)
        width, height = x_CHW.shape[2], x_CHW.shape[1]
        if self.like and path.name not in self.images_there:
            raise DataError(f"is not among the images of {self.like}")
        image = self.images_there.get(path.name, len(self.images) + 1)
        found_M6 = on_image(self.model, content, (width, height))
        self.images.append({"id": image, "file_name": path.name, "width": width, "height": height})
        for row in found_M6.tolist():
            self.found.append(self.told(image, *row))
        sure_M6 = found_M6[found_M6[:, 4] >= detectors.SURE]
        picture = self.folder / f"{unique(path.stem, self.drawn)}-boxes.png"
        drawn_CHW = detectors.pictures(x_CHW[None], [sure_M6], self.classes)[0]
        atomic_io.write(
            picture,
            png(Image.fromarray((drawn_CHW * 255).round().to(torch.uint8).movedim(0, -1).numpy())),
        )
        counts = sure_M6[:, 5].long().bincount(minlength=len(self.classes) + 1)
        self.rows.writerow([path, picture, *counts[1:].tolist()])

    def told(
        self, image: int, x0: float, y0: float, x1: float, y1: float, score: float, label: float
    ) -> dict[str, Any]:
        """A box as COCO writes it: where it is `like` another json a result, else an annotation with a score."""
        box = [round(v, 2) for v in (x0, y0, x1 - x0, y1 - y0)]
        category = self.categories[self.classes[int(label) - 1]]
        result = {"image_id": image, "category_id": category, "bbox": box, "score": round(score, 5)}
        return (
            result
            if self.like
            else {
                "id": len(self.found) + 1,
                **result,
                "area": round(box[2] * box[3], 2),
                "iscrowd": 0,
            }
        )

    def close(self) -> None:
        categories = [{"id": n, "name": name} for name, n in self.categories.items()]
        content = {"images": self.images, "annotations": self.found, "categories": categories}
        atomic_io.write_json(self.folder / FILE, self.found if self.like else content)


def on_image(model: Model, content: bytes, size: tuple[int, int]) -> Tensor:
    """Boxes [M, 6] in pixels of the image, `size` = (width, height): x0 y0 x1 y1, score, label; best first."""
    canvas = model.spec.image
    x_BCHW = decode(content, canvas, "letterbox", model.spec.levels)[None].float() / 255
    (found_M6,) = model.predict(x_BCHW)
    found_M6 = found_M6[found_M6[:, 5] > 0]
    boxes_M4 = Letterbox.fit(size, (canvas[1], canvas[2])).back(found_M6[:, :4])
    return torch.cat([boxes_M4, found_M6[:, 4:]], 1)


def ids_in(file: Path, names: tuple[str, ...]) -> tuple[dict[str, int], dict[str, int]]:
    """(file name -> id, category -> id) of a COCO json. DataError if it is none, or lacks a category of the model."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        images = {Path(image["file_name"]).name: image["id"] for image in content["images"]}
        categories = {c["name"]: c["id"] for c in content["categories"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{file}: no COCO json with images and categories ({error})") from error
    if missing := [name for name in names if name not in categories]:
        raise DataError(f"{file}: has no category {missing[0]!r}, which the model knows")
    return images, {name: categories[name] for name in names}
