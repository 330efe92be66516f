"""Images with numbers to predict: a CSV with the column `file` and a column for each number.

It has one row per image. Files are relative to root, or to the table. A column `split` says train
or test; without it, folds are tested. A column `group` names images that must not be split.
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
        deviations = train.target("value").std(0).nan_to_num().tolist()
        if constant := [c for c, sd in zip(self.columns, deviations, strict=True) if sd == 0]:
            raise DataError(
                f"{self.table}: column {constant[0]} is the same in all training rows, "
                "so it cannot be learnt"
            )
        columns = ", ".join(self.columns)
        text = f"{name}: {len(train):,} images with {columns}, at {image[2]}x{image[1]}."
        console.print(text, soft_wrap=True)
        warnings = findings.images(seen, levels)
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
        finder = Finder(root, table)
        rows: dict[str, Row] = {}
        taken: set[Path] = set()
        for number, line in lines:
            where, name = f"{table}, line {number}", line[self.file_column]
            try:
                path = finder.find(name)
            except DataError as error:
                raise DataError(f"{where}: {error}; write the suffix, too") from error
            if path is None:
                raise DataError(f"{where}: there is no file {name!r}, {finder}")
            if name in rows or path in taken:
                raise DataError(f"{where}: {name} has two rows; an image must have one")
            taken.add(path)
            split = findings.split_named(given) if (given := line.get("split", "")) else "train"
            if split is None:
                raise DataError(f"{where}: split is {given!r}; valid: train, val, test")
            value = tuple(numeric(line[c], c, where, separator) for c in self.columns)
            group = line["group"] or None if "group" in columns else None
            rows[name] = Row(name, path, "test" if split == "test" else "train", value, group)
        if not rows:
            raise DataError(f"{table}: has no row below the first line")
        return list(rows.values())


def numeric(text: str, column: str, where: str, separator: str) -> float:
    """Parse a number. DataError for anything else.

    The decimal separator may be a comma (3,5) if the table's columns are not separated by commas.
    """
    if separator != "," and text.count(",") == 1 and "." not in text:
        text = text.replace(",", ".")
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not isfinite(value):
        raise DataError(f"{where}: {column} is {text!r}, which is no number")
    return value
