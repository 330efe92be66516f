"""The JSON, project and CSV files of VGG Image Annotator 1 and 2.

See Dutta and Zisserman, ACM MM 2019, and robots.ox.ac.uk/~vgg/software/via.
"""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from sft_exp.data.exports.annotated import AnnotatedImage, Export, Omissions, Settings, Tree
from sft_exp.data.exports.geometry import Shape, box, ellipse, number, polygon
from sft_exp.data.readers import findings
from sft_exp.data.readers.boxed import Box
from sft_exp.data.readers.files import decoded, guessed_encoding, read_table
from sft_exp.errors import ConfigError, DataError

NAME = "VIA"
LAYOUT = "a JSON, project or CSV of VGG Image Annotator 2, and the images"
COLUMNS = ("filename", "region_shape_attributes", "region_attributes")
WITHOUT_BOX = ("polyline", "point")  # kinds of region
ONE = "object"  # the class of regions without attributes


class Region(NamedTuple):
    shape: dict[str, Any]
    attributes: dict[str, Any]


def files(tree: Tree) -> list[Path]:
    tables = [p for p in tree.ending(".csv") if _is_table(p)]
    return [p for p in tree.ending(".json") if _entries(tree.json(p)) is not None] or tables


def _is_table(file: Path) -> bool:
    with file.open("rb") as content:
        try:
            first = decoded(content.readline())
        except UnicodeError:
            return False
    return all(column in first for column in COLUMNS)


def _entries(content: Any) -> list[dict[str, Any]] | None:
    """The images of a project or of exported annotations; None for other content."""
    if isinstance(content, dict) and isinstance(content.get("_via_img_metadata"), dict):
        content = content["_via_img_metadata"]
    entries = list(content.values()) if isinstance(content, dict) else []
    fits = all(isinstance(e, dict) and {"filename", "regions"} <= {*e} for e in entries)
    return entries if entries and fits else None


def images_of(file: Path, tree: Tree) -> Iterator[tuple[str, list[Region]]]:
    """(file name, regions) of each image. DataError."""
    if file.suffix.lower() == ".csv":
        images: dict[str, list[Region]] = {}
        for n, line in read_table(file, "dataset.root", COLUMNS).lines:
            regions, where = images.setdefault(line["filename"], []), f"{file}, line {n}"
            try:
                shape, attributes = (json.loads(line[column] or "{}") for column in COLUMNS[1:])
            except ValueError as error:
                raise DataError(f"{where}: no JSON in a region's column ({error})") from error
            if shape:
                regions.append(region_of(shape, attributes, where))
        yield from images.items()
        return
    for entry in _entries(tree.json(file)) or []:
        name, rows = str(entry["filename"]), entry["regions"]
        rows = list(rows.values()) if isinstance(rows, dict) else rows
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise DataError(f"{file}: the regions of {name} are no list")
        pairs = [(row.get("shape_attributes"), row.get("region_attributes")) for row in rows]
        yield name, [region_of(s or {}, a or {}, f"{file}, {name}") for s, a in pairs]


def region_of(shape: Any, attributes: Any, where: str) -> Region:
    """A region. DataError if the shape or the attributes are no mapping."""
    if not isinstance(shape, dict) or not isinstance(attributes, dict):
        raise DataError(f"{where}: a region's attributes are no mapping of names to values")
    return Region(shape, attributes)


def read(tree: Tree, sources: list[Path], settings: Settings) -> Export:
    pictures = [(file, *image) for file in sources for image in images_of(file, tree)]
    attribute = attribute_of([r for *_, regions in pictures for r in regions], settings.attribute)
    images, omissions = [], Omissions()
    for file, name, regions in pictures:
        if (path := tree.find(name, file)) is None:
            omissions.add("images are named but missing", name)
            continue
        boxes = []
        for n, region in enumerate(regions, start=1):
            where = f"{name}, region {n}"
            if region.shape.get("name") in WITHOUT_BOX:
                omissions.add(f"regions of the kind {region.shape['name']} are left out", name)
                continue
            shape = shape_of(region.shape, f"{file}, {where}")
            label = label_of(region, attribute, f"{file}, {where}")
            boxes.append(Box(label, shape.corners, False, where, shape.outlines))
        images.append(AnnotatedImage(path, boxes, file, None, tree.split(path)))
    single = () if attribute else (f"no region has an attribute: all are of one class, {ONE}",)
    tables = [file for file in sources if file.suffix.lower() == ".csv"]
    guessed = [note for file in tables for note in guessed_encoding(file.read_bytes())]
    return Export(images, (), (*guessed, *single, *omissions.notes))


def attribute_of(regions: list[Region], name: str | None) -> str | None:
    """The attribute that holds the class; None if regions have no attributes.

    Raises:
        ConfigError: `name` is no attribute, or it is None and there are several attributes.
    """
    attributes = sorted({key for region in regions for key in region.attributes})
    if name and name not in attributes:
        problem = f"must be an attribute of the regions: {', '.join(attributes) or 'none'}"
        raise ConfigError("dataset.attribute", name, problem)
    if not name and len(attributes) > 1:
        problem = f"must say which attribute of the regions is the class: {', '.join(attributes)}"
        raise ConfigError("dataset.attribute", None, problem)
    return name or next(iter(attributes), None)


def label_of(region: Region, attribute: str | None, where: str) -> str:
    """A region's class: the attribute's text, or the one option that is selected."""
    if attribute is None:
        return ONE
    value = region.attributes.get(attribute)
    if isinstance(value, dict):
        options = [name for name, selected in value.items() if selected]
        if len(options) != 1:
            values = ", ".join(options) or "none"
            raise DataError(f"{where}: {attribute} has the values {values}; a box has one class")
        value = options[0]
    if not str(value or "").strip():
        raise DataError(f"{where}: {attribute} is empty; a box has one class")
    return findings.class_name(str(value).strip())


def shape_of(shape: dict[str, Any], where: str) -> Shape:
    """The shape of a region. DataError for an unknown shape."""

    def value(key: str, default: object = None) -> float:
        return number(shape.get(key, default), f"{where}, {key}")

    kind = shape.get("name")
    if kind == "rect":
        x, y = value("x"), value("y")
        return box((x, y, x + value("width"), y + value("height")))
    if kind == "circle":
        return ellipse(value("cx"), value("cy"), value("r"), value("r"))
    if kind == "ellipse":
        x, y, rx, ry = (value(key) for key in ("cx", "cy", "rx", "ry"))
        return ellipse(x, y, rx, ry, math.degrees(value("theta", 0)))
    if kind == "polygon":
        xs, ys = (shape.get(f"all_points_{axis}") for axis in "xy")
        if not (isinstance(xs, list) and isinstance(ys, list) and len(xs) == len(ys)):
            raise DataError(f"{where}: all_points_x and all_points_y are no lists of equal length")
        return polygon([v for pair in zip(xs, ys, strict=True) for v in pair], where)
    raise DataError(f"{where}: a shape named {kind!r} is not known")
