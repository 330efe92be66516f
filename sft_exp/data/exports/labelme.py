"""LabelMe's JSON, one for each image (github.com/wkentaro/labelme)."""

import math
from pathlib import Path
from typing import Any

from sft_exp.data.exports.annotated import Annotated, Export, LeftOut, Settings, Tree
from sft_exp.data.exports.geometry import Shape, around, box, flat, number, oval, polygon
from sft_exp.data.readers import findings
from sft_exp.data.readers.boxed import Box
from sft_exp.errors import DataError

NAME = "LabelMe"
LAYOUT = "a JSON for each image, beside it, with shapes and imagePath"
OTHER = ("point", "points", "line", "linestrip")  # shapes without a box


def files(tree: Tree) -> list[Path]:
    return [p for p in tree.ending(".json") if _is_image(tree.json(p))]


def _is_image(content: Any) -> bool:
    is_object = isinstance(content, dict) and "imagePath" in content
    return is_object and isinstance(content.get("shapes"), list)


def read(tree: Tree, sources: list[Path], settings: Settings) -> Export:
    images, left, used = [], LeftOut(), set()
    for file in sources:
        content = tree.json(file)
        name = str(content["imagePath"])
        if (path := tree.find(name, file) or tree.named(file.stem, file)) is None:
            left.add("images are named and not there", name)
            continue
        used.add(path)
        boxes = []
        for n, shape in enumerate(content["shapes"], start=1):
            where = f"{file}, shape {n}"
            if not isinstance(shape, dict) or not shape.get("label"):
                raise DataError(f"{where}: it has no label")
            kind = shape.get("shape_type") or "polygon"
            if kind in OTHER:
                left.add(f"shapes of the kind {kind} are left out", file.name)
                continue
            label = findings.class_name(str(shape["label"]))
            found = shape_of(kind, shape.get("points"), where)
            boxes.append(Box(label, found.at, False, f"shape {n}", found.outlines))
        sides = content.get("imageWidth"), content.get("imageHeight")
        size = sides if all(isinstance(s, int) and s > 0 for s in sides) else None
        images.append(Annotated(path, boxes, file, size, tree.split(path)))
    for path in tree.pictures:
        if path not in used:
            left.add("images have no JSON and are left out", path.name)
    return Export(images, (), left.notes)


def shape_of(kind: str, points: Any, where: str) -> Shape:
    """A polygon, a rectangle of two corners, a circle of its centre and a point on it, or the box
    around the points of a mask, whose outline is not read."""
    values = [number(v, where) for v in flat(points, where)]
    if kind == "circle" and len(values) == 4:
        x, y = values[:2]
        radius = math.dist(values[:2], values[2:])
        return oval(x, y, radius, radius)
    if kind == "polygon":
        return polygon(values, where)
    corners = around(values, where)
    return box(corners) if kind == "rectangle" else Shape(corners)
