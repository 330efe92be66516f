"""Images with numbers to predict: a CSV with the column `file` and a column for each number.

It has one row per image. Files are relative to root, or to the table. A column `split` says train
or test; without it, folds are tested. A column `group` names images that must not be split. Images
without a number are used for pretraining.
"""

import hashlib
import json
from dataclasses import dataclass, field
from math import isfinite, prod
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch

from sft_exp.data.corpus import Corpus, Dataset
from sft_exp.data.readers import findings
from sft_exp.data.readers.files import File, Finder, images_in, part, read_table, survey
from sft_exp.data.readers.masks import Canvas
from sft_exp.errors import ConfigError, DataError, listing, require
from sft_exp.progress import console

MOST = 3e38  # largest 32-bit number
EPSILON = 2**-23  # relative step of 32-bit numbers
STEPS = 1000  # of them between the lowest and highest value, at least
FAR = 20.0  # distances between the quartiles, from which a value lies apart from the others


class Row(NamedTuple):
    id: str
    path: Path
    split: str  # train, test, or pool (without numbers)
    value: tuple[float, ...] = ()
    group: str | None = None
    stratum: int = 0


@dataclass
class NumberTable(Dataset):
    unhashed: ClassVar[tuple[str, ...]] = (
        "root", "table", "file_column", "unlabelled", "most_pixels", "memory", "workers",
    )  # fmt: skip
    gives: ClassVar[tuple[str, ...]] = ("value",)

    table: str | None = None  # CSV of file,target
    root: str | None = None  # folder that files are relative to; null = the table's
    # column of the CSV with file names, with or without suffix
    file_column: str = "file"
    columns: list[str] = field(default_factory=lambda: ["target"])  # the numbers to predict
    unlabelled: str | None = None  # folder of images to pretrain on
    size: Any = 64  # pixels, or [rows, columns], of all images
    channels: int = 3  # 3 = colour, 1 = grey
    fit: str = "crop"  # how an image is brought to that size: crop (centre), stretch, letterbox
    # most pixels of a file that is decoded; null = Pillow's limit against decompression bombs
    most_pixels: int | None = None
    memory: float = 4.0  # GB of images kept in memory; a larger set is decoded per batch
    workers: int = 2  # worker processes that decode images

    def __post_init__(self):
        ok = self.most_pixels is None or self.most_pixels > 0
        require(ok, "most_pixels", self.most_pixels, "above 0, or null")
        self.canvas = Canvas.of(self.size, self.channels, self.fit)
        ok = bool(self.columns) and len(set(self.columns)) == len(self.columns)
        require(ok, "columns", self.columns, "a list of columns of the table, each once")

    def load(self):
        rows = self.rows()
        if self.unlabelled:
            pool = Path(self.unlabelled).expanduser()
            taken = {r.path.resolve() for r in rows}
            files = images_in(pool) if pool.is_dir() else []
            files = [p for p in files if p.resolve() not in taken]
            if not files:
                raise DataError(
                    f"dataset.unlabelled={pool}: is no folder with images beside those of the table"
                )
            rows += [Row(f"unlabelled/{p.relative_to(pool).as_posix()}", p, "pool") for p in files]
        image = self.canvas.image
        fits_memory = len(rows) * prod(image) <= self.memory * 1e9
        x, seen, levels = survey(
            [File(r.id, r.path) for r in rows],
            image,
            fits_memory,
            max(1, self.workers),
            self.fit,
            learnt=[r.split != "test" for r in rows],
            most=self.most_pixels,
        )
        if faults := [f"{r.path}: {s.fault}" for r, s in zip(rows, seen, strict=True) if s.fault]:
            raise DataError(
                f"{len(faults)} images cannot be used:{listing(faults)}\n"
                "Repair them, or remove their rows"
            )
        none = (0.0,) * len(self.columns)
        value_NK = torch.tensor([r.value or none for r in rows], dtype=torch.float32)

        def fingerprint(*splits: str) -> str:
            content = [
                (r.id, r.split, r.value, r.group, s.sha256)
                for r, s in zip(rows, seen, strict=True)
                if r.split in splits
            ]
            text = json.dumps([image, self.fit, self.columns, content])
            return hashlib.sha256(text.encode()).hexdigest()

        train, test, extra = (
            part(which, rows, x, {"value": value_NK}, self.workers)
            for which in ("train", "test", "pool")
        )
        if train is None:
            raise DataError(f"{self.table}: has no training rows")
        name = Path(str(self.table)).stem
        learnt = [(r, s) for r, s in zip(rows, seen, strict=True) if r.split == "train"]
        warnings = list(self.notes)
        for column, values in zip(
            self.columns, zip(*(r.value for r, _ in learnt), strict=True), strict=True
        ):
            warnings += check_spread(values, column, str(self.table))
        ids, numbers = [r.id for r, _ in learnt], [r.value for r, _ in learnt]
        warnings += findings.copies(ids, [s.sha256 for _, s in learnt], numbers)
        findings.groups_apart(train, test)
        columns = ", ".join(self.columns)
        text = f"{name}: {len(train):,} images with {columns}, at {image[2]}x{image[1]}."
        console.print(text, soft_wrap=True)
        warnings += findings.images(seen, levels)
        warnings += findings.cropped([s.size for s in seen], image, self.fit)
        report = findings.said(name, warnings)
        return Corpus(
            name,
            (),
            train,
            test,
            extra,
            image,
            report,
            fingerprint("train", "pool"),
            fingerprint("test"),
            {r.id: r.path for r in rows},
            strata=("image",),
            named={"value": tuple(self.columns)},
            levels=levels,
            fit=self.fit,
        )

    def rows(self) -> list[Row]:
        """The rows of the table. A DataError names the line."""
        if not self.table:
            raise ConfigError(
                "dataset.table",
                self.table,
                f"must name a CSV with the columns file,{','.join(self.columns)}",
            )
        table = Path(self.table).expanduser()
        root = Path(self.root).expanduser() if self.root else table.parent
        hint = "; dataset.file_column= and dataset.columns= name others"
        needed = (self.file_column, *self.columns)
        columns, lines, separator = read_table(table, "dataset.table", needed, hint)
        self.notes = findings.split_elsewhere(columns, lines)
        for column in self.columns:
            one_decimal_separator([(n, line[column]) for n, line in lines], column, table)
        finder, grouped = Finder(root, table), any(line.get("group") for _, line in lines)
        rows: dict[str, Row] = {}
        taken: set[Path] = set()
        for number, line in lines:
            where, name = f"{table}, line {number}", line[self.file_column]
            try:
                path = finder.find(name)
            except DataError as error:
                raise DataError(f"{where}: {error}; write the suffix, too") from error
            if path is None:
                raise DataError(
                    f"{where}: there is no file {name!r}, {finder}{finder.nearest(name)}"
                )
            if name in rows or path in taken:
                raise DataError(f"{where}: {name} has two rows; an image must have one")
            taken.add(path)
            split = findings.split_named(given) if (given := line.get("split", "")) else "train"
            if split is None:
                raise DataError(f"{where}: split is {given!r}; valid: train, val, test")
            if not any(line[c] for c in self.columns):
                if split == "test":
                    raise DataError(f"{where}: {name} is a test image and has no number")
                rows[name] = Row(name, path, "pool")
                continue
            value = tuple(numeric(line[c], c, where, separator) for c in self.columns)
            group = line["group"] if grouped else None
            if group == "":
                raise DataError(f"{where}: the group is missing (of {name})")
            rows[name] = Row(name, path, "test" if split == "test" else "train", value, group)
        if not rows:
            raise DataError(f"{table}: has no row below the first line")
        return list(rows.values())


def one_decimal_separator(cells: list[tuple[int, str]], column: str, table: Path) -> None:
    """DataError if some numbers have a comma and others a point, so that one of them may separate
    thousands."""
    first = {sign: next((c for c in cells if sign in c[1]), None) for sign in ",."}
    comma, point = first[","], first["."]
    if comma and point:
        raise DataError(
            f"{table}: column {column} has numbers with a comma ({comma[1]} in line {comma[0]}) and with a point ({point[1]} in "
            f"line {point[0]}): write all with one decimal separator, and thousands without"
        )


def check_spread(values: tuple[float, ...], column: str, table: str) -> list[str]:
    """A warning if a value lies so far from the others that it may stand for a missing one. DataError
    if the values are equal, or differ by too little for 32-bit numbers."""
    ordered = sorted(values)
    low, high = ordered[0], ordered[-1]
    if low == high:
        raise DataError(
            f"{table}: column {column} is the same in all training rows, so it cannot be learnt"
        )
    largest = max(abs(low), abs(high))
    if largest > MOST or high - low < STEPS * largest * EPSILON:
        problem = f"the values of column {column} ({low:g} to {high:g}) are too large"
        remedy = "subtract a constant, or divide them"
        raise DataError(f"{table}: {problem} for 32-bit numbers to tell them apart: {remedy}")
    quarter = len(ordered) // 4
    between = ordered[-1 - quarter] - ordered[quarter]
    outer = max((low, high), key=lambda v: abs(v - ordered[len(ordered) // 2]))
    inner = [v for v in ordered if v != outer]
    far = min(abs(outer - v) for v in inner)
    if between and far > FAR * between:
        span = f"{inner[0]:g} to {inner[-1]:g}"
        return [
            f"column {column} has the value {outer:g} in {values.count(outer):,} of {len(values):,} rows, and the others are "
            f"{span}: does it stand for a missing number? Then empty the cell"
        ]
    return []


def numeric(text: str, column: str, where: str, separator: str) -> float:
    """Parse a number. DataError for anything else.

    The decimal separator may be a comma (3,5) if the table's columns are not separated by commas.
    """
    if separator != "," and text.count(",") == 1 and "." not in text:
        text = text.replace(",", ".")
    text = text.replace("\u2212", "-")  # the minus sign of word processors
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not isfinite(value):
        raise DataError(f"{where}: {column} is {text!r}, which is no number")
    return value
