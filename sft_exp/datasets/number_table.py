"""Images with numbers to predict: a CSV with the column `file` and a column for each number.

It has one row per image. Files are relative to root, or to the table. A column `split` says train
or test; without it, folds are tested. A column `group` names images that must not be split. Images
without a number are used for pretraining.
"""

import re
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any, ClassVar

import torch

from sft_exp.data.readers import tabled
from sft_exp.data.readers.files import Table, read_table
from sft_exp.data.readers.tabled import Row, TableSet
from sft_exp.errors import ConfigError, DataError, require

MOST = 3e38  # largest 32-bit number
EPSILON = 2**-23  # relative step of 32-bit numbers
STEPS = 1000  # of them between the lowest and highest value, at least
FAR = 20.0  # distances between the quartiles, from which a value lies apart from the others
# numbers that often stand for missing ones, and the same of these
STAND_INS, NEARER = (0, -1, -9, -99, -999, -9999, 99, 999, 9999, 99999), 5.0
# 1,234 or 1.234.567: a number whose every separator may separate thousands; 0.125 is none
GROUPED = re.compile(r"[+-]?[1-9]\d{0,2}(?:[.,]\d{3})+")
WHOLE = re.compile(r"[+-]?0*[1-9]\d*")  # but for 0, which decimals may write so, too
PLAIN = "write thousands without a separator (1234)"


@dataclass
class NumberTable(TableSet):
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
        super().__post_init__()
        ok = bool(self.columns) and len(set(self.columns)) == len(self.columns)
        require(ok, "columns", self.columns, "a list of columns of the table, each once")

    def load(self):
        if not self.table:
            names = ",".join(self.columns)
            valid = f"must name a CSV with the columns file,{names}"
            raise ConfigError("dataset.table", self.table, valid)
        file = Path(self.table).expanduser()
        hint = "; dataset.file_column= and dataset.columns= name others"
        table = read_table(file, "dataset.table", (self.file_column, *self.columns), hint)
        table = tabled.with_split(table, (self.file_column, *self.columns))
        needs = (self.file_column, *self.columns)
        warnings = [*table.notes, *tabled.ungrouped(table, needs)]
        for column in self.columns:
            cells = [(number, line[column]) for number, line in table.lines if line[column]]
            require_one_decimal_separator(cells, column, file)
            warnings += thousands(cells, column, file, table.separator)
        rows = self.rows(file, table)
        learnt = [row.value for row in rows if row.split == "train"]
        for column, values in zip(self.columns, zip(*learnt, strict=True), strict=bool(learnt)):
            warnings += check_spread(values, column, self.table, self.learnt)
        rows += tabled.pooled(self, rows)
        none = (0.0,) * len(self.columns)
        value_NK = torch.tensor([r.value or none for r in rows], dtype=torch.float32)
        return tabled.corpus(
            self,
            rows,
            "value",
            value_NK,
            self.columns,
            warnings,
            classes=(),
            strata=("image",),
            named={"value": tuple(self.columns)},
        )

    def rows(self, file: Path, table: Table) -> list[Row]:
        """The rows of the table. A DataError names the line."""
        rows = []
        for line in tabled.lines(self, file, table):
            value = None
            if any(line.cells[c] for c in self.columns):
                value = tuple(
                    numeric(line.cells[c], c, line.where, table.separator) for c in self.columns
                )
            rows.append(tabled.annotated(line, value, "has no number"))
        return rows


def require_one_decimal_separator(cells: list[tuple[int, str]], column: str, table: Path) -> None:
    """DataError if some numbers have a comma and others a point, so that one of them may separate
    thousands."""
    first = {sign: next((c for c in cells if sign in c[1]), None) for sign in ",."}
    comma, point = first[","], first["."]
    if comma and point:
        raise DataError(
            f"{table}: column {column} has numbers with a comma ({comma[1]} in line {comma[0]}) and with a point ({point[1]} in "
            f"line {point[0]}): write all with one decimal separator, and thousands without"
        )


def thousands(cells: list[tuple[int, str]], column: str, table: Path, separator: str) -> list[str]:
    """A warning if each comma or point of the column may separate thousands, as in 1,234.

    DataError if whole numbers stand beside them, as they do where thousands are separated; programs
    that write three decimals write three of all numbers.
    """
    cells = [(n, cell.replace("\u2212", "-")) for n, cell in cells]
    marked = [(n, cell) for n, cell in cells if "," in cell or "." in cell]
    if not marked or not all(GROUPED.fullmatch(cell) for _, cell in marked):
        return []
    line, first = marked[0]
    sign = "comma" if "," in first else "point"
    problem = f"each {sign} of column {column} stands before exactly three digits ({first} in line {line})"
    if whole := next((each for each in cells if WHOLE.fullmatch(each[1])), None):
        raise DataError(
            f"{table}: {problem}, beside whole numbers ({whole[1]} in line {whole[0]}): does it separate thousands? Then "
            f"{PLAIN}; where it is a decimal {sign}, write {whole[1]}{first[-4]}0 for {whole[1]}"
        )
    if separator == ",":  # programs write such tables with decimal points
        return []
    return [f"{problem} and is read as a decimal {sign}; where it separates thousands, {PLAIN}"]


def check_spread(values: tuple[float, ...], column: str, table: str, learnt: bool) -> list[str]:
    """A warning if a value lies so far from the others that it may stand for a missing one. DataError
    if the values are learnt and equal, or differ by too little for 32-bit numbers."""
    ordered = sorted(values)
    low, high = ordered[0], ordered[-1]
    if low == high and not learnt:
        return [
            f"column {column} is {low:g} in all rows: R² says nothing of them, and the errors do"
        ]
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
    if between and far > (NEARER if outer in STAND_INS else FAR) * between:
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
        digits = re.sub(r"(?<=\d)[\s.,'\u2019](?=\d{3}(?!\d))", "", text)
        remedy = f"; {PLAIN}" if digits != text and digits.lstrip("+-").isdecimal() else ""
        raise DataError(f"{where}: {column} is {text!r}, which is no number{remedy}")
    return value
