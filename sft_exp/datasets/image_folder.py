r"""The user's own images, in any format that Pillow reads. Labels come in one of three ways:

    root/<class>/...
        Without a test split, the folds of repeated stratified k-fold are tested.
    root/train/<class>/...
        root/test/<class>/..., if present, is the test split. Images of root/val/<class>/..., if
        present, are training images, because their labels cost the same. Other usual names of the
        three (Training, valid, test_set, ...) are recognised, in upper or lower case, and names
        with such a word (my_train, test.v1) where train and test have the same classes. Without
        test, folds of train and val are tested.
    labels=<table.csv>
        The columns are file, label and, for images that belong together, group. Files are relative
        to root or to the table, with or without suffix. Folds are tested, unless a column split
        says train, val or test. Images without a label are used for pretraining.
    labels=<export.json or annotations.xml>
        Choices of Label Studio (JSON, JSON-MIN), labels.json of FiftyOne, or tags of CVAT, one for
        each image. Images without one are used for pretraining.

One pass reads and decodes each file once, so that broken, duplicate or misplaced files are reported
before any computation. Exact copies count once, and labelled images are removed from the unlabelled
pool. A test image in train is refused here; one in the pool is refused before training, unless
protocol.transductive=true allows it.
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
from sft_exp.data.decode import FITS
from sft_exp.data.exports import choices, recognised
from sft_exp.data.exports.annotated import Tree
from sft_exp.data.images import Images
from sft_exp.data.readers import findings, tabled
from sft_exp.data.readers.files import (
    File,
    Finder,
    Seen,
    below,
    find,
    is_image,
    lacking,
    read_table,
    require_decoding,
    require_existing,
    require_folder,
    survey,
    visible,
)
from sft_exp.datasets import mask_folder
from sft_exp.errors import ConfigError, DataError, absent, listing, require
from sft_exp.progress import console

PARTS = ("train", "val", "test")
LAYOUTS = (
    "Expected is root/<class>/<images>, or root/train/<class>/<images> with root/test and root/val "
    "beside it if there are any, or dataset.labels=<table.csv> with columns file,label and, "
    "where images belong together, group"
)
SEVERAL = (
    "an image has one class here, and each combination is a class of its own; dataset=multilabel_table {key} reads "
    "several classes an image"
)
LISTED = 100  # most files that the report names
FEW = 8  # most folders that a message names


class Row(NamedTuple):
    """A file, and whether it is used."""

    file: File
    split: str  # train, test or pool
    label: str = ""
    group: str | None = None
    seen: Seen = Seen()
    # used, broken, duplicate, labelled (hence not in the pool), ignored (no image by its name)
    fate: str = ""


@dataclass
class ImageFolder(Dataset):
    unhashed: ClassVar[tuple[str, ...]] = (
        "root", "labels", "file_column", "label_column", "unlabelled", "most_pixels", "memory", "workers",
        "cache", "cache_gb",
    )  # fmt: skip

    root: str | None = None  # folder of the labelled images
    # CSV of file,label[,group], or an export of Label Studio or FiftyOne (.json) or CVAT (.xml);
    # null = folders are classes
    labels: str | None = None
    # column of the CSV with file names, with or without suffix
    file_column: str = "file"
    label_column: str = "label"  # column of the CSV with classes; an empty label = unlabelled
    unlabelled: Any = None  # images to pretrain on: a folder, glob or tar file, or a list of them
    size: int = 64  # height and width of all images in pixels
    channels: int = 3  # 3 = colour, 1 = grey
    fit: str = "crop"  # how an image is brought to that size: crop (centre), stretch, letterbox
    # images that must not be split: a column of the CSV, or a regular expression for paths whose
    # one group names them
    group: str | None = None
    # labelled images that cannot be read: refuse, or skip = leave them out and count them
    broken: str = "refuse"
    # most pixels of a file that is decoded; null = Pillow's limit against decompression bombs
    most_pixels: int | None = None
    memory: float = 4.0  # GB of images kept as one tensor; a larger set is decoded per batch
    workers: int = 2  # worker processes that decode images
    # folder in whose subfolder `decoded` the images of a larger set are kept, usually the store;
    # null = none
    cache: str | None = None
    cache_gb: float = 20.0  # most GB that they may take; more are decoded each time

    def __post_init__(self):
        entries = self.unlabelled or []
        entries = entries if isinstance(entries, list) else [entries]
        ok = all(isinstance(entry, str) and entry for entry in entries)
        valid = "a folder, glob or tar file, or a list of them"
        require(ok, "unlabelled", self.unlabelled, valid)
        self.unlabelled = entries
        require_decoding(self)
        require(self.size > 0, "size", self.size, "above 0")
        require(self.fit in FITS, "fit", self.fit, ", ".join(FITS))
        require(self.broken in ("refuse", "skip"), "broken", self.broken, "refuse or skip")
        require(self.memory >= 0, "memory", self.memory, "0 or more")
        require(self.cache_gb >= 0, "cache_gb", self.cache_gb, "0 or more")

    def load(self):
        for entry in self.unlabelled:  # else its images are looked for among those of the classes
            require_existing(entry, "dataset.unlabelled")
        try:
            rows, notes = self.annotated()
            rows += [
                Row(f, "pool", fate="" if is_image(f.id) else "ignored")
                for f in self.pool({r.file.id for r in rows})
            ]
        except OSError as error:
            raise DataError(f"{error.filename}: {error.strerror}") from error
        ignored, rows = [r for r in rows if r.fate], [r for r in rows if not r.fate]
        image = (self.channels, self.size, self.size)
        fits_memory = len(rows) * prod(image) <= self.memory * 1e9
        x, seen, levels = survey(
            [r.file for r in rows],
            image,
            fits_memory,
            max(1, self.workers),
            self.fit,
            learnt=[r.split != "test" for r in rows],
            most=self.most_pixels,
        )
        rows = [r._replace(seen=s) for r, s in zip(rows, seen, strict=True)]
        rows, leaks = decide_fates(rows, self.broken == "skip")
        classes = check_classes(rows, self.learnt)
        name = Path(str(self.root or self.labels)).expanduser().resolve().stem
        report = {
            "labelled": facts([r for r in rows + ignored if r.split != "pool"]),
            "unlabelled": facts([r for r in rows + ignored if r.split == "pool"]),
        }
        console.message(summary(report, self.size))
        used = [r for r in rows if r.fate == "used"]
        warnings = [
            *notes,
            *findings.check_class_names(classes, SEVERAL),
            *findings.check_labels_are_classes([r.label for r in used if r.split != "pool"]),
            *findings.check_names_beside([r.file.id for r in used]),
            *findings.check_heic([r.file.id for r in ignored]),
            *findings.check_suffixes([r.file for r in ignored if r.split != "pool"]),
            *findings.check_absent_classes(classes, (r.label for r in used if r.split == "test")),
            *findings.check_shortcuts(*labelled(used)),
            *findings.check_images([r.seen for r in used], levels),
            *findings.check_crop([r.seen.size for r in used], image, self.fit),
        ]
        report |= findings.print_warnings(name, warnings)
        if self.unlabelled and not report["unlabelled"]["images"]:
            raise DataError(
                f"dataset.unlabelled={self.unlabelled}: "
                "all images there are unreadable or copies of labelled images"
            )

        def images_of(split: str) -> Images | None:
            at = [n for n, r in enumerate(rows) if r.split == split and r.fate == "used"]
            if not at:
                return None
            y = torch.tensor([classes.index(rows[n].label) if rows[n].label else -1 for n in at])
            ids = [rows[n].file.id for n in at]
            groups = [group for n in at if (group := rows[n].group) is not None] or None
            return Images(x, y, ids, groups, self.workers, torch.tensor(at))

        train, test, extra = (images_of(split) for split in ("train", "test", "pool"))
        assert train is not None
        content = [(r.file.id, r.split, r.label, r.group, r.seen.sha256) for r in used]

        def fingerprint(*splits: str) -> str:
            how = () if self.fit == "crop" else (self.fit,)
            text = json.dumps([image, *how, classes, [c for c in content if c[1] in splits]])
            return hashlib.sha256(text.encode()).hexdigest()

        # files of their own, and not members of an archive
        files = {r.file.id: r.file.path for r in used if r.file.size < 0 and r.file.content is None}
        findings.require_groups_apart(train, test)
        hashes = fingerprint("train", "pool"), fingerprint("test")
        return Corpus(
            name,
            classes,
            train,
            test,
            extra,
            image,
            report,
            *hashes,
            files,
            leaks,
            levels=levels,
            fit=self.fit,
        )

    def annotated(self) -> tuple[list[Row], tuple[str, ...]]:
        """The labelled files and those that are named without a label, and notes of a reader."""
        if not self.labels:
            return self.folders()
        file = Path(str(self.labels)).expanduser()
        return self.from_export(file) if file.suffix.lower() in choices.SUFFIXES else self.table()

    def from_export(self, file: Path) -> tuple[list[Row], tuple[str, ...]]:
        """The files of a labelling tool's export, and the reader's notes."""
        if not file.is_file():
            raise DataError(f"dataset.labels={file}: {absent(file, 'file')}")
        root = Path(self.root).expanduser() if self.root else file.parent
        images, notes = choices.read(file, root)
        rows = []
        for image in images:
            name = Path(os.path.relpath(image.path, root)).as_posix()
            part = "test" if image.split == "test" else "train"
            if not image.label and part == "test":
                raise DataError(f"{file}: {name} is a test image and has no class")
            group = self.group_in(name) if image.label else None
            split = part if image.label else "pool"
            rows.append(Row(File(name, image.path), split, image.label, group))
        splits = {image.split or "train" for image in images if image.label}
        return rows, (*notes, *findings.check_untested_val(splits))

    def folders(self) -> tuple[list[Row], tuple[str, ...]]:
        """The files in the folders of the classes, and notes. DataError for other layouts."""
        if not self.root:
            raise ConfigError(
                "dataset.root", self.root, f"must name the folder of your images. {LAYOUTS}"
            )
        root = Path(self.root).expanduser()
        require_folder(root, "dataset.root", LAYOUTS)
        try:
            return self.classes_in(root)
        except DataError as error:
            raise DataError(f"{error}{annotated_otherwise(root)}") from error

    def classes_in(self, root: Path) -> tuple[list[Row], tuple[str, ...]]:
        """`folders` of a root that exists."""
        rows, nested, unsure = [], dict[str, set[str]](), list[Path]()
        splits = self.parts(root)
        notes = findings.check_split_names(splits) if splits else findings.check_split_lists(root)
        ordered = sorted(splits, key=lambda name: PARTS.index(splits[name]))
        parts = [(splits[name], self.inner(root / name)) for name in ordered]
        for named, part in parts or [("train", root)]:
            split = "test" if named == "test" else "train"
            inside: dict[str, set[str]] = {}  # folder of a class -> its subfolders
            if loose := [
                f.name
                for f in sorted(part.iterdir())
                if f.is_file() and visible(f.name) and is_image(f.name)
            ]:
                hint = self.table_beside(part, root)
                if not hint and not self.subfolders(part):
                    hint = (
                        f" {self.no_split(part)}"
                        if splits
                        else " Is dataset.root one folder too low?"
                    )
                    if named != "train":
                        hint = (
                            f" Without classes its images can be pretrained on: dataset.root={root / 'train'} "
                            f"dataset.unlabelled={part}.{hint}"
                        )
                problem = f"{part}: {loose[0]} is not in the folder of a class."
                raise DataError(f"{problem}{hint} {LAYOUTS}")
            if not (folders := self.subfolders(part)):
                raise DataError(f"{part}: has no folders of classes. {LAYOUTS}")
            refuse_masks(part, root)
            for folder in folders:
                if findings.holds_no_labels(folder.name):
                    raise DataError(
                        f"{folder}: is named like images without labels: dataset.unlabelled={folder} "
                        "pretrains on them. A class of this name needs a table, dataset.labels=<table.csv>"
                    )
                label = findings.class_name(folder.name)
                files = [File(path.relative_to(root).as_posix(), path) for path in below(folder)]
                images = [f for f in files if is_image(f.id)]
                if not images:
                    holds = findings.suffixes([f.id for f in files])
                    raise DataError(
                        f"{folder}: has no images of this class{holds}. "
                        f"Add some, or remove the folder. {LAYOUTS}"
                    )
                groups = [self.group_in(f.id) for f in images]
                rows += [
                    Row(f, split, label, group) for f, group in zip(images, groups, strict=True)
                ]
                rows += [Row(f, split, label, fate="ignored") for f in files if not is_image(f.id)]
                # the subfolders, "" for the folder itself; those that are groups are known
                deeper = [f.path.relative_to(folder).parts[:-1] for f in images]
                inside[folder.name] = {
                    findings.class_name(way[0]) if way else ""
                    for way, group in zip(deeper, groups, strict=True)
                    if (group or "").rpartition("/")[2] not in way
                }
                if len(inside[folder.name]) > 1:
                    nested.setdefault(label, set()).update(inside[folder.name])
            if not splits:
                notes += findings.check_names_like_splits([folder.name for folder in folders])
            unsure += folders
            findings.refuse_shared_subfolders(inside, str(part))
        notes += [*findings.check_subfolders(nested), *findings.check_unsure_classes(unsure)]
        return rows, tuple(notes)

    def table_beside(self, part: Path, root: Path) -> str:
        """A hint at a table in or above a folder of images, such as Hugging Face's metadata.csv, or ""."""
        tables = sorted(p for p in part.glob("*.csv") if visible(p.name))
        tables += sorted(p for p in root.glob("*.csv") if visible(p.name))
        if not tables:
            return ""
        keys = f"dataset.root={part} dataset.labels={tables[0]}"
        column = " dataset.file_column=file_name" if tables[0].name == "metadata.csv" else ""
        return f" Where {tables[0].name} names their classes: {keys}{column}."

    def no_split(self, folder: Path) -> str:
        """How to say that a folder is a class, where it is named like a split."""
        return (
            f"{folder.name}/ is read as a split because of its name: where it is a class, give it another "
            "one, or name each image's class in a table."
        )

    def parts(self, root: Path) -> dict[str, str]:
        """Folder -> train, val or test, of the folders that are splits; {} if all are classes.

        A word such as Testing may also be the name of a class. It names a split if it is exactly
        train, val or test; if all folders are named like splits; or if one is train and those named
        like splits hold folders of classes. So do words inside of names, such as my_train, if one
        is train and one is not, and these share classes. DataError where this is not clear.
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
            words = findings.splits([folder.name for folder in folders])
            held: dict[bool, set[str]] = {True: set(), False: set()}  # whether of train -> classes
            for name, split in words.items():
                held[split == "train"] |= {f.name for f in self.subfolders(root / name)}
            if not held[True] & held[False]:
                return {}
            named = [(words[f.name], f) for f in folders if f.name in words]
            others, splits = [f for f in folders if f.name not in words], {*words.values()}
        if "train" not in splits and not self.learnt and not others:
            return {folder.name: "train" for _, folder in named}  # all of it is scored
        if "train" not in splits:
            other = named[0][1]
            raise DataError(
                f"{root}: there is {other.name}/ and no train/. {self.no_split(other)} {LAYOUTS}"
            )
        if others:
            first = next(folder for split, folder in named if split == "train")
            names = ", ".join(f"{f.name}/" for f in others)
            raise DataError(
                f"{root}: beside {first.name}/ there is {names}. {self.no_split(first)} {LAYOUTS}"
            )
        return {folder.name: split for split, folder in named}

    def inner(self, part: Path) -> Path:
        """The folder of a split, or its only subfolder, if that names the same split.

        Archives that were unpacked into a folder of their own name look so: seg_train/seg_train.
        """
        inside = self.subfolders(part)
        if len(inside) != 1:
            return part
        split = findings.split_word(part.name)
        return inside[0] if split and findings.split_word(inside[0].name) == split else part

    def subfolders(self, folder: Path) -> list[Path]:
        """The visible subfolders, without those in `unlabelled`."""
        pools = {Path(entry).expanduser().resolve() for entry in self.unlabelled}
        return [
            d
            for d in sorted(folder.iterdir())
            if d.is_dir() and visible(d.name) and d.resolve() not in pools
        ]

    def table(self) -> tuple[list[Row], tuple[str, ...]]:
        """The files of the CSV, and notes. A DataError names the line."""
        table = Path(str(self.labels)).expanduser()
        root = Path(self.root).expanduser() if self.root else table.parent
        file_column, label_column = self.file_column, self.label_column
        keys = zip(("file_column", "label_column"), (file_column, label_column), strict=True)
        absent = [f"dataset.{key}=<{column}>" for key, column in keys]
        hint = f"; name others, such as {' '.join(absent)}. {LAYOUTS}"
        several = (
            f"; for images with several classes: dataset=multilabel_table dataset.table={table}"
        )
        needs = (file_column, label_column)
        read = read_table(table, "dataset.labels", needs, hint, label_column)
        if label_column not in read.columns:
            taken = (file_column, str(self.group))
            read = tabled.one_hot(read, table, taken, label_column, several)
        if label_column not in read.columns:
            raise lacking(table, read.columns, needs, hint)
        columns, lines, _, notes = tabled.with_split(read, needs)
        if self.group is None:
            notes = (*notes, *tabled.ungrouped(read, needs))
        notes = (*notes, *findings.check_pending_labels(line[label_column] for _, line in lines))
        group_column = "group" if self.group is None else self.group
        folded = group_column.casefold()  # of the columns' names, case does not count
        group_column = next((c for c in columns if c.casefold() == folded), "")
        finder = Finder(root, table)
        rows: dict[str, tuple[int, Row]] = {}
        for number, line in lines:
            where, name, label = f"{table}, line {number}", line[file_column], line[label_column]
            if not name:
                raise DataError(f"{where}: the {file_column} is missing")
            listed = tabled.items(label)
            if listed is not None and not (listed and all(map(str.isdecimal, listed))):
                raise DataError(
                    f"{where}: {label_column} is {label}, a list as programs write it: write the name of one class, or "
                    "dataset=multilabel_table reads several classes an image"
                )
            if group_column and label and not line[group_column]:
                raise DataError(f"{where}: the {group_column} is missing (of {name})")
            try:
                path = finder.find(name)
            except DataError as error:
                raise DataError(f"{where}: {error}; write the suffix, too") from error
            if path is None:
                raise DataError(f"{where}: there is no file {name}, {finder}{finder.nearest(name)}")
            file = File(Path(os.path.relpath(path, root)).as_posix(), path)
            if file.id in rows:
                raise DataError(
                    f"{where}: {name} is already in line {rows[file.id][0]}; "
                    "an image must have one row"
                )
            split = findings.split_named(given) if (given := line.get("split", "")) else "train"
            if split is None:
                raise DataError(f"{where}: split is {given!r}; valid: {', '.join(PARTS)}")
            if not label:
                if split == "test":
                    raise DataError(
                        f"{where}: {name} is a test image and has no {label_column}: label it, or remove its row"
                    )
                rows[file.id] = number, Row(file, "pool")
                continue
            split = "test" if split == "test" else "train"
            group = line[group_column] if group_column else self.group_in(file.id, columns)
            rows[file.id] = number, Row(file, split, findings.class_name(label), group)
        if not rows:
            raise DataError(f"{table}: has no row below the first line")
        if all(row.split == "pool" for _, row in rows.values()):
            raise DataError(f"{table}: column {label_column} is empty in all rows")
        return [row for _, row in rows.values()], notes

    def group_in(self, name: str, columns: Iterable[str] = ()) -> str | None:
        """The group in an image's path by the regular expression `dataset.group`, or None."""
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
        match = pattern.search(name)
        if match is None or not match[1]:
            raise DataError(f"{name}: dataset.group={self.group} finds no group in this path")
        return match[1]

    def pool(self, taken: set[str]) -> list[File]:
        """The unlabelled images, each file once.

        An id in `taken` is made unique by the number of its entry in `dataset.unlabelled`.
        """
        files: dict[tuple[str, str], File] = {}
        for number, entry in enumerate(self.unlabelled):
            entry_files = find(entry, self.memory * 1e9)
            if not any(is_image(f.id) for f in entry_files):
                raise DataError(
                    f"dataset.unlabelled={entry}: no image there. "
                    "It takes folders, globs such as photos/**/*.jpg, tar files"
                )
            for file in entry_files:
                key = os.path.realpath(file.path), file.id.partition("::")[2]
                if key not in files:
                    name = file.id if file.id not in taken else f"{number}/{file.id}"
                    taken.add(name)
                    files[key] = file._replace(id=name)
        return list(files.values())


def labelled(rows: list[Row]) -> tuple[list[str], list[Seen]]:
    """The labels and properties of the training images."""
    train = [r for r in rows if r.split == "train"]
    return [r.label for r in train], [r.seen for r in train]


def decide_fates(rows: list[Row], skip: bool) -> tuple[list[Row], list[tuple[str, str]]]:
    """Decide which files are used: (rows with `fate`, leaked test images as (in pool, in test)).

    DataError for a labelled image that is broken, unless `skip`; for a test image that is also in
    train; and for an image with two labels.
    """
    first: dict[str, Row] = {}  # content -> the first row with it
    done, faults, leaks, pooled, clashes = [], [], [], [], []
    for row in rows:
        other = row if row.seen.fault else first.setdefault(row.seen.sha256, row)
        pair = f"{other.file.id} and {row.file.id}"
        if row.seen.fault and row.split != "pool":
            faults.append(f"{row.file.id}: {row.seen.fault}")
        elif row.split == "pool" and other.split == "test":
            # allowed or refused later, by protocol.transductive
            pooled.append((row.file.id, other.file.id))
            other = row
        elif row.split != other.split == "test" or other.split != row.split == "test":
            leaks.append(pair)
        elif row.split == other.split != "pool" and row.label != other.label:
            clashes.append(f"{pair} ({other.label} and {row.label})")
        if row.seen.fault:
            fate = "broken"
        elif other is row:
            fate = "used"
        else:
            fate = "duplicate" if row.split == other.split else "labelled"
        done.append(row._replace(fate=fate))
    if faults and not skip:
        labelled = sum(r.split != "pool" for r in rows)
        raise DataError(
            f"{len(faults)} of {labelled} labelled images cannot be used:{listing(faults)}\n"
            "Repair or remove them; "
            "dataset.broken=skip leaves them out and counts them in the report"
        )
    if leaks:
        raise DataError(
            f"Test images must not be trained on, but {len(leaks)} are in the training split:"
            f"{listing(leaks)}\nRemove one of each"
        )
    if clashes:
        raise DataError(
            f"An image must have one label, but {len(clashes)} have two:{listing(clashes)}\n"
            "Remove the wrong copies"
        )
    return done, pooled


def check_classes(rows: list[Row], learnt: bool) -> tuple[str, ...]:
    """The class names. DataError for a test split without usable images, and if they are learnt, for
    fewer than two classes and for a class without training images."""
    classes = tuple(sorted({r.label for r in rows if r.split != "pool"}))
    if learnt and len(classes) < 2:
        paths = [PurePosixPath(r.file.id).parts for r in rows if r.split != "pool"]
        below = sorted(
            {
                parts[1]
                for parts in paths
                if len(parts) > 2 and findings.class_name(parts[0]) == classes[0]
            }
        )
        hint = ""
        if len(below) > 1:
            hint = f" Below it are {', '.join(below[:FEW])}: is dataset.root one folder too high?"
        raise DataError(
            f"there is one class, {classes[0]}; classification takes 2 or more.{hint} {LAYOUTS}"
        )
    train = [r for r in rows if r.split == "train" and r.fate == "used"]
    if learnt and (bare := sorted(set(classes) - {r.label for r in train})):
        alike = [repr(c) for c in classes if findings.simplified(c) == findings.simplified(bare[0])]
        hint = f". {' and '.join(alike)} differ only in how they are written: rename one"
        raise DataError(
            f"class {bare[0]} has no training image that can be used, so it cannot be learnt"
            f"{hint if len(alike) > 1 else ''}"
        )
    test_fates = {r.fate for r in rows if r.split == "test"}
    if test_fates and "used" not in test_fates:
        raise DataError("no test image can be used")
    return classes


def facts(rows: list[Row]) -> dict[str, Any]:
    """The report on some files: the number used, sizes (width, height), and what is left out."""
    used, broken = ([r for r in rows if r.fate == fate] for fate in ("used", "broken"))
    sides = list(zip(*(r.seen.size for r in used), strict=True))  # (all widths, all heights)
    fates = Counter(r.fate for r in rows)
    return {
        "images": len(used),
        "tested": sum(r.split == "test" for r in used),
        "classes": dict(Counter(r.label for r in used if r.label)),
        "sizes": {
            name: [function(side) for side in sides]
            for name, function in (("min", min), ("median", median_low), ("max", max))
        },
        "broken": [f"{r.file.id}: {r.seen.fault}" for r in broken][:LISTED],
        "broken_count": len(broken),
        "duplicates": fates["duplicate"],
        "overlap": fates["labelled"],
        "ignored": dict(
            Counter(Path(r.file.id).suffix or "no suffix" for r in rows if r.fate == "ignored")
        ),
    }


def summary(report: dict[str, Any], size: int) -> str:
    """The report as a sentence. Test images are not counted as labelled images."""
    parts = []
    for kind, entry in report.items():
        images, tested = entry["images"], entry["tested"]
        text = f"{images - tested:,} {kind} and {tested:,} test" if tested else f"{images:,} {kind}"
        if entry["classes"]:
            text += f" images of {len(entry['classes'])} classes"
        if images:
            low, high = ("x".join(map(str, entry["sizes"][which])) for which in ("min", "max"))
            text += f", {low if low == high else f'{low} to {high}'} pixels"
        left_out = {
            "broken": entry["broken_count"],
            "copies": entry["duplicates"],
            "labelled ones": entry["overlap"],
            **entry["ignored"],
        }
        counts = ", ".join(f"{what} {count:,}" for what, count in left_out.items() if count)
        parts.append(f"{text} (left out: {counts})" if counts else text)
    return f"{'; '.join(parts)}. All are used at {size}x{size} pixels."


def refuse_masks(part: Path, root: Path) -> None:
    """DataError for a folder of images and one of their masks, which are no classes."""
    images, masks = (
        mask_folder.called(part, names) for names in (mask_folder.IMAGES, mask_folder.MASKS)
    )
    if not (images.is_dir() and masks.is_dir()):
        return
    stems = [{p.stem for p in below(f) if is_image(p.name)} for f in (images, masks)]
    if 2 * len(stems[0] & stems[1]) > len(stems[0] | stems[1]):
        problem = f"{images} and {masks} have files of the same names, as images and their masks do"
        raise DataError(f"{problem}: dataset=mask_folder dataset.root={root} reads them")


def annotated_otherwise(root: Path) -> str:
    """The data set that reads the annotations in a folder without folders of classes; "" without
    any."""
    found = [f for f in recognised.FORMATS.values() if f.files(Tree(root))]
    if not found:
        return ""
    names = " and ".join(f.NAME for f in found)
    return f". There are annotations of {names}: dataset=boxes dataset.root={root} reads boxes"
