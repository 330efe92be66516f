"""Detected boxes: one COCO json for all images, and a picture of each image with its boxes.

The json is a data set in COCO's format, in pixels of the original images, with a `score` for each
box (for pycocotools, or for dataset=coco as a start for annotation). Given another COCO json, it is
instead the list of results that COCO's evaluation reads, with that file's ids of images (by file
name) and categories (by name).
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
    """Called with each image, writes a row with its boxes per class, and its picture.

    `close` writes the json. DataError for an image that is unreadable or not in `like`.
    """

    def __init__(self, model: Model, folder: Path, out: TextIO, like: Path | None = None):
        self.model, self.folder, self.like = model, folder, like
        self.rows, self.classes = tables.Writer(out), model.spec.classes
        self.rows.writerow(["file", "picture", *self.classes])
        numbers = dict(zip(self.classes, range(1, len(self.classes) + 1), strict=True))
        self.image_ids, self.categories = ids_in(like, self.classes) if like else ({}, numbers)
        self.images: list[dict[str, Any]] = []
        self.annotations: list[dict[str, Any]] = []
        self.pictures = set[str]()

    def __call__(self, path: Path, content: bytes) -> None:
        x_CHW = whole(content, 3, self.model.spec.levels)
        width, height = x_CHW.shape[2], x_CHW.shape[1]
        if self.like and path.name not in self.image_ids:
            raise DataError(f"is not among the images of {self.like}")
        image = self.image_ids.get(path.name, len(self.images) + 1)
        boxes_M6 = on_image(self.model, content, (width, height))
        self.images.append({"id": image, "file_name": path.name, "width": width, "height": height})
        for box in boxes_M6.tolist():
            self.annotations.append(self.annotation(image, *box))
        sure_M6 = boxes_M6[boxes_M6[:, 4] >= detectors.SURE]
        file = self.folder / f"{unique(path.stem, self.pictures)}-boxes.png"
        drawn_CHW = detectors.pictures(x_CHW[None], [sure_M6], self.classes)[0]
        pixels_HWC = (drawn_CHW * 255).round().to(torch.uint8).movedim(0, -1).numpy()
        atomic_io.write(file, png(Image.fromarray(pixels_HWC)))
        counts = sure_M6[:, 5].long().bincount(minlength=len(self.classes) + 1)
        self.rows.writerow([path, file, *counts[1:].tolist()])

    def annotation(
        self, image: int, x0: float, y0: float, x1: float, y1: float, score: float, label: float
    ) -> dict[str, Any]:
        """A box in COCO's format: given `like` a result, else an annotation with a score."""
        box = [round(v, 2) for v in (x0, y0, x1 - x0, y1 - y0)]
        category = self.categories[self.classes[int(label) - 1]]
        result = {"image_id": image, "category_id": category, "bbox": box, "score": round(score, 5)}
        if self.like:
            return result
        area = round(box[2] * box[3], 2)
        return {"id": len(self.annotations) + 1, **result, "area": area, "iscrowd": 0}

    def close(self) -> None:
        categories = [{"id": n, "name": name} for name, n in self.categories.items()]
        content = {"images": self.images, "annotations": self.annotations, "categories": categories}
        atomic_io.write_json(self.folder / FILE, self.annotations if self.like else content)


def on_image(model: Model, content: bytes, size: tuple[int, int]) -> Tensor:
    """Boxes [M, 6] in pixels of an image of `size` (width, height): x0 y0 x1 y1, score, label.

    The best boxes come first.
    """
    canvas = model.spec.image
    x_BCHW = decode(content, canvas, "letterbox", model.spec.levels)[None].float() / 255
    (boxes_M6,) = model.predict(x_BCHW)
    boxes_M6 = boxes_M6[boxes_M6[:, 5] > 0]
    boxes_M4 = Letterbox.fit(size, (canvas[1], canvas[2])).back(boxes_M6[:, :4])
    return torch.cat([boxes_M4, boxes_M6[:, 4:]], 1)


def ids_in(file: Path, names: tuple[str, ...]) -> tuple[dict[str, int], dict[str, int]]:
    """(file name -> id, category -> id) of a COCO json.

    DataError if it is not a COCO json, or lacks a category of the model.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        images = {Path(image["file_name"]).name: image["id"] for image in content["images"]}
        categories = {c["name"]: c["id"] for c in content["categories"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{file}: not a COCO json with images and categories ({error})") from error
    if missing := [name for name in names if name not in categories]:
        raise DataError(f"{file}: has no category {missing[0]!r}, which the model knows")
    return images, {name: categories[name] for name in names}
