"""Images with several classes each, or none: a CSV with a row for each image, in one of two forms.

    file,labels
        One column lists the classes: `cat;dog`, `cat|dog`, or in quotes "cat,dog", or a list as
        Python or JSON write it. An empty cell means that the image is not labelled; `none` that it
        has none of the classes.
    file,cat,dog,...
        One column for each class: 1 if the image has it, 0 if not (or 1 and -1, true and false, yes
        and no). Zeros in all of them mean none of the classes; empty cells in all of them, that the
        image is not labelled. In a table that says yes alone (x, ✓, 1), empty cells beside it say
        no.

Files are relative to root, or to the table. A column `split` says train, val or test; without it,
folds are tested. A column `group` names images that must not be split.
"""

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch

from sft_exp.core.types import LABEL_SET
from sft_exp.data.readers import findings, tabled
from sft_exp.data.readers.files import Table, read_table
from sft_exp.data.readers.tabled import Line, Row, TableSet
from sft_exp.errors import ConfigError, DataError, require, some

SEPARATORS = (";", "|", ",")  # of classes in a cell, unless dataset.separator names another
NEGATIVE = ("-1", "-1.0")  # stands for no where no cell is 0
VALID = "0 and 1, false and true, no and yes"
VECTOR = re.compile(r"[01](?:[ ;|,]?[01])+")  # 101, 1 0 1
RESERVED = ("split", "group")  # columns that are no class


class Labelled(NamedTuple):
    """The classes of each line; None where the image is not labelled."""

    classes: list[str]
    sets: list[frozenset[str] | None]
    notes: tuple[str, ...] = ()  # how they were read


@dataclass
class MultilabelTable(TableSet):
    gives: ClassVar[tuple[str, ...]] = (LABEL_SET,)

    table: str | None = None  # CSV of file,labels, or of file and a column for each class
    root: str | None = None  # folder that files are relative to; null = the table's
    # column of the CSV with file names, with or without suffix
    file_column: str = "file"
    # column that lists an image's classes; a table without it has a column for each class
    label_column: str | None = "labels"
    # what separates the classes of a cell; null = ; or | or , whichever the column has
    separator: str | None = None
    none_label: str = "none"  # what a cell says of an image with none of the classes
    # the classes to learn, in this order; null = all that occur, or all columns of 0 and 1
    classes: list[str] | None = None
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
        names = self.classes
        ok = names is None or (bool(names) and len({*names}) == len(names))
        require(ok, "classes", names, "a list of classes, each once, or null")
        require(
            self.separator != "", "separator", self.separator, "one or more characters, or null"
        )
        require(bool(self.none_label), "none_label", self.none_label, "a word")

    def load(self):
        if not self.table:
            valid = "must name a CSV with the columns file,labels, or file and one for each class"
            raise ConfigError("dataset.table", self.table, valid)
        file = Path(self.table).expanduser()
        hint = "; dataset.file_column= names another"
        table = read_table(file, "dataset.table", (self.file_column,), hint)
        taken = (self.file_column, str(self.label_column), *(self.classes or ()))
        table = tabled.with_split(table, taken)
        lines = list(tabled.lines(self, file, table))
        listed = self.label_column is not None and self.label_column in table.columns
        classes, sets, read = self.listed(lines) if listed else self.columns(file, table, lines)
        rows, known = [], frozenset(classes)
        for line, found in zip(lines, sets, strict=True):
            value = None if found is None else tuple(float(c in found & known) for c in classes)
            rows.append(tabled.annotated(line, value, "is not labelled"))
        if all(row.split == "pool" for row in rows):
            raise DataError(f"{file}: no image is labelled")
        rows += tabled.pooled(self, rows)
        none = (0.0,) * len(classes)
        sets_NY = torch.tensor([r.value or none for r in rows]).to(torch.uint8)
        names = tuple(map(findings.class_name, classes))
        columns = tabled.ungrouped(table, (*taken, *classes))
        warnings = [*table.notes, *columns, *read, *notes(names, rows, self.learnt)]
        return tabled.corpus(self, rows, LABEL_SET, sets_NY, names, warnings, classes=names)

    def listed(self, lines: list[Line]) -> Labelled:
        """The classes that the column of labels lists."""
        column = str(self.label_column)
        cells = [line.cells[column] for line in lines]
        stated = [tabled.items(cell) for cell in cells]
        plain = [cell for cell, names in zip(cells, stated, strict=True) if names is None]
        separator = self.separator or separator_of(plain, column)
        if (filled := [cell for cell in plain if cell]) and all(map(VECTOR.fullmatch, filled)):
            lengths = {len(cell) for cell in filled}
            if len(lengths) == 1 and any(cell.startswith("0") for cell in filled):
                raise DataError(
                    f"{lines[0].where}: {column} holds {filled[0]!r} and the like: if its digits say yes or no to each class, "
                    "write a column of 0 and 1 for each"
                )
        sets: list[frozenset[str] | None] = []
        for line, cell, given in zip(lines, cells, stated, strict=True):
            if given is None and cell[:1] + cell[-1:] in ("[]", "{}"):
                raise DataError(
                    f'{line.where}: {column} is {cell!r}, which is no list of names in quotes: write ["cat", "dog"], or '
                    f"cat{separator}dog without brackets"
                )
            if given and len({*given}) < len(given) and all(map(str.isdecimal, given)):
                raise DataError(
                    f"{line.where}: {column} is {cell!r}, which has {Counter(given).most_common()[0][0]} twice: if its numbers "
                    "say yes or no to each class, write a column of 0 and 1 for each; a list names each class once"
                )
            parts = [p.strip() for p in cell.split(separator)] if given is None else given
            names = [findings.class_name(part) for part in parts if part]
            none = [n for n in names if n.casefold() == self.none_label.casefold()]
            if none and len(names) > 1:
                raise DataError(
                    f"{line.where}: {column} is {cell!r}, which is {none[0]!r} and classes beside it"
                )
            if cell and not names and given != []:
                raise DataError(f"{line.where}: {column} is {cell!r}, which names no class")
            sets.append(None if not cell else frozenset() if none else frozenset(names))
        occurring = sorted({name for names in sets if names for name in names})
        if self.classes is None:
            return Labelled(occurring, sets)
        wanted = [findings.class_name(name) for name in self.classes]
        if unknown := [name for name in wanted if name not in occurring]:
            valid = f"no image is of class {unknown[0]}; there are {some(occurring)}"
            raise ConfigError("dataset.classes", self.classes, valid)
        return Labelled(wanted, sets)

    def columns(self, file: Path, table: Table, lines: list[Line]) -> Labelled:
        """The classes that have a column of their own."""
        others = [c for c in table.columns if c and c not in (self.file_column, *RESERVED)]
        if missing := [c for c in self.classes or () if c not in others]:
            valid = f"{file} has no column {missing[0]}; there are {', '.join(others)}"
            raise ConfigError("dataset.classes", self.classes, valid)
        classes = self.binary(file, others, lines) if self.classes is None else self.classes
        if not classes:
            raise DataError(
                f"{file}: has neither a column {self.label_column} that lists classes (dataset.label_column= names another) nor "
                f"columns of 0 and 1, one for each class (valid: {VALID}); its first line has {','.join(table.columns)}"
            )
        used = {line.cells[c].casefold() for line in lines for c in classes}
        if used & {*NEGATIVE} and used & {"0", "0.0"}:
            raise DataError(
                f"{file}: its classes have the values 1, 0 and -1: what -1 means is unknown. Where it means that a label is "
                "uncertain, decide for 1 or 0, or leave the image's cells empty; dataset.classes= names the columns of classes"
            )
        meaning = {
            c: tabled.meaning_of(line.cells[c] for line in lines) | dict.fromkeys(NEGATIVE, False)
            for c in classes
        }
        filled = [(c, cell) for line in lines for c in classes if (cell := line.cells[c])]
        yes_alone = all(meaning[c].get(tabled.bare_sign(cell), False) for c, cell in filled)
        beside = False  # whether empty cells lie beside others
        sets: list[frozenset[str] | None] = []
        for line in lines:
            cells = {c: line.cells[c] for c in classes}
            empty = [c for c, cell in cells.items() if not cell]
            beside |= 0 < len(empty) < len(classes)
            if 0 < len(empty) < len(classes) and not yes_alone:
                raise DataError(
                    f"{line.where}: {empty[0]} is empty and other classes are not; empty cells in all of them say that an image "
                    "is not labelled"
                )
            signs = {c: tabled.bare_sign(cell) for c, cell in cells.items() if cell}
            for c, sign in signs.items():
                if sign not in meaning[c]:
                    raise DataError(f"{line.where}: {c} is {cells[c]!r}; valid: {VALID}")
            present = frozenset(c for c, sign in signs.items() if meaning[c][sign])
            sets.append(None if len(empty) == len(classes) else present)
        return Labelled(classes, sets, blanks(lines, sets) if beside else ())

    def binary(self, file: Path, columns: list[str], lines: list[Line]) -> list[str]:
        """The columns that hold words or signs for yes and no alone, and name no split.

        DataError if most cells of a column are such words, and some are not, or its signs are
        unclear: leaving it out would lose a class by a slip of the pen.
        """
        found = []
        for column in columns:
            if tabled.flagged(column) or tabled.is_fold(column):
                continue
            filled = [line for line in lines if line.cells[column]]
            cells = [line.cells[column] for line in filled]
            valid = (*tabled.meaning_of(cells), *NEGATIVE)
            odd = [line for line in filled if tabled.bare_sign(line.cells[column]) not in valid]
            if filled and not odd:
                found.append(column)
            elif 2 * len(odd) < len(filled):
                raise DataError(
                    f"{odd[0].where}: {column} is {odd[0].cells[column]!r}, and most of the column is 0 and 1 (valid: {VALID}): "
                    "correct the cell; or where the column is no class, name those that are, dataset.classes=[...]"
                )
            elif tabled.says_nothing_clear(cells):
                signs = " and ".join(map(repr, dict.fromkeys(cells)))
                raise DataError(
                    f"{file}: column {column} holds {signs}: which of them says yes? Write {VALID}; where the column is no "
                    "class, name those that are, dataset.classes=[...]"
                )
        return found


def blanks(lines: list[Line], sets: list[frozenset[str] | None]) -> tuple[str, ...]:
    """A note on empty cells in columns that say yes alone."""
    bare = [line.row.id for line, found in zip(lines, sets, strict=True) if found is None]
    note = "no cell of the classes says no: empty ones beside a mark do"
    if bare:
        what = f"{len(bare):,} {'images' if len(bare) > 1 else 'image'} without a mark"
        count = f"{what} ({some(bare)}) {'are' if len(bare) > 1 else 'is'} not labelled"
        note = f"{note}, and {count}; 0 in all columns says none of the classes"
    return (note,)


def separator_of(cells: list[str], column: str) -> str:
    """What separates the classes in the cells of a column. DataError if it is not clear."""
    found = [s for s in SEPARATORS if any(s in cell for cell in cells)]
    if len(found) > 1:
        raise DataError(
            f"{column} has both {found[0]!r} and {found[1]!r}: dataset.separator= says which of them separates classes"
        )
    return found[0] if found else SEPARATORS[0]


def notes(classes: tuple[str, ...], rows: list[Row], learnt: bool) -> list[str]:
    """Warnings of classes that cannot be learnt or tested, and of images that a class list leaves
    out. DataError if there is nothing to learn, and a model learns from them."""
    several = "{key} separates the classes in a cell"
    warnings = findings.check_class_names(classes, several)
    warnings += findings.check_pending_labels(classes)
    if not learnt:
        return warnings
    train = [r.value for r in rows if r.split == "train"]
    counts = [sum(v[c] for v in train) for c in range(len(classes))]
    if train and not any(counts):
        raise DataError("no training image has any of the classes: there is nothing to tell apart")
    for what, wanted in (("no training image", 0), ("all training images", len(train))):
        if constant := [c for c, n in zip(classes, counts, strict=True) if n == wanted]:
            remedy = "it cannot be learnt, and its average precision means nothing"
            verb = "has" if wanted == 0 else "have"
            warnings.append(f"{what} {verb} {some(constant)}: {remedy}")
    tested = Counter(
        c for r in rows if r.split == "test" for c, v in zip(classes, r.value, strict=True) if v
    )
    if any(r.split == "test" for r in rows) and (absent := [c for c in classes if not tested[c]]):
        rest = f"mAP is of the other {len(classes) - len(absent)}"
        warnings.append(f"no test image has {some(absent)}: {rest}")
    return warnings
