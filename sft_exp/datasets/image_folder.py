r"""The user's own images, in any format that Pillow reads. Labels come in one of three ways:

    root/<class>/...            no test images: repeated stratified folds take turns as test
    root/train/<class>/...      with root/test/<class>/... as test, if it is there; the images of root/val/<class>/..., if it is
                                there, are training images like the others, because their labels cost the same. Other usual
                                names of the three (Training, valid, test_set, ...) are understood, in any case
    labels=<table.csv>          columns file, label and, where images belong together, group; files relative to root or to the
                                table, with or without suffix; folds take turns as test, unless a column split says train,
                                val or test. An image without a label is pretrained on

One pass reads and decodes each file once, so that what is broken, double or in the wrong place is said before any compute.
An exact copy counts once; a labelled image is no part of the pool; a test image in train is refused here, and one in the pool
before anything is trained, unless protocol.transductive=true allows it.
"""

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from math import prod
from pathlib import Path, PurePosixPath
from statistics import median_low
from typing import Any, ClassVar, NamedTuple

import torch

from sft_exp.data.corpus import Corpus, Dataset
from sft_exp.data.images import Images
from sft_exp.data.readers import findings
from sft_exp.data.readers.files import (
    File,
    Finder,
    Seen,
    below,
    find,
    is_image,
    read_table,
    survey,
    visible,
)
from sft_exp.errors import ConfigError, DataError, listing, require
from sft_exp.progress import console

PARTS = ("train", "val", "test")
LAYOUTS = (
    "Expected is root/<class>/<images>, or root/train/<class>/<images> with root/test and root/val beside it if there are any, "
    "or dataset.labels=<table.csv> with columns file,label and, where images belong together, group"
)
LISTED = 100  # files that the report names
FEW = 8  # folders that a message names


class Row(NamedTuple):
    """An image, and in the end what became of it."""

    file: File
    split: str  # train, test or pool
    label: str = ""
    group: str | None = None
    seen: Seen = Seen()
    # used, broken, duplicate, labelled (and so no part of the pool), ignored (not named like an
    # image)
    fate: str = ""


@dataclass
class ImageFolder(Dataset):
    unhashed: ClassVar[tuple[str, ...]] = (
        "root", "labels", "file_column", "label_column", "unlabelled", "most_pixels", "memory", "workers",
    )  # fmt: skip

    root: str | None = None  # folder of the labelled images
    labels: str | None = None  # CSV of file,label[,group]; null = folders are classes
    # its column with the names of the images, or ids: names without suffix
    file_column: str = "file"
    label_column: str = "label"  # and the one with their classes; an empty label = unlabelled
    unlabelled: Any = None  # images to pretrain on: a folder, glob or tar file, or a list of them
    size: int = 64  # pixels, height and width of all images
    channels: int = 3  # 3 = colour, 1 = grey
    # never split: a column of the CSV, or a regular expression whose one group is found in a path
    group: str | None = None
    # labelled images that cannot be read: refuse, or skip = leave them out and count them
    broken: str = "refuse"
    # of an image that is decoded; null = Pillow's limit against decompression bombs
    most_pixels: int | None = None
    memory: float = 4.0  # GB of images held as one tensor; a larger set is decoded as it is used
    workers: int = 2  # processes that decode it

    def __post_init__(self):
        given = self.unlabelled or []
        entries = given if isinstance(given, list) else [given]
        paths = all(isinstance(entry, str) and entry for entry in entries)
        require(
            paths, "unlabelled", self.unlabelled, "a folder, glob or tar file, or a list of them"
        )
        self.unlabelled = entries
        require(
            self.most_pixels is None or self.most_pixels > 0,
            "most_pixels",
            self.most_pixels,
            "above 0, or null",
        )
        require(self.size > 0, "size", self.size, "above 0")
        require(self.channels in (1, 3), "channels", self.channels, "1 (grey) or 3 (colour)")
        require(self.broken in ("refuse", "skip"), "broken", self.broken, "refuse or skip")
        require(self.memory >= 0, "memory", self.memory, "0 or more")
        require(self.workers >= 0, "workers", self.workers, "0 or more")

    def load(self):
        try:
            rows = self.table() if self.labels else self.folders()
            rows += [
                Row(f, "pool", fate="" if is_image(f.id) else "ignored")
                for f in self.pool({r.file.id for r in rows})
            ]
        except OSError as error:
            raise DataError(f"{error.filename}: {error.strerror}") from error
        ignored, rows = [r for r in rows if r.fate], [r for r in rows if not r.fate]
        image = (self.channels, self.size, self.size)
        held = len(rows) * prod(image) <= self.memory * 1e9
        learnt = [r.split != "test" for r in rows]
        x, seen, levels = survey(
            [r.file for r in rows],
            image,
            held,
            max(1, self.workers),
            learnt=learnt,
            most=self.most_pixels,
        )
        rows, leaks = judged(
            [r._replace(seen=s) for r, s in zip(rows, seen, strict=True)], self.broken == "skip"
        )
        classes, name = (
            complete(rows),
            Path(str(self.root or self.labels)).expanduser().resolve().stem,
        )
        report = {
            "labelled": facts([r for r in rows + ignored if r.split != "pool"]),
            "unlabelled": facts([r for r in rows + ignored if r.split == "pool"]),
        }
        console.print(told(report, self.size), highlight=False, soft_wrap=True)
        used = [r for r in rows if r.fate == "used"]
        warnings = [
            *findings.class_names(classes),
            *findings.unread([r.file.id for r in ignored]),
            *findings.labels(classes, (r.label for r in used if r.split == "test")),
            *findings.images([r.seen for r in used], levels),
        ]
        report |= findings.said(name, warnings)
        if self.unlabelled and not report["unlabelled"]["images"]:
            raise DataError(
                f"dataset.unlabelled={self.unlabelled}: no image there can be read and is not a labelled one"
            )

        def split(name: str) -> Images | None:
            mine = [n for n, r in enumerate(rows) if r.split == name and r.fate == "used"]
            y = torch.tensor([classes.index(rows[n].label) if rows[n].label else -1 for n in mine])
            groups = [g for n in mine if (g := rows[n].group) is not None] or None
            return (
                Images(
                    x, y, [rows[n].file.id for n in mine], groups, self.workers, torch.tensor(mine)
                )
                if mine
                else None
            )

        train, test, extra = (split(name) for name in ("train", "test", "pool"))
        assert train is not None
        content = [
            (r.file.id, r.split, r.label, r.group, r.seen.sha256) for r in rows if r.fate == "used"
        ]

        def fingerprint(*splits: str) -> str:
            return hashlib.sha256(
                json.dumps([image, classes, [c for c in content if c[1] in splits]]).encode()
            ).hexdigest()

        files = {
            r.file.id: r.file.path
            for r in rows
            if r.fate == "used" and r.file.size < 0 and r.file.content is None
        }
        hashes = fingerprint("train", "pool"), fingerprint("test")
        return Corpus(
            name, classes, train, test, extra, image, report, *hashes, files, leaks, levels=levels
        )

    def folders(self) -> list[Row]:
        """What lies in the classes' folders."""
        if not self.root:
            raise ConfigError(
                "dataset.root", self.root, f"must name the folder of your images. {LAYOUTS}"
            )
        root = Path(self.root).expanduser()
        if not root.is_dir():
            raise DataError(f"dataset.root={root}: no such folder. {LAYOUTS}")
        rows = []
        for split, part in self.parts(root) or [("train", root)]:
            inside: dict[str, set[str]] = {}  # class's folder -> its own folders
            if loose := [
                f.name
                for f in sorted(part.iterdir())
                if f.is_file() and visible(f.name) and is_image(f.name)
            ]:
                raise DataError(f"{part}: {loose[0]} lies in no class's folder. {LAYOUTS}")
            if not (folders := self.subfolders(part)):
                raise DataError(f"{part}: no class has a folder there. {LAYOUTS}")
            for folder in folders:
                label = findings.class_name(folder.name)
                files = [File(path.relative_to(root).as_posix(), path) for path in below(folder)]
                images = [f for f in files if is_image(f.id)]
                if not images:
                    raise DataError(
                        f"{folder}: a class without an image. Add some, or remove the folder. {LAYOUTS}"
                    )
                rows += [Row(f, split, label, self.group_in(f.id)) for f in images]
                rows += [Row(f, split, label, fate="ignored") for f in files if not is_image(f.id)]
                deeper = (f.path.relative_to(folder).parts for f in images)
                inside[folder.name] = {
                    findings.class_name(parts[0]) for parts in deeper if len(parts) > 1
                }
            findings.same_subfolders(inside, str(part))
        return rows

    def parts(self, root: Path) -> list[tuple[str, Path]]:
        """(train or test, folder) of the folders that are named like splits; none where all folders are classes.

        A word such as Testing may be a class's name too. It is a split's, if it is exactly train, val or test; if all folders
        are named like splits; or if one is train and those named like splits hold folders of classes. DataError where it
        is not clear which folder is what.
        """
        folders = self.subfolders(root)
        named = [
            (split, folder) for folder in folders if (split := findings.split_named(folder.name))
        ]
        others = [f for f in folders if not findings.split_named(f.name)]
        splits = {split for split, _ in named}
        exact = any(folder.name in PARTS for _, folder in named)
        nested = "train" in splits and all(self.subfolders(folder) for _, folder in named)
        if not named or not (exact or nested or (not others and len(splits) > 1)):
            return []
        if "train" not in splits:
            raise DataError(f"{root}: there is {named[0][1].name}/ and no train/. {LAYOUTS}")
        if others:
            first = next(folder.name for split, folder in named if split == "train")
            raise DataError(
                f"{root}: beside {first}/ there is {', '.join(f'{f.name}/' for f in others)}. {LAYOUTS}"
            )
        order = sorted(named, key=lambda found: PARTS.index(found[0]))
        return [
            ("test" if split == "test" else "train", self.inner(folder)) for split, folder in order
        ]

    def inner(self, part: Path) -> Path:
        """The folder of a split, or the one of the split's name that alone lies in it, as archives that are unpacked into a
        folder of their own name leave them: seg_train/seg_train."""
        inside = self.subfolders(part)
        again = len(inside) == 1 and findings.split_named(inside[0].name) == findings.split_named(
            part.name
        )
        return inside[0] if again else part

    def subfolders(self, folder: Path) -> list[Path]:
        """Without those that are given as unlabelled."""
        pools = {Path(entry).expanduser().resolve() for entry in self.unlabelled}
        return [
            d
            for d in sorted(folder.iterdir())
            if d.is_dir() and visible(d.name) and d.resolve() not in pools
        ]

    def table(self) -> list[Row]:
        """The rows of the CSV; DataError names the line."""
        table = Path(str(self.labels)).expanduser()
        root = Path(self.root).expanduser() if self.root else table.parent
        named, label = self.file_column, self.label_column
        hint = f"; dataset.file_column= and dataset.label_column= name others. {LAYOUTS}"
        columns, lines, _ = read_table(table, "dataset.labels", (named, label), hint)
        column = (
            self.group
            if self.group in columns
            else "group"
            if self.group is None and "group" in columns
            else None
        )
        finder = Finder(root, table)
        rows: dict[str, tuple[int, Row]] = {}
        for number, line in lines:
            where, name = f"{table}, line {number}", line[named]
            if not name:
                raise DataError(f"{where}: the {named} is missing")
            if column and line[label] and not line[column]:
                raise DataError(f"{where}: the {column} is missing (of {name})")
            try:
                path = finder.find(name)
            except DataError as error:
                raise DataError(f"{where}: {error}; write the suffix, too") from error
            if path is None:
                raise DataError(f"{where}: there is no file {name}, {finder}")
            file = File(Path(os.path.relpath(path, root)).as_posix(), path)
            if file.id in rows:
                raise DataError(
                    f"{where}: {name} is already in line {rows[file.id][0]}; an image has one row"
                )
            split = findings.split_named(given) if (given := line.get("split", "")) else "train"
            if split is None:
                raise DataError(f"{where}: split is {given!r}; valid: {', '.join(PARTS)}")
            if not line[label]:
                if split == "test":
                    raise DataError(f"{where}: {name} is to be tested on and has no {label}")
                rows[file.id] = number, Row(file, "pool")
                continue
            group = line[column] if column else self.group_in(file.id, columns)
            rows[file.id] = (
                number,
                Row(
                    file,
                    "test" if split == "test" else "train",
                    findings.class_name(line[label]),
                    group,
                ),
            )
        if not rows:
            raise DataError(f"{table}: no row below the first line")
        if all(row.split == "pool" for _, row in rows.values()):
            raise DataError(f"{table}: column {label} is empty in all rows")
        return [row for _, row in rows.values()]

    def group_in(self, name: str, columns: Iterable[str] = ()) -> str | None:
        """What `dataset.group` as a regular expression finds in an image's path; null finds nothing."""
        if self.group is None:
            return None
        try:
            pattern = re.compile(self.group)
        except re.error:
            pattern = None
        if pattern is None or pattern.groups != 1:
            valid = f"a column of the table ({', '.join(columns)}) or " if columns else ""
            raise ConfigError(
                "dataset.group",
                self.group,
                f"must be {valid}a regular expression with one group, such as (p[0-9]+)_",
            )
        found = pattern.search(name)
        if found is None or not found[1]:
            raise DataError(f"{name}: dataset.group={self.group} finds no group in this path")
        return found[1]

    def pool(self, taken: set[str]) -> list[File]:
        """The unlabelled images, each file once; a name that another image has gets its entry's number in front."""
        files: dict[tuple[str, str], File] = {}
        for number, entry in enumerate(self.unlabelled):
            found = find(entry, self.memory * 1e9)
            if not any(is_image(f.id) for f in found):
                raise DataError(
                    f"dataset.unlabelled={entry}: no image there. It takes folders, globs such as photos/**/*.jpg, tar files"
                )
            for file in found:
                key = os.path.realpath(file.path), file.id.partition("::")[2]
                if key not in files:
                    name = file.id if file.id not in taken else f"{number}/{file.id}"
                    taken.add(name)
                    files[key] = file._replace(id=name)
        return list(files.values())


def judged(rows: list[Row], skip: bool) -> tuple[list[Row], list[tuple[str, str]]]:
    """(the rows with their fates, test images in the pool as (there, in test)). DataError where a labelled image is broken,
    unless `skip`; where a test image is also in train; and where one image has two labels."""
    first: dict[str, Row] = {}  # content -> who had it first
    done, faults, leaks, pooled, clashes = [], [], [], [], []
    for row in rows:
        other = row if row.seen.fault else first.setdefault(row.seen.sha256, row)
        pair = f"{other.file.id} and {row.file.id}"
        if row.seen.fault and row.split != "pool":
            faults.append(f"{row.file.id}: {row.seen.fault}")
        elif (
            row.split == "pool" and other.split == "test"
        ):  # whether that may be is the protocol's affair
            pooled.append((row.file.id, other.file.id))
            other = row
        elif row.split != other.split == "test" or other.split != row.split == "test":
            leaks.append(pair)
        elif row.split == other.split != "pool" and row.label != other.label:
            clashes.append(f"{pair} ({other.label} and {row.label})")
        copied = "duplicate" if row.split == other.split else "labelled"
        done.append(
            row._replace(fate="broken" if row.seen.fault else "used" if other is row else copied)
        )
    if faults and not skip:
        raise DataError(
            f"{len(faults)} of {sum(r.split != 'pool' for r in rows)} labelled images cannot be used:{listing(faults)}\n"
            "Repair or remove them; dataset.broken=skip leaves them out and counts them in the report"
        )
    if leaks:
        raise DataError(
            f"Test images must not be learnt from, but {len(leaks)} are training images too:{listing(leaks)}\nRemove one of each"
        )
    if clashes:
        raise DataError(
            f"An image has one label, but {len(clashes)} have two:{listing(clashes)}\nRemove the wrong copies"
        )
    return done, pooled


def complete(rows: list[Row]) -> tuple[str, ...]:
    """Names of the classes. DataError unless there are two or more, each has a training image, and no group is on both sides."""
    classes = tuple(sorted({r.label for r in rows if r.split != "pool"}))
    if len(classes) < 2:
        first = [PurePosixPath(r.file.id).parts for r in rows if r.split != "pool"]
        below = sorted(
            {
                parts[1]
                for parts in first
                if len(parts) > 2 and findings.class_name(parts[0]) == classes[0]
            }
        )
        inside = (
            f" Below it are {', '.join(below[:FEW])}: is dataset.root one folder too high?"
            if len(below) > 1
            else ""
        )
        raise DataError(
            f"there is one class, {classes[0]}; telling apart takes 2 or more.{inside} {LAYOUTS}"
        )
    train = [r for r in rows if r.split == "train" and r.fate == "used"]
    if bare := sorted(set(classes) - {r.label for r in train}):
        raise DataError(
            f"class {bare[0]} has no training image that can be used, so it cannot be learnt"
        )
    if any(r.split == "test" for r in rows) and not any(
        r.split == "test" and r.fate == "used" for r in rows
    ):
        raise DataError("no test image can be used")
    groups = {r.group: r.file.id for r in train if r.group is not None}
    for row in rows:
        if row.split == "test" and row.group in groups:
            raise DataError(
                f"group {row.group} is in train and in test and must not be split: {groups[row.group]} and {row.file.id}"
            )
    return classes


def facts(rows: list[Row]) -> dict[str, Any]:
    """The report on some images: how many are used, their sizes as (width, height), and what was left out and why."""
    used, broken = ([r for r in rows if r.fate == fate] for fate in ("used", "broken"))
    sides = list(zip(*(r.seen.size for r in used), strict=True))  # all widths, all heights
    fates = Counter(r.fate for r in rows)
    return {
        "images": len(used),
        "tested": sum(r.split == "test" for r in used),
        "classes": dict(Counter(r.label for r in used if r.label)),
        "sizes": {
            name: [of(side) for side in sides]
            for name, of in (("min", min), ("median", median_low), ("max", max))
        },
        "broken": [f"{r.file.id}: {r.seen.fault}" for r in broken][:LISTED],
        "broken_count": len(broken),
        "duplicates": fates["duplicate"],
        "overlap": fates["labelled"],
        "ignored": dict(
            Counter(Path(r.file.id).suffix or "no suffix" for r in rows if r.fate == "ignored")
        ),
    }


def told(report: dict[str, Any], size: int) -> str:
    """The report in a sentence. Images that are tested are not counted as labelled ones to learn from."""
    parts = []
    for kind, found in report.items():
        low, high = ("x".join(map(str, found["sizes"][which])) for which in ("min", "max"))
        classes = f" images of {len(found['classes'])} classes" if found["classes"] else ""
        sizes = f", {low if low == high else f'{low} to {high}'} pixels" if found["images"] else ""
        out = {
            "broken": found["broken_count"],
            "copies": found["duplicates"],
            "labelled ones": found["overlap"],
            **found["ignored"],
        }
        left = ", ".join(f"{what} {count:,}" for what, count in out.items() if count)
        tested = found["tested"]
        count = (
            f"{found['images'] - tested:,} {kind} and {tested:,} test"
            if tested
            else f"{found['images']:,} {kind}"
        )
        parts.append(f"{count}{classes}{sizes}{f' (left out: {left})' if left else ''}")
    return f"{'; '.join(parts)}. All are used at {size}x{size} pixels."
