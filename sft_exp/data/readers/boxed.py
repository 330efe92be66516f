"""Turns images with boxes, in any annotation format, into a corpus with boxes on one canvas.

Faults are reported with the file's name before any training. Invalid boxes (without area, outside
of the image) are refused; `boxes=drop` omits and reports them, and clips boxes that exceed the
image.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from math import isfinite, prod
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from sft_exp.data.boxes import Letterbox, pad
from sft_exp.data.corpus import Corpus, Dataset
from sft_exp.data.decode import ORIENTATION, open_undecoded
from sft_exp.data.images import Images
from sft_exp.data.readers import findings
from sft_exp.data.readers.files import File, Seen, require_decoding, require_folder, survey
from sft_exp.errors import ConfigError, DataError, listing, require, some
from sft_exp.progress import console

# pixels by which a box may exceed the image, because of rounding or of tools that count from 1
TOLERANCE = 1.0
UNLEARNT = 0.2  # share of the test boxes whose class has no training box, above which it is a fault
# share of invalid boxes, among this number or more, above which their unit or form is looked at
FAULTY, MANY = 0.1, 8
FRACTION = 1.0  # largest coordinate of boxes that are fractions of the image's sides


class Box(NamedTuple):
    """An annotated box."""

    label: str
    # x0, y0, x1, y1 in pixels from the image's left and upper edge
    corners: tuple[float, float, float, float]
    crowd: bool = False  # a crowd or a difficult object, which is ignored in training and scores
    name: str = ""  # its position in the file, for messages
    # the closed polygons x, y, x, y, ... inside the box; none where they are unknown
    outlines: tuple[tuple[float, ...], ...] = ()


class ImageWithBoxes(NamedTuple):
    """An image with its boxes."""

    file: File
    boxes: list[Box]
    size: tuple[int, int] | None  # width and height that the annotations state, if any
    source: str  # the file of annotations


class BoxSet(Dataset):
    """The common fields of data sets of images with boxes."""

    gives: ClassVar[tuple[str, ...]] = ("boxes", "labels", "crowd")
    unhashed: ClassVar[tuple[str, ...]] = ("root", "most_pixels", "memory", "workers")

    root: str | None  # folder of the data set
    # canvas in pixels, into which images are fitted: one number for a square, or [rows, columns]
    size: Any
    channels: int  # 3 = colour, 1 = grey
    boxes: str  # boxes without area or outside of the image: refuse, or drop = omit and report them
    most_pixels: int | None  # limit of the pixels of a decoded image
    memory: float  # GB of images held in memory; a larger data set is decoded on use
    workers: int  # processes that decode on use

    def __post_init__(self):
        sides = self.size if isinstance(self.size, list) else [self.size]
        whole = all(isinstance(s, int) and not isinstance(s, bool) and s > 0 for s in sides)
        valid = whole and len(sides) in (1, 2)
        require(valid, "size", self.size, "a number of pixels, or [rows, columns]")
        require(self.boxes in ("refuse", "drop"), "boxes", self.boxes, "refuse or drop")
        require_decoding(self)
        require(self.memory >= 0, "memory", self.memory, "0 or more")


def corpus(
    source: BoxSet,
    name: str,
    classes: tuple[str, ...],
    train: list[ImageWithBoxes],
    test: list[ImageWithBoxes] | None,
    notes: Sequence[str] = (),
    recognised: str = "",
) -> Corpus:
    """The data set as a corpus.

    Args:
        source: the options of the data set.
        name: its name in messages.
        classes: the classes in the order of their labels.
        train: training images.
        test: test images, if there are any.
        notes: the reader's omissions and interpretations, which are treated like warnings.
        recognised: the recognised format, for the summary.

    Raises:
        DataError: an image is unusable or in both splits, or a box is invalid.
    """
    sides = source.size if isinstance(source.size, list) else [source.size]
    image = (source.channels, sides[0], sides[-1])
    marked = train + (test or [])
    if not train:
        raise DataError(f"{source.root}: no image to train on")
    hold = len(marked) * prod(image) <= source.memory * 1e9
    x, seen, levels = survey(
        [m.file for m in marked],
        image,
        hold,
        max(1, source.workers),
        "letterbox",
        [n < len(train) for n in range(len(marked))],
        source.most_pixels,
    )
    refuse_unusable(marked, seen)
    marked, rotated = upright(marked, seen)
    refuse_other_sizes(marked, seen)
    refuse_trained_on(train, test or [], seen)
    valid, faults = [], []
    for m, s in zip(marked, seen, strict=True):
        boxes, faults_of_image = valid_boxes(m, s.size, source.boxes == "drop")
        valid.append(boxes)
        faults += faults_of_image
    refuse_other_units(marked, [s.size for s in seen], len(faults))
    if source.boxes == "refuse":
        remedy = "; dataset.boxes=drop leaves them out, or takes the part that is inside"
        refuse(faults, "boxes cannot be used", remedy)
    learnt = [box for boxes in valid[: len(train)] for box in boxes]
    if not any(not box.crowd for box in learnt):
        crowds = f", but {len(learnt):,} crowds or difficult ones" if learnt else ""
        raise DataError(f"{name}: no training image has a box{crowds}: there is nothing to learn")
    valid, repeated = without_copies(valid)
    places = [Letterbox.fit(s.size, image[1:]) for s in seen]
    targets = target_tensors(valid, places, classes)
    report = {
        "train": counts_for_report(train, valid[: len(train)], classes),
        **({"test": counts_for_report(test, valid[len(train) :], classes)} if test else {}),
        "dropped": faults,
    }
    console.message(summary(name, report, len(classes), recognised))
    if rotated:
        how = "are turned upright by their Exif orientation, and their boxes with them"
        notes = [*notes, f"{len(rotated):,} images {how}"]
    # of the remaining turned images a warning says that boxes must be drawn on the upright image
    as_annotated = [
        s._replace(traits=s.traits._replace(turned=False)) if n in rotated else s
        for n, s in enumerate(seen)
    ]
    warnings = [
        *notes,
        *repeated,
        *findings.check_class_names(classes),
        *findings.check_images(as_annotated, levels, "boxes"),
        *unlearnt(valid[: len(train)], valid[len(train) :]),
    ]
    report |= findings.print_warnings(name, warnings)

    def part(start: int, end: int) -> Images:
        rows = torch.arange(start, end)
        ids = [m.file.id for m in marked[start:end]]
        return Images(x, torch.zeros_like(rows), ids, None, source.workers, rows, targets)

    def fingerprint(start: int, end: int) -> str:
        content = [
            # outlines are no targets
            (marked[n].file.id, seen[n].sha256, [box[:4] for box in valid[n]])
            for n in range(start, end)
        ]
        return hashlib.sha256(json.dumps([image, classes, content]).encode()).hexdigest()

    n, all_ = len(train), len(marked)
    return Corpus(
        name,
        classes,
        part(0, n),
        part(n, all_) if test else None,
        image=image,
        report=report,
        fingerprint=fingerprint(0, n),
        test_fingerprint=fingerprint(n, all_),
        files={m.file.id: m.file.path for m in marked},
        strata=("image",),
        levels=levels,
    )


def refuse_unusable(marked: list[ImageWithBoxes], seen: Sequence[Seen]) -> None:
    """DataError that names the images that cannot be decoded."""
    faults = [f"{m.file.path}: {s.fault}" for m, s in zip(marked, seen, strict=True) if s.fault]
    refuse(faults, "images cannot be used")


def refuse_other_sizes(marked: list[ImageWithBoxes], seen: Sequence[Seen]) -> None:
    """DataError that names the images whose size is not the one that their annotations state."""
    faults = []
    for m, s in zip(marked, seen, strict=True):
        if m.size and m.size != s.size:
            actual, stated = (f"{width} x {height}" for width, height in (s.size, m.size))
            faults.append(f"{m.file.path}: has {actual} pixels, and {m.source} says {stated}")
    refuse(faults, "images are not those that were annotated")


def refuse_trained_on(
    train: list[ImageWithBoxes], test: list[ImageWithBoxes], seen: Sequence[Seen]
) -> None:
    """DataError that names the test images with the content of a training image.

    `seen` are the properties of the training images, and then of the test images.
    """
    train_image = {s.sha256: m for m, s in zip(train, seen, strict=False)}
    both = [
        f"{m.file.id} and {train_image[s.sha256].file.id}"
        for m, s in zip(test, seen[len(train) :], strict=True)
        if s.sha256 in train_image
    ]
    refuse(both, "test images are training images too")


def upright(
    marked: list[ImageWithBoxes], seen: Sequence[Seen]
) -> tuple[list[ImageWithBoxes], set[int]]:
    """(the images with boxes of the upright image, indices of those whose boxes were rotated).

    If the annotations state the size of the stored image, and not that of the upright one, the
    image was annotated before its Exif orientation was applied.
    """
    result, rows = list(marked), set[int]()
    for n, (m, s) in enumerate(zip(marked, seen, strict=True)):
        if m.size and s.traits.turned and m.size == s.size[::-1] != s.size:
            with open_undecoded(m.file.read()) as picture:
                orientation = picture.getexif().get(ORIENTATION, 1)
            boxes = [
                b._replace(corners=rotate_box(b.corners, m.size, orientation)) for b in m.boxes
            ]
            result[n] = m._replace(boxes=boxes, size=s.size)
            rows.add(n)
    return result, rows


def rotate_box(
    corners: tuple[float, float, float, float], size: tuple[int, int], orientation: int
) -> tuple[float, float, float, float]:
    """A box of the stored image of this (width, height), transformed to the upright image.

    `orientation` is Exif's, from 5 to 8: those that exchange rows and columns.
    """
    width, height = size
    x0, y0, x1, y1 = corners
    if orientation in (6, 7):  # the stored bottom edge becomes the left edge
        y0, y1 = height - y1, height - y0
    if orientation in (7, 8):  # the stored right edge becomes the top edge
        x0, x1 = width - x1, width - x0
    return y0, x0, y1, x1


def labels(marked: Sequence[ImageWithBoxes]) -> list[str]:
    """The sorted names of classes with a box."""
    return sorted({b.label for m in marked for b in m.boxes})


def require_known_classes(
    classes: Sequence[str], marked: Sequence[ImageWithBoxes], key: str
) -> None:
    """DataError if a box is of a class that is not in `classes`.

    `key` is the configuration key that `classes` come from; "" means the training images.
    """
    boxes = [(m, box) for m in marked for box in m.boxes]
    unknown = [f"{m.source}: {box.label!r}" for m, box in boxes if box.label not in classes]
    valid = key or f"the training images, which have {', '.join(classes) or 'none'}"
    refuse(unknown, f"boxes are of a class that is not in {valid}")


def refuse(faults: list[str], what: str, remedy: str = "") -> None:
    """DataError with the number of faults and the first of them, if there are any.

    `what` completes the sentence '3 ...', and `remedy` says what the user can do.
    """
    if faults:
        raise DataError(f"{len(faults)} {what}{remedy}:{listing(faults)}")


def valid_boxes(
    marked: ImageWithBoxes, size: tuple[int, int], clip: bool
) -> tuple[list[Box], list[str]]:
    """(the valid boxes, clipped to the image; the faults of the others).

    Args:
        marked: the image.
        size: width and height of the image.
        clip: whether boxes that exceed the image are valid.
    """
    valid, faults = [], []
    for box in marked.boxes:
        x0, y0, x1, y1 = box.corners
        inside = (max(0.0, x0), max(0.0, y0), min(float(size[0]), x1), min(float(size[1]), y1))
        excess = max(abs(a - b) for a, b in zip(box.corners, inside, strict=True))
        finite = all(map(isfinite, box.corners))
        fault = ""
        if not finite:
            fault = "is no box of four numbers"
        elif x1 <= x0 or y1 <= y0:
            fault = "has no area"
        elif inside[2] <= inside[0] or inside[3] <= inside[1]:
            fault = f"lies outside of the image, {size[0]} x {size[1]}"
        elif excess > TOLERANCE:
            fault = f"reaches outside of the image, {size[0]} x {size[1]}"
        if fault:
            corners = f" ({', '.join(f'{v:g}' for v in box.corners)})" if finite else ""
            where = f"{marked.source}, {box.name}" if box.name else marked.source
            faults.append(f"{where}: {box.label}{corners} of {marked.file.id} {fault}")
        if not fault or (clip and fault.startswith("reaches")):
            valid.append(box._replace(corners=inside))
    return valid, faults


def refuse_other_units(
    marked: Sequence[ImageWithBoxes], sizes: Sequence[tuple[int, int]], faults: int
) -> None:
    """DataError if boxes are fractions of the image's sides where pixels are meant, or state two corners
    where a corner or centre and a size are meant.

    Args:
        marked: the images.
        sizes: their (width, height).
        faults: how many of their boxes are invalid.
    """
    pairs = [(box.corners, size) for m, size in zip(marked, sizes, strict=True) for box in m.boxes]
    pairs = [(corners, size) for corners, size in pairs if all(map(isfinite, corners))]
    if not pairs:
        return
    if all(max(corners) <= FRACTION for corners, _ in pairs) and min(map(min, sizes)) > 2:
        raise DataError(
            "all boxes lie in the first pixel of their images: are they fractions of the image's sides? "
            "This format has pixels"
        )
    if faults <= len(pairs) * (FAULTY if len(pairs) >= MANY else 0.5):
        return

    def inside(corners: tuple[float, ...], size: tuple[int, int]) -> bool:
        x0, y0, x1, y1 = corners
        return 0 <= x0 < x1 <= size[0] + TOLERANCE and 0 <= y0 < y1 <= size[1] + TOLERANCE

    # what the file's four numbers are, if the box was made of a corner and a size, or of the centre
    readings = (
        lambda x0, y0, x1, y1: (x0, y0, x1 - x0, y1 - y0),
        lambda x0, y0, x1, y1: ((x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0),
    )
    if any(all(inside(reading(*corners), size) for corners, size in pairs) for reading in readings):
        raise DataError(
            f"{faults:,} of {len(pairs):,} boxes reach outside of their images, and none would if their four numbers were "
            "x0, y0, x1, y1: this format has x and y, and then width and height"
        )


def without_copies(boxes_N: list[list[Box]]) -> tuple[list[list[Box]], list[str]]:
    """(the boxes of each image, each once; a warning of those that were repeated)."""
    once = [
        list({(box.label, box.corners, box.crowd): box for box in boxes}.values())
        for boxes in boxes_N
    ]
    count = sum(map(len, boxes_N)) - sum(map(len, once))
    problem = "have the class and corners of another one of the same image, and count once"
    return once, [f"{count:,} boxes {problem}"] if count else []


def unlearnt(train: list[list[Box]], test: list[list[Box]]) -> list[str]:
    """A warning of classes that have boxes in test images alone, if these are many."""
    known, tested = (
        Counter(box.label for boxes in part for box in boxes if not box.crowd)
        for part in (train, test)
    )
    missing = sorted({*tested} - {*known})
    if sum(tested[label] for label in missing) <= UNLEARNT * tested.total():
        return []
    return [f"no training image has a box of {some(missing)}, which test images have"]


def target_tensors(
    boxes_N: list[list[Box]], places: list[Letterbox], classes: tuple[str, ...]
) -> dict[str, Tensor]:
    """The targets by name: boxes [N, M, 4] on the canvas, labels [N, M] from 1 (0 = none), and
    crowd [N, M] (1 = ignored in training and scores)."""
    label_of = {name: n for n, name in enumerate(classes, start=1)}
    corners_N = [torch.tensor([box.corners for box in boxes]).reshape(-1, 4) for boxes in boxes_N]
    boxes_NM4, labels_NM = pad(
        [place.place(corners_M4) for place, corners_M4 in zip(places, corners_N, strict=True)],
        [torch.tensor([label_of[b.label] for b in boxes], dtype=torch.long) for boxes in boxes_N],
    )
    crowd_NM = torch.zeros_like(labels_NM)
    for row, boxes in zip(crowd_NM, boxes_N, strict=True):
        row[: len(boxes)] = torch.tensor([b.crowd for b in boxes], dtype=torch.long)
    return {"boxes": boxes_NM4, "labels": labels_NM, "crowd": crowd_NM}


def counts_for_report(
    marked: list[ImageWithBoxes], boxes_N: list[list[Box]], classes: tuple[str, ...]
) -> dict[str, Any]:
    """Counts of images, boxes by class, and crowds for the report."""
    counts = Counter(b.label for boxes in boxes_N for b in boxes)
    return {
        "images": len(marked),
        "without boxes": sum(not boxes for boxes in boxes_N),
        "boxes": {name: counts[name] for name in classes if counts[name]},
        "crowds": sum(b.crowd for boxes in boxes_N for b in boxes),
    }


def summary(name: str, report: dict[str, Any], classes: int, recognised: str = "") -> str:
    """A sentence on the data set: images, boxes by class, crowds, and dropped boxes."""
    parts = [recognised] if recognised else []
    for split in ("train", "test"):
        if counts := report.get(split):
            by_count = sorted(counts["boxes"].items(), key=lambda item: -item[1])
            commonest = ", ".join(f"{label} {count:,}" for label, count in by_count[:5])
            commonest += ", ..." if len(by_count) > 5 else ""
            if len(by_count) < classes:
                commonest += f"; of {len(by_count)} of the {classes} classes"
            commonest = commonest.removeprefix("; ")
            total, crowds = sum(counts["boxes"].values()), counts["crowds"]
            text = f"{split} {counts['images']:,} images, {total:,} boxes ({commonest})"
            text += f", of which {crowds} crowds or difficult are not counted" if crowds else ""
            if empty := counts["without boxes"]:
                text += f", {empty} images without boxes"
            parts.append(text)
    if dropped := report["dropped"]:
        parts.append(f"{len(dropped)} boxes left out, or cut at the edge:{listing(dropped)}")
    return f"{name}: {'; '.join(parts)}"


def path_of(root: str | None, layout: str) -> Path:
    """The data set's folder. ConfigError without a name, DataError without such a folder."""
    if not root:
        raise ConfigError("dataset.root", root, f"must name a folder. {layout}")
    folder = Path(root).expanduser()
    require_folder(folder, "dataset.root", layout)
    return folder
