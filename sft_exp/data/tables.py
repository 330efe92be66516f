"""CSV files that are safe to open in a spreadsheet, and read back as they were.

A cell that begins with one of `= + - @`, a tab or a line break is a formula to Excel, LibreOffice and Google Sheets (OWASP,
"CSV injection"). File names and class names come from strangers, so such a cell is written with an apostrophe before it, which
spreadsheets read as text. Numbers are left alone.
"""

import csv
import re
from collections.abc import Iterable
from typing import Any, TextIO

FORMULA = re.compile(r"'*[=+\-@\t\r\n]")
DEFUSED = re.compile(r"'+[=+\-@\t\r\n]")


class Writer:
    """`csv.writer` with Unix line ends, whose cells are defused."""

    def __init__(self, out: TextIO):
        self.usual = csv.writer(out, lineterminator="\n")
        self.quoted = csv.writer(out, lineterminator="\n", quoting=csv.QUOTE_ALL)

    def writerow(self, cells: Iterable[Any]) -> None:
        row = [defused(cell) for cell in cells]
        # Before Python 3.13 csv leaves a carriage return without quotes, and readers end the row there.
        broken = any("\r" in str(cell) for cell in row)
        (self.quoted if broken else self.usual).writerow(row)

    def writerows(self, rows: Iterable[Iterable[Any]]) -> None:
        for row in rows:
            self.writerow(row)


def defused(cell: Any) -> Any:
    """The cell, with an apostrophe before what a spreadsheet would compute. Cells that begin with apostrophes and such a
    character get one more, so that `restored` is exact."""
    text = "" if cell is None else str(cell)
    return f"'{text}" if FORMULA.match(text) and not number(text) else cell


def restored(cell: str) -> str:
    """The inverse of `defused`, of a cell that was read."""
    return cell[1:] if DEFUSED.match(cell) and not number(cell[1:]) else cell


def number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return text == text.strip()
