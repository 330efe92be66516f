"""A folder of images to label: what was chosen, and the annotations so far.

sheet.json     classes, chosen images in their order, and the rows that were labelled before; never changed again
chosen.csv     file,chosen: the images labelled before and, with their rank, those chosen
labels.csv     file,label[,group][,split]: the annotations, written whole after each answer
label.html     the page to label with; opened as a file it downloads labels.csv
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
    # that labels.csv is given to: `dataset.labels` for the user's own images, else `labels`
    key: str
    columns: list[str]  # of labels.csv, `file` and `label` among them
    classes: list[str]
    chosen: list[str]  # images, the most wanted first
    # rows of labels.csv that were there before
    known: list[list[str]] = field(default_factory=list)
    why: str = ""  # how they were chosen, in words

    def table(self, answers: dict[str, str]) -> str:
        """labels.csv: the rows from before, then the chosen images that have an answer."""
        rest = {"split": "train"}
        rows = [
            [{"file": f, "label": answers[f]}.get(c) or rest.get(c, f) for c in self.columns]
            for f in self.chosen
            if f in answers
        ]
        return table([self.columns, *self.known, *rows])

    def answers(self, text: str) -> dict[str, str]:
        """Image -> label of the chosen images in a labels.csv. DataError for a class that is none."""
        found, chosen = {}, set(self.chosen)
        for cells in csv.DictReader(io.StringIO(text, newline="")):
            row = {column: tables.restored(cell) for column, cell in cells.items()}
            if row["file"] in chosen:
                if row["label"] not in self.classes:
                    raise DataError(
                        f"labels.csv: {row['label']!r} of {row['file']} is no class; valid: {', '.join(self.classes)}"
                    )
                found[row["file"]] = row["label"]
        return found


def write(folder: Path, sheet: Sheet, pictures: Iterable[str]) -> None:
    """The folder of a new sheet; `pictures` are the chosen images as data URIs."""
    place = sheet.columns.index("file")
    known = [[row[place], ""] for row in sheet.known]
    chosen = [[name, str(rank)] for rank, name in enumerate(sheet.chosen, start=1)]
    atomic_io.write(folder / "chosen.csv", table([["file", "chosen"], *known, *chosen]))
    atomic_io.write(folder / "labels.csv", sheet.table({}))
    atomic_io.write(folder / "label.html", page(sheet, pictures))
    # last: it says that the rest is there
    atomic_io.write_json(folder / "sheet.json", asdict(sheet))


def load(folder: Path) -> Sheet:
    return Sheet(**json.loads((folder / "sheet.json").read_text()))


def page(sheet: Sheet, pictures: Iterable[str]) -> str:
    """label.html: one file that needs no other."""
    data = json.dumps({**asdict(sheet), "pictures": list(pictures)})
    # no name can end the script
    return PAGE.read_text().replace("/*SHEET*/null", data.replace("<", "\\u003c"))


def table(rows: Iterable[list[str]]) -> str:
    out = io.StringIO()
    tables.Writer(out).writerows(rows)
    return out.getvalue()
