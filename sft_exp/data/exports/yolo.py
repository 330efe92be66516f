"""YOLO's text files (docs.ultralytics.com/datasets/detect).

Ultralytics, Roboflow, CVAT, Label Studio and LabelImg write them. A line is a class's number and a
box (centre x, centre y, width, height) or a polygon (x, y, x, y, ...), as fractions of the image's
sides. The text is beside its image, or in labels/ if the image is in images/.
"""

import re
from pathlib import Path
from typing import Any, NamedTuple

from yaml import YAMLError, safe_load

from sft_exp.data.decode import ORIENTATION, unpacked
from sft_exp.data.exports.annotated import (
    AnnotatedImage,
    Export,
    Omissions,
    Settings,
    Tree,
    text_of,
)
from sft_exp.data.exports.geometry import Corners, bounds, number
from sft_exp.data.readers import findings
from sft_exp.data.readers.boxed import Box
from sft_exp.errors import DataError

NAME = "YOLO"
LAYOUT = "a text for each image, beside it or in labels/, with data.yaml, classes.txt or obj.names for the classes"
LISTS = ("classes.txt", "obj.names", "_darknet.labels")
SPLITS = ("train", "val", "valid", "test")
SLACK = 0.01  # fraction of a side by which boxes may exceed the image


class Meta(NamedTuple):
    """The content of data.yaml or of a list of classes."""

    file: Path
    classes: tuple[str, ...]
    splits: dict[str, list[str]]  # split -> folders or lists of images, as written in the file
    top: str = ""  # the folder to which these paths are relative
    pose: bool = False  # keypoints follow each box


def files(tree: Tree) -> list[Path]:
    """The files that name the classes, if there are texts with boxes."""
    metas = [p for p in tree.ending(".yaml", ".yml") if "names" in mapping(p)]
    metas = metas or [p for p in tree.files if p.name in LISTS]
    return metas if any(label_file(image) for image in tree.pictures) else []


def unnamed(tree: Tree) -> str:
    """Why images with texts are not read as this format, or ""."""
    if not any((text := label_file(image)) and is_label(text) for image in tree.pictures):
        return ""
    broken = [p for p in tree.ending(".yaml", ".yml") if not mapping(p)]
    yaml = f" {broken[0]} is no valid YAML." if broken else ""
    return (
        f" There are YOLO's texts, but no file lists the classes.{yaml} Write their names, one a line, into "
        f"{tree.root / LISTS[0]}."
    )


def mapping(file: Path) -> dict[Any, Any]:
    """A YAML file's mapping, or {} for other content. DataError if it cannot be read."""
    try:
        content = safe_load(text_of(file))
    except (YAMLError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def read(tree: Tree, sources: list[Path], settings: Settings) -> Export:
    metas = [meta(file) for file in sources]
    if len({m.classes for m in metas}) > 1:
        files_named = f"{metas[0].file} and {metas[1].file}"
        raise DataError(
            f"{files_named} list different classes; keep the one that belongs to the labels"
        )
    about = next((m for m in metas if m.splits), metas[0])
    images, omissions = [], Omissions()
    splits = split_by_image(tree, about)
    for image in tree.pictures:
        text = label_file(image)
        split = splits.get(image.resolve()) or tree.split(image)
        if splits and image.resolve() not in splits:
            omissions.add(
                f"images are in no part of {about.file.name} and are left out", image.name
            )
            continue
        if text is None:
            reason = "images have no text, which in this format means that they hold no object"
            omissions.add(reason, image.name)
        boxes = lines(text, image, about) if text else []
        images.append(AnnotatedImage(image, boxes, text or about.file, None, split))
    used = {label_file(image) for image in tree.pictures}
    for text in tree.ending(".txt"):
        if text.name not in LISTS and text not in used and is_label(text):
            omissions.add(
                "texts with boxes have no image of their name and are left out", text.name
            )
    return Export(images, about.classes, omissions.notes)


def meta(file: Path) -> Meta:
    """Read a file of class names. DataError if they are neither a list nor numbered from 0."""
    if file.name in LISTS:
        names: Any = text_of(file).splitlines()
        while names and not names[-1].strip():
            names.pop()
        content: dict[Any, Any] = {}
    else:
        content = mapping(file)
        names = content["names"]
    if isinstance(names, dict):
        try:
            numbered = {int(k): v for k, v in names.items()}
        except (TypeError, ValueError) as error:
            raise DataError(f"{file}: the keys of names are no numbers") from error
        if sorted(numbered) != list(range(len(numbered))):
            raise DataError(
                f"{file}: names has the numbers {sorted(numbered)}, and not 0 to {len(numbered) - 1}"
            )
        names = [numbered[n] for n in range(len(numbered))]
    if not isinstance(names, list) or not names or not all(str(n).strip() for n in names):
        raise DataError(f"{file}: it must name the classes, one or more, in a list or by number")
    classes = tuple(findings.class_name(str(n).strip()) for n in names)
    if twice := sorted({c for c in classes if classes.count(c) > 1}):
        raise DataError(f"{file}: two classes are named {twice[0]!r}")
    if isinstance(count := content.get("nc"), int) and count != len(classes):
        raise DataError(f"{file}: nc is {count}, and names lists {len(classes)} classes")
    splits = {
        str(findings.split_named(key)): paths if isinstance(paths, list) else [paths]
        for key in SPLITS
        if (paths := content.get(key))
    }
    return Meta(file, classes, splits, str(content.get("path") or ""), "kpt_shape" in content)


def split_by_image(tree: Tree, about: Meta) -> dict[Path, str]:
    """Image -> split, for all images in the folders and lists that data.yaml names.

    Paths may be relative to `path`, to the file, or to a folder beside it (Roboflow's
    `../train/images`). DataError if a path does not exist or an image is in two splits.
    """
    splits: dict[Path, str] = {}
    for split, entries in about.splits.items():
        for entry in entries:
            bare = re.sub(r"^(\.{1,2}/)+", "", str(entry).replace("\\", "/"))
            here = about.file.parent
            written = str(entry)
            places = [here / about.top / written, here / written, here / bare, tree.root / bare]
            place = next((p for p in places if p.exists()), None)
            if place is None:
                problem = "which is neither relative to it nor to dataset.root"
                raise DataError(f"{about.file}: {split} is {entry}, {problem}")
            if place.is_dir():
                inside = place.resolve()
                paths = [p for p in tree.pictures if p.resolve().is_relative_to(inside)]
            else:
                rows = filter(None, map(str.strip, text_of(place).split("\n")))
                paths = [path for row in rows if (path := tree.find(row, place))]
            for path in paths:
                if (other := splits.setdefault(path.resolve(), split)) != split:
                    raise DataError(f"{about.file}: {path} is in {other} and in {split}")
    return splits


def label_file(image: Path) -> Path | None:
    """An image's text: in labels/ in place of the innermost images/ of the path, or beside the
    image."""
    parts = list(image.parts)
    places = [image.with_suffix(".txt")]
    for n in range(len(parts) - 2, -1, -1):
        if parts[n].casefold() == "images":
            labels = {"images": "labels", "IMAGES": "LABELS"}.get(parts[n], "Labels")
            places.insert(0, Path(*parts[:n], labels, *parts[n + 1 :]).with_suffix(".txt"))
            break
    return next((p for p in places if p.is_file()), None)


def is_label(text: Path) -> bool:
    """Whether the first line consists of five numbers or more."""
    with text.open(encoding="utf-8", errors="replace") as file:
        words = file.readline().split()
    try:
        return len([float(w) for w in words]) >= 5
    except ValueError:
        return False


def lines(text: Path, image: Path, about: Meta) -> list[Box]:
    """The boxes of a text, in pixels of the upright image. DataError names the line."""
    width, height = sides(image)
    boxes = []
    for n, line in enumerate(text_of(text).splitlines(), start=1):
        if not (words := line.split()):
            continue
        where = f"line {n}"
        label, *values = (number(w, f"{text}, {where}") for w in words)
        if not (label.is_integer() and 0 <= label < len(about.classes)):
            count = len(about.classes)
            problem = f"is none of the {count} in {about.file} (0 to {count - 1})"
            raise DataError(f"{text}, {where}: class {words[0]} {problem}")
        x0, y0, x1, y1 = shape(values, about.pose, f"{text}, {where}")
        if not all(-SLACK <= v <= 1 + SLACK for v in (x0, y0, x1, y1)) and max(x1, y1) > 2:
            problem = "are no shares of the image's sides, from 0 to 1"
            raise DataError(f"{text}, {where}: {' '.join(words)} {problem}")
        corners = (x0 * width, y0 * height, x1 * width, y1 * height)
        polygon = len(values) > 4 and not about.pose
        outline = tuple(v * (width, height)[i % 2] for i, v in enumerate(values))
        outlines = (outline,) if polygon else ()
        boxes.append(Box(about.classes[int(label)], corners, False, where, outlines))
    return boxes


def shape(values: list[float], pose: bool, where: str) -> Corners:
    """A line's box, or the box around its polygon."""
    if len(values) == 4 or (pose and len(values) > 4):
        x, y, width, height = values[:4]
        return x - width / 2, y - height / 2, x + width / 2, y + height / 2
    if len(values) < 6 or len(values) % 2:
        valid = "valid are 4 (a box) or pairs x, y of 3 corners or more"
        raise DataError(f"{where}: {len(values)} numbers after the class; {valid}")
    return bounds(values, where)


def sides(image: Path) -> tuple[int, int]:
    """Width and height of the upright image. DataError if it cannot be opened."""
    try:
        with unpacked(image.read_bytes()) as picture:
            width, height = picture.size
            return (
                (height, width) if picture.getexif().get(ORIENTATION, 1) >= 5 else (width, height)
            )
    except Exception as error:  # broken files make Pillow raise various errors
        raise DataError(f"{image}: cannot be opened: {error or type(error).__name__}") from error
