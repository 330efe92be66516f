"""LabelMe's JSON files, one for each image (github.com/wkentaro/labelme)."""

import math
from pathlib import Path
from typing import Any

from sft_exp.data.exports.annotated import AnnotatedImage, Export, Omissions, Settings, Tree
from sft_exp.data.exports.geometry import (
    Shape,
    bounds,
    box,
    ellipse,
    flattened,
    number,
    polygon,
    stated_size,
)
from sft_exp.data.readers import findings
from sft_exp.data.readers.boxed import Box
from sft_exp.errors import DataError

NAME = "LabelMe"
LAYOUT = "a JSON for each image, beside it, with shapes and imagePath"
WITHOUT_BOX = ("point", "points", "line", "linestrip")  # kinds of shape


def files(tree: Tree) -> list[Path]:
    return [p for p in tree.ending(".json") if _is_image(tree.json(p))]


def _is_image(content: Any) -> bool:
    is_object = isinstance(content, dict) and "imagePath" in content
    return is_object and isinstance(content.get("shapes"), list)


def read(tree: Tree, sources: list[Path], settings: Settings) -> Export:
    images, omissions, used = [], Omissions(), set()
    for file in sources:
        content = tree.json(file)
        name = str(content["imagePath"])
        if (path := tree.find(name, file) or tree.named(file.stem, file)) is None:
            omissions.add("images are named but missing", name)
            continue
        used.add(path)
        boxes = []
        for n, shape in enumerate(content["shapes"], start=1):
            where = f"{file}, shape {n}"
            if not isinstance(shape, dict) or not shape.get("label"):
                raise DataError(f"{where}: it has no label")
            kind = shape.get("shape_type") or "polygon"
            if kind in WITHOUT_BOX:
                omissions.add(f"shapes of the kind {kind} are left out", file.name)
                continue
            label = findings.class_name(str(shape["label"]))
            corners, outlines = shape_of(kind, shape.get("points"), where)
            boxes.append(Box(label, corners, False, f"shape {n}", outlines))
        size = stated_size(content.get("imageWidth"), content.get("imageHeight"))
        images.append(AnnotatedImage(path, boxes, file, size, tree.split(path)))
    for path in tree.pictures:
        if path not in used:
            omissions.add("images have no JSON and are left out", path.name)
    return Export(images, (), omissions.notes)


def shape_of(kind: str, points: Any, where: str) -> Shape:
    """The shape of an annotation, in pixels.

    A rectangle is given by two corners, a circle by its centre and a point on it. Of a mask only
    the box around its points is read, not its outline.

    Raises:
        DataError: the points are no pairs of numbers.
    """
    values = [number(v, where) for v in flattened(points, where)]
    if kind == "circle" and len(values) == 4:
        x, y = values[:2]
        radius = math.dist(values[:2], values[2:])
        return ellipse(x, y, radius, radius)
    if kind == "polygon":
        return polygon(values, where)
    corners = bounds(values, where)
    return box(corners) if kind == "rectangle" else Shape(corners)
