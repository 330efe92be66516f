"""A folder of images to label: the chosen images and the labels so far.

sheet.json     classes, chosen images in order, and the rows that were labelled before; it is
               never changed
chosen.csv     file,chosen: the images labelled before, and the chosen ones with their rank
labels.csv     file,label[,group][,split]: the labels, replaced atomically after each answer; what
               the user has changed in it by hand, in any row, stays
label.html     the labelling page; opened as a file, it downloads labels.csv
"""

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
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
        chosen = [file for file in self.chosen if file in answers]
        new = [self.row(self.columns, file, answers[file]) for file in chosen]
        return table([self.columns, *self.known, *new])

    def row(self, columns: Sequence[str], image: str, label: str) -> list[str]:
        """The row of a chosen image. Its group is the image, and columns that the user added are empty."""
        cells = dict.fromkeys(self.columns, image) | {"label": label, "split": "train"}
        return [cells.get(column, "") for column in columns]

    def updated(self, file: Path, new: Mapping[str, str | None]) -> str:
        """The text of labels.csv with new answers, image -> label or None to take one back.

        All other rows and cells stay as they are in the file, which the user may have edited: labels
        corrected, rows added or removed, further columns.

        Raises:
            DataError: the file is no such table.
        """
        columns, *held = lines(file)
        image, label = columns.index("file"), columns.index("label")
        ranks = {name: rank for rank, name in enumerate(self.chosen)}
        rows = []
        for cells in held:
            answer = new.get(cells[image], cells[label])
            if answer is not None:
                rows.append([*cells[:label], answer, *cells[label + 1 :]])
        there = {cells[image] for cells in held}
        rows += [
            self.row(columns, name, answer)
            for name, answer in new.items()
            if answer is not None and name not in there
        ]
        # the chosen images stand last, by rank
        return table([columns, *sorted(rows, key=lambda cells: ranks.get(cells[image], -1))])

    def answers(self, file: Path) -> dict[str, str]:
        """Read image -> label of the chosen images from a labels.csv, which a spreadsheet may have saved.

        Raises:
            DataError: the file is gone or no such table, or a label is none of the classes.
        """
        labels, chosen = {}, set(self.chosen)
        columns, *held = lines(file)
        for cells in held:
            image, label = cells[columns.index("file")], cells[columns.index("label")]
            if image in chosen and label:
                if label not in self.classes:
                    raise DataError(
                        f"{file}: {label!r} of {image} is no class; valid: {', '.join(self.classes)}"
                    )
                labels[image] = label
        return labels


def lines(file: Path) -> list[list[str]]:
    """The columns of a labels.csv, `file` and `label` among them, and the cells of its rows. DataError."""
    try:
        text = file.read_bytes().decode()  # line ends inside of names stay
        read = [row for row in csv.reader(io.StringIO(text, newline="")) if row]
        if read and {"file", "label"} <= {*read[0]}:
            wide = len(read[0])
            cells = [[tables.restored(cell) for cell in row] for row in read[1:]]
            return [read[0], *([*row, *[""] * (wide - len(row))] for row in cells)]
    except (OSError, UnicodeError, csv.Error):
        pass  # the reader of all tables says what is wrong
    from sft_exp.data.readers.files import read_table  # late: imports torch

    found = read_table(file, "labels.csv", ["file", "label"])
    return [found.columns, *([row[c] for c in found.columns] for _, row in found.lines)]


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
