"""A folder of images to label: the chosen images and the labels so far.

sheet.json     classes, chosen images in order, and the rows that were labelled before; it is
               never changed
chosen.csv     file,chosen: the images labelled before, and the chosen ones with their rank
labels.csv     file,label[,group][,split]: the labels, replaced atomically after each answer
label.html     the labelling page; opened as a file, it downloads labels.csv
"""

import csv
import io
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from sft_exp.data import tables
from sft_exp.errors import DataError
from sft_exp.store import atomic_io

PAGE = Path(__file__).with_name("page.html")


@dataclass
class Sheet:
    """The images to label and how they are asked about: the content of sheet.json."""

    # config key that takes labels.csv: `dataset.labels` for the user's own images, else `labels`
    key: str
    columns: list[str]  # of labels.csv, `file` and `label` among them
    classes: list[str]
    chosen: list[str]  # images in order of preference
    known: list[list[str]] = field(default_factory=list)  # rows of labels.csv labelled before
    why: str = ""  # a sentence on how the images were chosen
    asked: str = ""  # the run, strategy, number and seed that were asked for (`Ask.name`)

    def table(self, answers: dict[str, str]) -> str:
        """The text of labels.csv: the earlier rows, then the chosen images that have an answer.

        `answers` are image -> label. If there is a column for groups, each chosen image is its own
        group.
        """
        rows = [
            {"file": file, "label": answers[file], "split": "train"}
            for file in self.chosen
            if file in answers
        ]
        cells = [[row.get(column, row["file"]) for column in self.columns] for row in rows]
        return table([self.columns, *self.known, *cells])

    def answers(self, file: Path) -> dict[str, str]:
        """Read image -> label of the chosen images from a labels.csv, which a spreadsheet may have saved.

        Raises:
            DataError: the file is gone or no such table, or a label is none of the classes.
        """
        labels, chosen = {}, set(self.chosen)
        for row in rows(file):
            if row["file"] in chosen and row["label"]:
                if row["label"] not in self.classes:
                    raise DataError(
                        f"{file}: {row['label']!r} of {row['file']} is no class; valid: {', '.join(self.classes)}"
                    )
                labels[row["file"]] = row["label"]
        return labels


def rows(file: Path) -> list[dict[str, str]]:
    """The rows of a labels.csv, which have `file` and `label`. DataError."""
    try:
        text = file.read_bytes().decode()  # line ends inside of names stay
        reader = csv.DictReader(io.StringIO(text, newline=""))
        if {"file", "label"} <= {*(reader.fieldnames or ())}:
            return [
                {column: tables.restored(cell or "") for column, cell in row.items() if column}
                for row in reader
            ]
    except (OSError, UnicodeError, csv.Error):
        pass  # the reader of all tables says what is wrong
    from sft_exp.data.readers.files import read_table  # late: imports torch

    return [row for _, row in read_table(file, "labels.csv", ["file", "label"]).lines]


def write(folder: Path, sheet: Sheet, pictures: Iterable[str]) -> None:
    """Write the folder of a new sheet; `pictures` are the chosen images as data URIs."""
    column = sheet.columns.index("file")
    known = [[row[column], ""] for row in sheet.known]
    chosen = [[name, str(rank)] for rank, name in enumerate(sheet.chosen, start=1)]
    atomic_io.write(folder / "chosen.csv", table([["file", "chosen"], *known, *chosen]))
    atomic_io.write(folder / "labels.csv", sheet.table({}))
    atomic_io.write(folder / "label.html", page(sheet, pictures))
    # written last: its presence marks the folder as complete
    atomic_io.write_json(folder / "sheet.json", asdict(sheet))


def load(folder: Path) -> Sheet:
    """Read the sheet of a folder."""
    return Sheet(**json.loads((folder / "sheet.json").read_text()))


def page(sheet: Sheet, pictures: Iterable[str]) -> str:
    """The text of label.html, which needs no other file; `pictures` are data URIs."""
    data = json.dumps({**asdict(sheet), "pictures": list(pictures)})
    # escaped, so that no name can close the script element
    return PAGE.read_text().replace("/*SHEET*/null", data.replace("<", "\\u003c"))


def table(rows: Iterable[list[str]]) -> str:
    """Rows as the text of a CSV file, in which no cell is a formula to a spreadsheet."""
    out = io.StringIO()
    tables.Writer(out).writerows(rows)
    return out.getvalue()
