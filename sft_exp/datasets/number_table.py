"""Images with numbers to predict: a CSV with the column `file` and a column for each number.

It has one row per image. Files are relative to root, or to the table. A column `split` says train
or test; without it, folds are tested. A column `group` names images that must not be split.
"""

from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any, ClassVar

import torch

from sft_exp.data.readers import tabled
from sft_exp.data.readers.files import read_table
from sft_exp.data.readers.tabled import Row, TableSet
from sft_exp.errors import ConfigError, DataError, require


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
        rows = self.rows()
        rows += tabled.pooled(self, rows)
        none = (0.0,) * len(self.columns)
        value_NK = torch.tensor([r.value or none for r in rows], dtype=torch.float32)
        data = tabled.corpus(
            self,
            rows,
            "value",
            value_NK,
            self.columns,
            classes=(),
            strata=("image",),
            named={"value": tuple(self.columns)},
        )
        deviations = data.train.target("value").std(0).nan_to_num().tolist()
        if constant := [c for c, sd in zip(self.columns, deviations, strict=True) if sd == 0]:
            raise DataError(
                f"{self.table}: column {constant[0]} is the same in all training rows, "
                "so it cannot be learnt"
            )
        return data

    def rows(self) -> list[Row]:
        """The rows of the table. A DataError names the line."""
        if not self.table:
            raise ConfigError(
                "dataset.table",
                self.table,
                f"must name a CSV with the columns file,{','.join(self.columns)}",
            )
        file = Path(self.table).expanduser()
        hint = "; dataset.file_column= and dataset.columns= name others"
        table = read_table(file, "dataset.table", (self.file_column, *self.columns), hint)

        def value(where: str, cells: dict[str, str]) -> tuple[float, ...]:
            return tuple(numeric(cells[c], c, where, table.separator) for c in self.columns)

        return [
            line.row._replace(value=value(line.where, line.cells))
            for line in tabled.lines(self, file, table)
        ]


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
