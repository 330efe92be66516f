"""Annotated images, as a reader found them in COCO's, VOC's or anybody's files, as a data set of boxes on one canvas.

What is wrong is said with the file's name before any compute. A box that cannot be (without area, outside of its image) is
refused, or with `boxes=drop` named and left out; of one that reaches over the edge, the part inside is kept then.
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
from sft_exp.data.decode import ORIENTATION, unpacked
from sft_exp.data.images import Images
from sft_exp.data.readers import findings
from sft_exp.data.readers.files import File, Seen, survey
from sft_exp.errors import ConfigError, DataError, listing, require
from sft_exp.progress import console

NEAR = 1.0  # pixels that a box may reach over the edge: rounding, and tools that count from 1


class Box(NamedTuple):
    """x0 y0 x1 y1 in pixels from the image's left and upper edge."""

    label: str
    at: tuple[float, float, float, float]
    # a region of many, or too difficult to tell: neither learnt nor counted as found or missed
    crowd: bool = False
    name: str = ""  # where it stands in its file


class Marked(NamedTuple):
    """An image with its boxes."""

    file: File
    boxes: list[Box]
    size: tuple[int, int] | None  # width, height, as the annotations say; None = they do not
    told: str  # the file of annotations


class BoxSet(Dataset):
    """Images with boxes from files. The fields that all of these have, whatever else they have."""

    gives: ClassVar[tuple[str, ...]] = ("boxes", "labels", "crowd")
    unhashed: ClassVar[tuple[str, ...]] = ("root", "most_pixels", "memory", "workers")

    root: str | None  # folder of the data set
    # canvas in pixels, on which images are fitted whole: one number for a square, or [rows,
    # columns]
    size: Any
    channels: int  # 3 = colour, 1 = grey
    # boxes without area or outside of the image: refuse, or drop = leave them out and name them
    boxes: str
    most_pixels: int | None  # of an image that is decoded
    memory: float  # GB of images held as one tensor; a larger set is decoded as it is used
    workers: int  # processes that decode it

    def __post_init__(self):
        sides = self.size if isinstance(self.size, list) else [self.size]
        whole = all(isinstance(s, int) and not isinstance(s, bool) and s > 0 for s in sides)
        require(
            whole and len(sides) in (1, 2),
            "size",
            self.size,
            "a number of pixels, or [rows, columns]",
        )
        require(self.channels in (1, 3), "channels", self.channels, "1 (grey) or 3 (colour)")
        require(self.boxes in ("refuse", "drop"), "boxes", self.boxes, "refuse or drop")
        require(
            self.most_pixels is None or self.most_pixels > 0,
            "most_pixels",
            self.most_pixels,
            "above 0, or null",
        )
        require(self.memory >= 0, "memory", self.memory, "0 or more")
        require(self.workers >= 0, "workers", self.workers, "0 or more")


def corpus(
    source: BoxSet,
    name: str,
    classes: tuple[str, ...],
    train: list[Marked],
    test: list[Marked] | None,
    notes: Sequence[str] = (),
    recognised: str = "",
) -> Corpus:
    """The data set; DataError if an image cannot be used, is in both parts, or has a box that cannot be.

    Args:
        notes: what the reader left out or had to interpret; they are shown and kept like the warnings.
        recognised: how the reader took the files, for the sentence on the data set.
    """
    sides = source.size if isinstance(source.size, list) else [source.size]
    image = (source.channels, sides[0], sides[-1])
    marked = train + (test or [])
    if not train:
        raise DataError(f"{source.root}: no image to train on")
    held = len(marked) * prod(image) <= source.memory * 1e9
    learnt = [n < len(train) for n in range(len(marked))]
    x, seen, levels = survey(
        [m.file for m in marked],
        image,
        held,
        max(1, source.workers),
        "letterbox",
        learnt,
        source.most_pixels,
    )
    refuse(
        [f"{m.file.path}: {s.fault}" for m, s in zip(marked, seen, strict=True) if s.fault],
        "images cannot be used",
    )
    marked, stored = upright(marked, seen)
    refuse(
        [
            f"{m.file.path}: has {s.size[0]} x {s.size[1]} pixels, and {m.told} says {m.size[0]} x {m.size[1]}"
            for m, s in zip(marked, seen, strict=True)
            if m.size and m.size != s.size
        ],
        "images are not those that were annotated",
    )
    first = {s.sha256: m for m, s in zip(train, seen, strict=False)}
    tested = zip(test or [], seen[len(train) :], strict=True)
    both = [f"{m.file.id} and {other.file.id}" for m, s in tested if (other := first.get(s.sha256))]
    refuse(both, "test images are training images too")
    judged = [sound(m, s.size, source.boxes == "drop") for m, s in zip(marked, seen, strict=True)]
    kept, faults = [boxes for boxes, _ in judged], [line for _, lines in judged for line in lines]
    if source.boxes == "refuse":
        refuse(
            faults,
            "boxes cannot be",
            "; dataset.boxes=drop leaves them out, or takes the part that is inside",
        )
    places = [Letterbox.fit(s.size, image[1:]) for s in seen]
    targets = tensors(kept, places, classes)
    report = {
        "train": facts(train, kept[: len(train)], classes),
        **({"test": facts(test, kept[len(train) :], classes)} if test else {}),
        "dropped": faults,
    }
    console.message(told(name, report, len(classes), recognised))
    if stored:
        notes = [
            *notes,
            f"{len(stored):,} images are turned upright by their Exif orientation, and their boxes with them",
        ]
    rest = [
        s._replace(traits=s.traits._replace(turned=False)) if n in stored else s
        for n, s in enumerate(seen)
    ]
    warnings = [*notes, *findings.class_names(classes), *findings.images(rest, levels, "boxes")]
    report |= findings.said(name, warnings)

    def part(start: int, end: int) -> Images:
        rows = torch.arange(start, end)
        ids = [m.file.id for m in marked[start:end]]
        return Images(
            x, torch.zeros(len(rows), dtype=torch.long), ids, None, source.workers, rows, targets
        )

    def fingerprint(start: int, end: int) -> str:
        content = [(marked[n].file.id, seen[n].sha256, kept[n]) for n in range(start, end)]
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


def upright(marked: list[Marked], seen: Sequence[Seen]) -> tuple[list[Marked], set[int]]:
    """(the images with boxes of the upright image; which of them were annotated as they are stored).

    An image was annotated as it is stored, before its Exif orientation turned it, where the annotations state that size
    and not the upright one.
    """
    found, rows = list(marked), set[int]()
    for n, (m, s) in enumerate(zip(marked, seen, strict=True)):
        if m.size and s.traits.turned and m.size == s.size[::-1] != s.size:
            with unpacked(m.file.read()) as picture:
                turn = picture.getexif().get(ORIENTATION, 1)
            boxes = [b._replace(at=turned(b.at, m.size, turn)) for b in m.boxes]
            found[n] = m._replace(boxes=boxes, size=s.size)
            rows.add(n)
    return found, rows


def turned(
    at: tuple[float, float, float, float], size: tuple[int, int], orientation: int
) -> tuple[float, float, float, float]:
    """A box of the stored image of this (width, height), on the upright one. `orientation` is Exif's, 5 to 8: those that
    exchange rows and columns."""
    width, height = size
    x0, y0, x1, y1 = at
    if orientation in (6, 7):  # the stored lower edge comes to the left
        y0, y1 = height - y1, height - y0
    if orientation in (7, 8):  # the stored right edge comes to the top
        x0, x1 = width - x1, width - x0
    return y0, x0, y1, x1


def labels(marked: Sequence[Marked]) -> list[str]:
    """The names of classes that have a box, sorted."""
    return sorted({b.label for m in marked for b in m.boxes})


def must_know(classes: Sequence[str], marked: Sequence[Marked], key: str) -> None:
    """DataError where boxes are of a class that is not among `classes`, which `key` gave, or else the training images."""
    unknown = [f"{m.told}: {b.label!r}" for m in marked for b in m.boxes if b.label not in classes]
    valid = key or f"the training images, which have {', '.join(classes) or 'none'}"
    refuse(unknown, f"boxes are of a class that is not in {valid}")


def refuse(faults: list[str], what: str, remedy: str = "") -> None:
    if faults:
        raise DataError(f"{len(faults)} {what}{remedy}:{listing(faults)}")


def sound(marked: Marked, size: tuple[int, int], clip: bool) -> tuple[list[Box], list[str]]:
    """(the boxes that can be, inside of the image; of the others, which and why). `size` = width, height."""
    kept, faults = [], []
    for box in marked.boxes:
        x0, y0, x1, y1 = box.at
        inside = (max(0.0, x0), max(0.0, y0), min(float(size[0]), x1), min(float(size[1]), y1))
        over = max(abs(a - b) for a, b in zip(box.at, inside, strict=True))
        why = (
            "is no box of four numbers" if not all(map(isfinite, box.at))
            else "has no area" if x1 <= x0 or y1 <= y0
            else f"lies outside of the image, {size[0]} x {size[1]}" if inside[2] <= inside[0] or inside[3] <= inside[1]
            else f"reaches outside of the image, {size[0]} x {size[1]}" if over > NEAR
            else ""
        )  # fmt: skip
        if why:
            corners = (
                f" ({', '.join(f'{v:g}' for v in box.at)})" if all(map(isfinite, box.at)) else ""
            )
            where = f"{marked.told}, {box.name}" if box.name else marked.told
            faults.append(f"{where}: {box.label}{corners} of {marked.file.id} {why}")
        if not why or (clip and why.startswith("reaches")):
            kept.append(box._replace(at=inside))
    return kept, faults


def tensors(
    kept: list[list[Box]], places: list[Letterbox], classes: tuple[str, ...]
) -> dict[str, Tensor]:
    """boxes [N, M, 4] on the canvas, labels [N, M] from 1 (0 = none), crowd [N, M]."""
    label_of = {name: n for n, name in enumerate(classes, start=1)}
    found = [
        p.place(torch.tensor([b.at for b in boxes]).reshape(-1, 4))
        for boxes, p in zip(kept, places, strict=True)
    ]
    boxes_NM4, labels_NM = pad(
        found,
        [torch.tensor([label_of[b.label] for b in boxes], dtype=torch.long) for boxes in kept],
    )
    crowd_NM = torch.zeros_like(labels_NM)
    for row, boxes in zip(crowd_NM, kept, strict=True):
        row[: len(boxes)] = torch.tensor([b.crowd for b in boxes], dtype=torch.long)
    return {"boxes": boxes_NM4, "labels": labels_NM, "crowd": crowd_NM}


def facts(marked: list[Marked], kept: list[list[Box]], classes: tuple[str, ...]) -> dict[str, Any]:
    counts = Counter(b.label for boxes in kept for b in boxes)
    return {
        "images": len(marked),
        "without boxes": sum(not boxes for boxes in kept),
        "boxes": {name: counts[name] for name in classes if counts[name]},
        "crowds": sum(b.crowd for boxes in kept for b in boxes),
    }


def told(name: str, report: dict[str, Any], classes: int, recognised: str = "") -> str:
    """The data set in a sentence; it says where some of the classes have no box."""
    parts = []
    for split in ("train", "test"):
        if about := report.get(split):
            most = sorted(about["boxes"].items(), key=lambda item: -item[1])
            named = ", ".join(f"{label} {count:,}" for label, count in most[:5]) + (
                ", ..." if len(most) > 5 else ""
            )
            named += f"; of {len(most)} of the {classes} classes" if len(most) < classes else ""
            crowds = (
                f", of which {about['crowds']} crowds or difficult are not counted"
                if about["crowds"]
                else ""
            )
            none = (
                f", {about['without boxes']} images without boxes" if about["without boxes"] else ""
            )
            parts.append(
                f"{split} {about['images']:,} images, {sum(about['boxes'].values()):,} boxes ({named}){crowds}{none}"
            )
    lost = (
        [
            f"{len(report['dropped'])} boxes left out, or cut at the edge:{listing(report['dropped'])}"
        ]
        if report["dropped"]
        else []
    )
    return f"{name}: " + "; ".join([*([recognised] if recognised else []), *parts, *lost])


def path_of(root: str | None, layout: str) -> Path:
    """The data set's folder. ConfigError if none is named, DataError if there is none; both say what is expected there."""
    if not root:
        raise ConfigError("dataset.root", root, f"must name a folder. {layout}")
    folder = Path(root).expanduser()
    if not folder.is_dir():
        raise DataError(f"dataset.root={root}: no such folder. {layout}")
    return folder
