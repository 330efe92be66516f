"""COCO's JSON (arXiv:1405.0312; cocodataset.org/#format-data) as COCO, Roboflow, CVAT and Label
Studio write it."""

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from sft_exp.data.exports.annotated import AnnotatedImage, Export, Omissions, Settings, Tree
from sft_exp.data.exports.geometry import (
    NOWHERE,
    Corners,
    Outline,
    bounds,
    flag,
    flattened,
    polygon,
    stated_size,
)
from sft_exp.data.readers import findings
from sft_exp.data.readers.boxed import Box
from sft_exp.errors import DataError

NAME = "COCO"
LAYOUT = "a JSON with images, annotations and categories"
# how COCO names further files on the images of instances_*
REPEATS = re.compile(r"(?:person_keypoints|stuff|panoptic|captions)_")
CENTRE = "the centre's x and y, width, height"
# shares of a box's sides, and of its area, by which its polygon and its stated area may differ
NEAR, SAME = 0.1, 0.01
NEEDS = {"images": ("id", "file_name"), "annotations": (), "categories": ("id", "name")}


class Picture(NamedTuple):
    """An image of the JSON."""

    name: str
    size: tuple[int, int] | None
    boxes: list[Box]


class Content(NamedTuple):
    classes: tuple[str, ...]  # by id
    images: dict[Any, Picture]  # by id
    notes: tuple[str, ...]


def files(tree: Tree) -> list[Path]:
    """The JSON files with boxes, but for those of COCO's own that repeat another one's images."""
    candidates = [p for p in tree.ending(".json") if _is_coco(tree.json(p))]
    return [p for p in candidates if not REPEATS.match(p.stem) or _first(p) not in candidates]


def _first(file: Path) -> Path:
    """COCO's file of all objects in the same images: instances_val2017.json"""
    return file.with_stem(REPEATS.sub("instances_", file.stem))


def _is_coco(content: Any) -> bool:
    return isinstance(content, dict) and all(isinstance(content.get(k), list) for k in NEEDS)


def read(tree: Tree, sources: list[Path], settings: Settings) -> Export:
    images: list[AnnotatedImage] = []
    classes: dict[str, None] = {}
    notes: list[str] = []
    omissions = Omissions()
    for file in sources:
        content = parse(file)
        classes |= dict.fromkeys(content.classes)
        notes += content.notes
        for picture in content.images.values():
            if (path := tree.find(picture.name, file)) is None:
                omissions.add("images are named but missing", picture.name)
                continue
            split = tree.split(file) or tree.split(path)
            images.append(AnnotatedImage(path, picture.boxes, file, picture.size, split))
    return Export(images, tuple(classes), (*dict.fromkeys(notes), *omissions.notes))


def parse(file: Path, layout: str = "") -> Content:
    """The images of a JSON file with their boxes.

    A box is `bbox`, or else the box around `segmentation`, or else `NOWHERE`, which the reader of
    boxes reports.

    Raises:
        DataError: the file is no COCO JSON, or refers to a missing image or category.
    """
    content = load(file, layout)
    names, notes = categories(file, content)
    images: dict[Any, Picture] = {}
    for row in content["images"]:
        size = stated_size(row.get("width"), row.get("height"))
        images[row["id"]] = Picture(str(row["file_name"]), size, [])
    if len(images) < len(content["images"]):
        count = len(content["images"]) - len(images)
        raise DataError(f"{file}: {count} images have the id of another")
    forms = Forms()
    # some programs write an id as a number here and as text there
    by_text = {str(key): key for key in images}, {str(key): key for key in names}
    for row in content["annotations"]:
        where = f"annotation {row.get('id', '?')}"
        image, category = (
            key if known(key, ids) else texts.get(str(key), key)
            for key, ids, texts in (
                (row.get("image_id"), images, by_text[0]),
                (row.get("category_id"), names, by_text[1]),
            )
        )
        for kind, key, keys in (("image", image, images), ("category", category, names)):
            if not known(key, keys):
                plural = {"image": "images", "category": "categories"}[kind]
                problem = f"is of {kind} {key}, which is not among its {plural}"
                raise DataError(f"{file}: {where} {problem}")
        corners = corners_of(row, f"{file}, {where}")
        if corners is None:
            where += f" has bbox={row.get('bbox')} and no segmentation"
        crowd = flag(row.get("iscrowd", 0)) or flag(row.get("ignore", 0))
        outlines = outlines_of(row)
        box = Box(names[category], corners or NOWHERE, crowd, where, outlines)
        images[image].boxes.append(box)
        forms.add(row, outlines)
    return Content(tuple(names.values()), images, (*notes, *forms.notes(file)))


class Forms:
    """Finds boxes of another form than x, y, width, height, by what the file says of the same objects:
    their polygons, or without any their areas."""

    def __init__(self) -> None:
        # form of the four numbers -> boxes of which it is the only one that fits
        self.alone: Counter[str] = Counter()
        self.comparable = 0  # boxes beside a polygon or an area
        self.outlined = 0  # boxes beside a polygon
        self.around = 0  # of these, boxes around it as x, y, width, height

    def add(self, row: dict[str, Any], outlines: tuple[Outline, ...]) -> None:
        if (numbers := four_numbers(row.get("bbox"))) is None:
            return
        a, b, c, d = numbers
        forms = {
            "x0, y0, x1, y1": (a, b, c, d),
            CENTRE: (a - c / 2, b - d / 2, a + c / 2, b + d / 2),
        }
        if outlines:
            x, y = ([v for outline in outlines for v in outline[i::2]] for i in (0, 1))
            around = (min(x), min(y), max(x), max(y))
            fits = {name: alike(corners, around) for name, corners in forms.items()}
            usual = alike((a, b, a + c, b + d), around)
        elif row.get("segmentation") or not isinstance(area := row.get("area"), int | float):
            return
        else:
            usual = abs(area - c * d) <= SAME * c * d
            fits = {"x0, y0, x1, y1": abs(area - (c - a) * (d - b)) <= SAME * abs(area)}
        self.comparable += 1
        self.outlined += bool(outlines)
        self.around += bool(outlines) and usual
        self.alone.update(name for name, fit in fits.items() if fit and not usual)

    def notes(self, file: Path) -> tuple[str, ...]:
        """A warning if most boxes are not around their polygons. DataError if they fit in another form."""
        ((name, count),) = self.alone.most_common(1) or [("", 0)]
        if count > self.comparable / 2:
            raise DataError(
                f"{file}: {count:,} of {self.comparable:,} boxes fit their polygons or areas as {name}: COCO's bbox is x, y, "
                "width, height, from the upper left corner"
            )
        if self.around >= self.outlined / 2:
            return ()
        other = self.outlined - self.around
        return (f"{other:,} of {self.outlined:,} boxes are not around their polygons: check them",)


def alike(corners: Corners, others: Corners) -> bool:
    """Whether two boxes are the same but for a small part of the second one's sides, or two pixels."""
    width, height = others[2] - others[0], others[3] - others[1]
    slack = [max(2.0, NEAR * side) for side in (width, height)]
    return all(
        abs(a - b) <= slack[n % 2] for n, (a, b) in enumerate(zip(corners, others, strict=True))
    )


def four_numbers(box: Any) -> tuple[float, float, float, float] | None:
    """The four numbers of a bbox, or None."""
    if isinstance(box, list) and len(box) == 4 and all(isinstance(v, int | float) for v in box):
        a, b, c, d = map(float, box)
        return a, b, c, d
    return None


def known(key: Any, values: dict[Any, Any]) -> bool:
    """Whether a JSON value is a key of `values`; it may be unhashable."""
    return isinstance(key, int | str) and key in values


def categories(file: Path, content: dict[str, Any]) -> tuple[dict[Any, str], tuple[str, ...]]:
    """(name of each category by id, sorted by id; notes).

    Roboflow's root category, the parent of the others, is no class. Of two categories with the same
    name, an unused one is left out.

    Raises:
        DataError: two categories have the same id, or the same name and annotations.
    """
    rows = sorted(content["categories"], key=lambda c: (isinstance(c["id"], str), c["id"]))
    ids = {c["id"]: 0 for c in rows}
    annotations = content["annotations"]
    count = Counter(a["category_id"] for a in annotations if known(a.get("category_id"), ids))
    if twice := [i for i, n in Counter(c["id"] for c in rows).items() if n > 1]:
        raise DataError(f"{file}: two categories have the same id {twice[0]}")
    parents = {c.get("supercategory") for c in rows if isinstance(c.get("supercategory"), str)}
    omissions = Omissions()
    names: dict[Any, str] = {}
    for row in rows:
        key, name = row["id"], findings.class_name(str(row["name"]))
        if row.get("supercategory") == "none" and name in parents and not count[key]:
            omissions.add("root categories without boxes are no classes", f"{name} (id {key})")
            continue
        if (other := next((i for i, n in names.items() if n == name), None)) is not None:
            if count[key] and count[other]:
                raise DataError(
                    f"{file}: categories {other} and {key} are both named {name!r}, with {count[other]} and {count[key]} "
                    "annotations: give one of them another name, or all annotations the id of one"
                )
            unused = other if count[key] else key
            omissions.add("unused categories have the name of another", f"{name} (id {unused})")
            if unused == key:
                continue
            del names[other]
        names[key] = name
    return names, omissions.notes


def corners_of(annotation: dict[str, Any], where: str) -> Corners | None:
    """The box of an annotation, or else the one around its segmentation, or else None."""
    if (numbers := four_numbers(annotation.get("bbox"))) is not None:
        x, y, width, height = numbers
        return x, y, x + width, y + height
    outline = annotation.get("segmentation")
    if isinstance(outline, list) and outline:
        parts = outline if isinstance(outline[0], list) else [outline]
        points = flattened(parts, f"{where}, segmentation")
        return bounds(points, f"{where}, segmentation") if points else None
    if isinstance(outline, dict) and {"counts", "size"} <= {*outline}:
        return run_lengths(outline, where)
    return None


def outlines_of(annotation: dict[str, Any]) -> tuple[Outline, ...]:
    """The polygons of an annotation; none if its segmentation is missing, run-length encoded or no
    list of polygons."""
    parts = annotation.get("segmentation")
    if not isinstance(parts, list) or not parts:
        return ()
    try:
        return tuple(
            polygon(p, "").outlines[0] for p in (parts if isinstance(parts[0], list) else [parts])
        )
    except (DataError, TypeError):
        return ()


def run_lengths(mask: dict[str, Any], where: str) -> Corners:
    """The box around a mask in COCO's run-length encoding, compressed or not."""
    try:
        from pycocotools import mask as coder
    except ImportError as error:
        raise DataError(
            f"{where}: has no bbox, and its segmentation is run-length encoded: pip install pycocotools"
        ) from error
    try:
        height, width = mask["size"]
        encoded = (
            coder.frPyObjects(mask, height, width) if isinstance(mask["counts"], list) else mask
        )
        x, y, width, height = map(float, coder.toBbox(encoded))
    except Exception as error:  # broken counts make the library raise various errors
        raise DataError(f"{where}: its segmentation cannot be decoded ({error})") from error
    return x, y, x + width, y + height


def split_of(file: Path) -> str:
    """annotations/instances_val2017.json -> val2017"""
    return file.stem.removeprefix("instances_")


def load(file: Path, layout: str = "") -> dict[str, Any]:
    """A COCO JSON's content. DataError if one of the lists in NEEDS is missing or invalid."""
    try:
        content = json.loads(file.read_bytes())  # in UTF-8, 16 or 32
    except OSError as error:
        raise DataError(f"{file}: {error.strerror}. {layout}".rstrip(". ")) from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file}: no JSON ({error})") from error
    for key, needs in NEEDS.items():
        rows = content.get(key) if isinstance(content, dict) else None
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise DataError(f"{file}: no COCO json of boxes: it has no list {key!r}")
        for n, row in enumerate(rows):
            if missing := [k for k in needs if k not in row]:
                raise DataError(f"{file}: {key}[{n}] has no {' or no '.join(missing)}")
            if needs and not isinstance(row["id"], int | str):
                raise DataError(f"{file}: {key}[{n}] has the id {row['id']}, no number or text")
    return content
