"""YOLO's text files (docs.ultralytics.com/datasets/detect).

Ultralytics, Roboflow, CVAT, Label Studio and LabelImg write them. A line is a class's number and a
box (centre x, centre y, width, height) or a polygon (x, y, x, y, ...), as fractions of the image's
sides. The text is beside its image, or in labels/ if the image is in images/.
"""

import re
from collections import Counter
from pathlib import Path, PureWindowsPath
from typing import Any, ClassVar, NamedTuple

import numpy as np
from yaml import SafeLoader, YAMLError

from sft_exp.data.decode import open_undecoded, upright_size
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
from sft_exp.data.readers.files import content_of, is_image
from sft_exp.errors import DataError, some

NAME = "YOLO"
LAYOUT = "a text for each image, beside it or in labels/, with data.yaml, classes.txt or obj.names for the classes"
LISTS = ("classes.txt", "obj.names", "_darknet.labels")
SPLITS = ("train", "val", "valid", "test")
SLACK = 0.01  # fraction of a side by which boxes may exceed the image
# a row of classes.txt with the class's number before its name: 0 person, 1: car, 2,bus
NUMBERED = re.compile(r"(\d+)(?:\s*[:,;=|)]\s*|\.?\s+)(\S.*)")
COLUMNS = (
    "delete further columns of boxes, such as a confidence or a track's number; "
    "keypoints need their number and columns in data.yaml, such as kpt_shape: [17, 3]"
)
ABSENT = ("", "~", "null", "Null", "NULL")  # how YAML writes that a key has no value
POSE = ("kpt_shape", "flip_idx", "kpt_names")  # keys of data.yaml where keypoints follow each box
# shares of the lines: those whose first four numbers are a box inside of the image, and those whose
# numbers are an outline that crosses itself, or leaps, from which lines may be no polygons.
# Simulated: 1.0 and 0.36 or more of poses of two points or more, 0.97 and 0.11 at most of polygons
BOXES, ODD = 0.98, 0.25
LEAP = 3.0  # sizes of an outline, from which its second corner is far from the others


class Texts(SafeLoader):
    """Reads all scalars as the text that is written: YAML 1.1 takes `no` for False, 010 for 8."""

    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {}


class Meta(NamedTuple):
    """The content of data.yaml or of a list of classes."""

    file: Path
    classes: tuple[str, ...]
    splits: dict[str, list[str]]  # split -> folders or lists of images, as written in the file
    top: str = ""  # the folder to which these paths are relative
    # how many numbers of keypoints follow each box; 0 = unknown, None = no keypoints
    keypoints: int | None = None
    notes: tuple[str, ...] = ()


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
        loader = Texts(text_of(file))
        content = loader.get_single_data()
    except (YAMLError, RecursionError, ValueError):  # ValueError: a tag such as !!int of a text
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
    refuse_other_lists(tree, about)
    images, omissions, columns = [], Omissions(), Columns()
    splits = split_by_image(tree, about, omissions)
    for image in tree.pictures:
        text = label_file(image)
        split = splits.get(image.resolve()) or tree.split(image)
        if splits and image.resolve() not in splits:
            omissions.add("images are in none of the listed splits and are left out", image.name)
            continue
        if text is None:
            reason = "images have no text, which in this format means that they hold no object"
            omissions.add(reason, image.name)
        boxes = lines(text, image, about, columns) if text else []
        images.append(AnnotatedImage(image, boxes, text or about.file, None, split))
    used = {label_file(image) for image in tree.pictures}
    for text in tree.ending(".txt"):
        if text.name not in LISTS and text not in used and is_label(text):
            omissions.add(
                "texts with boxes have no image of their name and are left out", text.name
            )
    notes = (*about.notes, *columns.notes(), *omissions.notes)
    return Export(images, about.classes, notes)


def refuse_other_lists(tree: Tree, about: Meta) -> None:
    """DataError if a list of classes beside data.yaml gives another name to one of the numbers."""
    for file in (p for p in tree.files if p.name in LISTS and p != about.file):
        try:
            names = meta(file).classes
        except DataError:  # data.yaml is read, and not this file
            continue
        for n, (here, there) in enumerate(zip(names, about.classes, strict=False)):
            if here != there:
                raise DataError(
                    f"{file}: class {n} is {here!r}, and in {about.file} {there!r}; "
                    "keep the file that belongs to the labels"
                )


def meta(file: Path) -> Meta:
    """Read a file of class names. DataError if they are neither a list nor numbered from 0."""
    if file.name in LISTS:
        names, notes = listed_names(file)
        content: dict[Any, Any] = {}
    else:
        content, notes = mapping(file), ()
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
    count = str(content.get("nc"))
    if count.isdecimal() and int(count) != len(classes):
        raise DataError(f"{file}: nc is {count}, and names lists {len(classes)} classes")
    splits = {
        str(findings.split_named(key)): paths if isinstance(paths, list) else [paths]
        for key in SPLITS
        if (paths := content.get(key)) and paths not in ABSENT
    }
    top = "" if (top := str(content.get("path", ""))) in ABSENT else top
    return Meta(file, classes, splits, top, keypoints(content), notes)


def keypoints(content: dict[Any, Any]) -> int | None:
    """`Meta.keypoints` by data.yaml's kpt_shape: [number of keypoints, 2 or 3 columns of each]."""
    shape = content.get("kpt_shape")
    if isinstance(shape, list) and len(shape) == 2 and all(str(n).isdecimal() for n in shape):
        return int(shape[0]) * int(shape[1])
    return 0 if any(key in content for key in POSE) else None


def listed_names(file: Path) -> tuple[Any, tuple[str, ...]]:
    """(the names in a list of classes, as a list or by number; notes).

    DataError if one line seems to hold several names, or names are numbered from another number
    than 0.
    """
    rows = text_of(file).rstrip().splitlines()
    way_out = "Write the names alone, one a line, from class 0 on, or names: [...] into a data.yaml"
    notes: tuple[str, ...] = ()
    comments = [row for row in rows if re.match(r"#\s*\w", row)]
    if comments and len(comments) < len(rows):
        rows = [row for row in rows if row not in comments]
        notes = (f"{len(comments):,} lines of {file.name} are comments: {some(comments)}",)
    if len(rows) == 1 and re.search(r"[^,;|\t][,;|\t]\s*[^,;|\t\s]", rows[0].strip()):
        raise DataError(f"{file}: its one line is {rows[0]!r}: are these several names? {way_out}")
    pairs = [match.groups() for row in rows if (match := NUMBERED.fullmatch(row.strip()))]
    by_number = {int(number_): name for number_, name in pairs}
    # names such as `1 door` and `2 door` differ in their numbers alone
    if len(pairs) == len(rows) == len({*by_number.values()}):
        if sorted(by_number) == list(range(len(rows))):
            return by_number, notes
        if sorted(by_number) == list(range(1, len(rows) + 1)):
            raise DataError(f"{file}: its lines are numbered from 1. {way_out}")
    return rows, notes


def split_by_image(tree: Tree, about: Meta, omissions: Omissions) -> dict[Path, str]:
    """Image -> split, for all images in the folders and lists that data.yaml names, or without it
    in Darknet's lists.

    A split that is not there is left out, but for the training images. DataError if these are not
    there, or an image is in two splits.
    """
    splits: dict[Path, str] = {}
    found = {
        (split, str(entry)): located(tree, about, str(entry))
        for split, entries in about.splits.items()
        for entry in entries
    }
    learnt = any(place for (split, _), place in found.items() if split == "train")
    for split, entry in [key for key, place in found.items() if place is None]:
        if not learnt:
            problem = "which is neither relative to it nor to dataset.root"
            raise DataError(f"{about.file}: {split} is {entry}, {problem}")
        reason = f"paths of {about.file.name} are not there and are left out"
        omissions.add(reason, f"{split} ({entry})")
    places = [(split, place) for (split, _), place in found.items() if place]
    for split, place in places if found else darknet_lists(tree, about):
        if place.is_dir():
            inside = place.resolve()
            paths = [p for p in tree.pictures if p.resolve().is_relative_to(inside)]
        else:
            paths = []
            for row in rows_of(place):
                if path := tree.find(row, place):
                    paths.append(path)
                else:
                    omissions.add("images are named but missing", row)
        for path in paths:
            if (other := splits.setdefault(path.resolve(), split)) != split:
                raise DataError(f"{about.file}: {path} is in {other} and in {split}")
    return splits


def located(tree: Tree, about: Meta, written: str) -> Path | None:
    """The folder or list of images at a path of data.yaml, or None.

    It may be relative to `path`, to the file, or to a folder beside it (Roboflow's
    `../train/images`), or a path of another machine that ends in one of these. An end without the
    folder that names the split could be another split's.
    """
    here, path = about.file.parent, PureWindowsPath(written)
    parts = [part for part in path.parts if part not in (".", "..", path.anchor)]
    named = [n for n, part in enumerate(parts) if findings.split_named(part)]
    last = named[-1] if named else len(parts) - 1
    ends = [Path(*parts[n:]) for n in range(last + 1 if path.anchor else 1)]
    tops = (here, tree.root, *([tree.images] if tree.images else []))
    places = [here / about.top / written, here / written, *(t / end for end in ends for t in tops)]
    return next((p for p in places if p.exists()), None)


def rows_of(file: Path) -> list[str]:
    return [row for line in text_of(file).split("\n") if (row := line.strip())]


def darknet_lists(tree: Tree, about: Meta) -> list[tuple[str, Path]]:
    """(split, list of images) of Darknet's layout: the lists that obj.data names, and further texts
    with the name of a split."""
    lists: dict[Path, str] = {}
    for file in tree.ending(".data"):
        for key, _, value in (row.partition("=") for row in rows_of(file)):
            split = findings.split_named(key.strip())
            name = PureWindowsPath(value.strip()).name  # CVAT writes data/ before it
            places = (located(tree, about, text) for text in (value.strip(), name))
            if split and (place := next(filter(None, places), None)):
                lists[place] = split
    for file in tree.ending(".txt"):
        if split := findings.split_named(file.stem):
            lists.setdefault(file, split)
    return [(split, p) for p, split in lists.items() if any(map(is_image, rows_of(p)[:1]))]


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


class Columns:
    """Finds exports whose lines are a box and further columns, such as a confidence and a track's
    number, or keypoints, of which an even number looks like a polygon."""

    def __init__(self) -> None:
        self.first = ""  # the first line of more than four numbers
        self.counts: Counter[int] = Counter()  # more than four numbers after the class -> lines
        self.boxes = 0  # of these, lines whose first four numbers are a box inside of the image
        self.doubtful = 0  # and all of whose further points are in that box
        self.odd = 0  # or whose numbers are no outline that anybody draws
        self.whole = 0  # lines with whole numbers where tracks or visibilities have them

    def add(self, values: list[float], where: str) -> None:
        if len(values) <= 4:
            return
        self.counts[len(values)] += 1
        self.first = self.first or where
        if len(self.counts) > 1:  # outlines differ in their corners, and columns do not
            return
        (x, y, width, height), more = values[:4], values[4:]
        x0, y0, x1, y1 = x - width / 2, y - height / 2, x + width / 2, y + height / 2
        is_box = min(width, height) > 0 and min(x0, y0) >= -SLACK and max(x1, y1) <= 1 + SLACK
        if not is_box or is_parallelogram(values):
            return
        self.boxes += 1
        self.odd += is_odd(np.array(values).reshape(-1, 2))
        triples = len(more) % 3 == 0
        # visibilities; in a polygon they would be corners at the image's edges
        self.whole += triples and {*more[2::3]} <= {0, 1, 2}
        if len(more) == 2:  # or a triangle, which has no whole numbers
            self.doubtful += any(v.is_integer() for v in more)
            self.whole += any(v.is_integer() for v in more)
            return

        def inside(step: int) -> bool:
            """Whether all further points are in the box, or are (0, 0), as unlabelled ones."""
            points = zip(more[::step], more[1::step], strict=False)
            return all((x0 <= a <= x1 and y0 <= b <= y1) or a == b == 0 for a, b in points)

        self.doubtful += inside(2) or (triples and inside(3))

    def notes(self) -> tuple[str, ...]:
        """A warning if the lines may be no polygons. DataError if they surely are none."""
        if len(self.counts) != 1:
            return ()
        ((count, lines),) = self.counts.items()
        found = f"{lines:,} lines have {count} numbers after the class"
        boxes = self.boxes >= BOXES * lines
        if boxes and self.whole == self.boxes:
            raise DataError(f"{self.first}: {found}, which are no polygon: {COLUMNS}")
        unlike = boxes and self.odd >= ODD * lines
        if lines < findings.ALIKE or not (self.doubtful == lines or unlike):
            return ()  # few polygons may look so by chance
        meaning = f"and are read as polygons of {count // 2} corners. If they are boxes: {COLUMNS}"
        return (f"{found} (as in {self.first}), {meaning}",)


def is_parallelogram(values: list[float]) -> bool:
    """Whether a polygon has four corners, opposite ones with one centre, as a rotated box has."""
    a, b, c, d = values[0:2], values[2:4], values[4:6], values[6:8]
    return len(values) == 8 and all(abs(a[i] + c[i] - b[i] - d[i]) < SLACK for i in (0, 1))


def is_odd(corners_K2: np.ndarray) -> bool:
    """Whether a polygon crosses itself, or its second corner, which of a box is width and height, lies
    far from the others."""
    others = np.delete(corners_K2, 1, 0)
    low, high = others.min(0), others.max(0)
    near = LEAP * (high - low).max()
    if ((corners_K2[1] < low - near) | (corners_K2[1] > high + near)).any():
        return True
    ends_K2 = np.roll(corners_K2, -1, 0)
    along_K2 = ends_K2 - corners_K2

    def sides(points_K2: np.ndarray) -> np.ndarray:
        """[K, K], the sign of the side of each edge (row) on which each point lies."""
        off_KK2 = points_K2[None] - corners_K2[:, None]
        return np.sign(
            along_K2[:, None, 0] * off_KK2[..., 1] - along_K2[:, None, 1] * off_KK2[..., 0]
        )

    parted_KK = sides(corners_K2) * sides(ends_K2) < 0  # the edge of the row parts that edge's ends
    return bool((parted_KK & parted_KK.T).any())


def lines(text: Path, image: Path, about: Meta, columns: "Columns") -> list[Box]:
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
        x0, y0, x1, y1 = shape(values, about.keypoints, f"{text}, {where}")
        if not all(-SLACK <= v <= 1 + SLACK for v in (x0, y0, x1, y1)) and max(x1, y1) > 2:
            problem = "are no shares of the image's sides, from 0 to 1"
            problem += f"; {COLUMNS}" if len(values) > 4 else ""
            raise DataError(f"{text}, {where}: {' '.join(words)} {problem}")
        pose = about.keypoints is not None
        if not pose:
            columns.add(values, f"{text}, {where}")
        corners = (x0 * width, y0 * height, x1 * width, y1 * height)
        polygon = len(values) > 4 and not pose
        outline = tuple(v * (width, height)[i % 2] for i, v in enumerate(values))
        outlines = (outline,) if polygon else ()
        boxes.append(Box(about.classes[int(label)], corners, False, where, outlines))
    return boxes


def shape(values: list[float], keypoints: int | None, where: str) -> Corners:
    """A line's box, or the box around its polygon; `keypoints` is that of `Meta`."""
    pose = keypoints is not None
    if keypoints and len(values) not in (4, 4 + keypoints):
        valid = (
            f"valid are 4 (a box), or {4 + keypoints} with the keypoints of kpt_shape in data.yaml"
        )
        raise DataError(f"{where}: {len(values)} numbers after the class; {valid}")
    if len(values) == 4 or (pose and len(values) > 4):
        x, y, width, height = values[:4]
        return x - width / 2, y - height / 2, x + width / 2, y + height / 2
    if len(values) < 6 or len(values) % 2:
        valid = "valid are 4 (a box) or pairs x, y of 3 corners or more"
        valid += f"; {COLUMNS}" if len(values) > 4 else ""
        raise DataError(f"{where}: {len(values)} numbers after the class; {valid}")
    return bounds(values, where)


def sides(image: Path) -> tuple[int, int]:
    """Width and height of the upright image. DataError if it cannot be opened."""
    try:
        with open_undecoded(content_of(image)) as picture:
            return upright_size(picture)
    except DataError as error:
        raise DataError(f"{image}: {error}") from error
    except Exception as error:  # broken files make Pillow raise various errors
        raise DataError(f"{image}: cannot be opened: {error or type(error).__name__}") from error
