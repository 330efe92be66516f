"""Turns the rows of a CSV, each of one image with its annotations, into a corpus.

Files are relative to root, or to the table. A column `split` says train, val or test; without it,
folds are tested. A column `group` names images that must not be split.
"""

import ast
import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from math import prod
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from torch import Tensor

from sft_exp.data.corpus import Corpus, Dataset
from sft_exp.data.readers import findings
from sft_exp.data.readers.canvas import canvas_of
from sft_exp.data.readers.files import (
    File,
    Finder,
    Table,
    images_in,
    part,
    require_folder,
    survey,
)
from sft_exp.errors import DataError, listing, some
from sft_exp.progress import console

# words of a cell that says yes or no, in the languages of Excel, too
WORDS = {
    word: yes
    for yes, words in (
        (True, "1 1.0 true yes y wahr vrai verdadero verdadeiro vero waar"),
        (False, "0 0.0 false no n falsch faux falso onwaar"),
    )
    for word in words.split()
}
# signs of a cell that is marked; the two kinds in one column may mean yes and no
CHECKS, CROSSES, PLUS = "✓✔☑✅√", "x\u00d7☒", "+"
NO_SIGNS = "-\u2013\u2014✗✘❌☐"  # three forms of a hyphen
# columns whose equal cells name images that belong together
_TOGETHER = re.compile(
    r"(?:patient|subject|participant|person|individual|student|animal|donor|specimen|slide|video|movie|clip|scene|"
    r"sequence|session|writer)s?(?:id|ids|index|idx|name|no|nr|number)?"
)
_FOLD = re.compile(r"(?:k|cv)?folds?(?:id|index|idx|number|no|nr)?")


class Row(NamedTuple):
    id: str
    path: Path
    split: str  # train, test, or pool (without annotation)
    value: tuple[float, ...] = ()  # the annotation
    group: str | None = None
    stratum: int = 0


class Line(NamedTuple):
    """A row of the table whose image was found."""

    where: str  # the file and the line, for messages
    cells: dict[str, str]
    row: Row  # without annotation
    grouped: bool  # whether the table has groups


class TableSet(Dataset):
    """The common fields of data sets that a table describes."""

    unhashed: ClassVar[tuple[str, ...]] = (
        "root", "table", "file_column", "unlabelled", "most_pixels", "memory", "workers",
    )  # fmt: skip

    table: str | None  # CSV with a row for each image
    root: str | None  # folder that files are relative to; null = the table's
    file_column: str  # column of the CSV with file names, with or without suffix
    unlabelled: str | None  # folder of images to pretrain on
    size: Any  # pixels, or [rows, columns], of all images
    channels: int  # 3 = colour, 1 = grey
    fit: str  # how an image is brought to that size: crop (centre), stretch, letterbox
    most_pixels: int | None  # limit of the pixels of a decoded image
    memory: float  # GB of images kept in memory; a larger set is decoded per batch
    workers: int  # worker processes that decode images

    def __post_init__(self):
        self.canvas = canvas_of(self)


def bare(column: str) -> str:
    """A column's name in small letters alone."""
    return re.sub(r"[\W\d_]+", "", column.casefold())


def flagged(column: str) -> str | None:
    """The split that a column such as is_valid or isTest marks, or None."""
    name = bare(column)
    return findings.split_named(name[2:]) if name.startswith("is") else None


def bare_sign(cell: str) -> str:
    """A cell in small letters, without the invisible character that makes a sign colourful."""
    return cell.casefold().replace("\ufe0f", "")


def meaning_of(cells: Iterable[str]) -> dict[str, bool]:
    """What the cells of a column mean, yes or no: signs (x, ✓), if it has no others, else words."""
    used = {bare_sign(cell) for cell in cells} - {""}
    for signs in (CHECKS, CROSSES, PLUS):
        if used & {*signs} and used <= {*signs, *NO_SIGNS}:
            return dict.fromkeys(signs, True) | dict.fromkeys(NO_SIGNS, False)
    return WORDS


def says_nothing_clear(cells: Iterable[str]) -> bool:
    """Whether a column holds signs alone, or signs and words, whose meaning is unknown: ✓ and x; x
    and y may be names."""
    used = {bare_sign(cell) for cell in cells} - {""}
    signs = {*CHECKS, *CROSSES, *PLUS, *NO_SIGNS}
    marks = signs - {*NO_SIGNS}
    letters = all(len(sign) == 1 and sign.isalpha() for sign in used)
    return (
        bool(used & marks)
        and not letters
        and used <= signs | {*WORDS}
        and not used <= {*meaning_of(used)}
    )


def one_hot(table: Table, file: Path, taken: Sequence[str], label: str, several: str) -> Table:
    """The table with the column `label`: of each image the one column of yes and no that says yes.

    Unchanged if it has no two such columns. Empty cells in all of them say that an image is not
    labelled.

    Args:
        table: the table.
        file: its file, for messages.
        taken: columns that mean something else: files, groups.
        label: the column of classes.
        several: how images with several classes are read, for messages.

    Raises:
        DataError: an image is of several of the columns, or of none.
    """
    others = [c for c in table.columns if c and c not in (*taken, "split", "group")]
    meanings = {}
    for column in others:
        used = {bare_sign(cells[column]) for _, cells in table.lines} - {""}
        meaning = meaning_of(used)
        no_class = flagged(column) or is_fold(column) or findings.split_named(column)
        if not no_class and used and used <= {*meaning}:
            meanings[column] = meaning
    if len(meanings) < 2:
        return table
    lines = []
    for number, cells in table.lines:
        said = {c: meaning[bare_sign(cells[c])] for c, meaning in meanings.items() if cells[c]}
        marked = [c for c, yes in said.items() if yes]
        if len(marked) > 1 or (said and not marked):
            what = f"is marked as {' and '.join(marked)}" if marked else "is of no class"
            raise DataError(
                f"{file}, line {number}: {what}, by the columns {some([*meanings])}, and an image has one class "
                f"here{several}. If these are no classes, write the class of each image into a column {label}"
            )
        lines.append((number, cells | {label: marked[0] if marked else ""}))
    note = f"the class of an image is its column that says yes: {some([*meanings])}"
    return Table([*table.columns, label], lines, table.separator, (*table.notes, note))


def is_fold(column: str) -> bool:
    return bool(_FOLD.fullmatch(bare(column)))


def splits_of(column: str, words: set[str]) -> dict[str, str]:
    """What the words of a column mean as splits (train, val, test); {} if it names none."""
    named = {word: split for word in words if (split := findings.split_named(word))}
    if len(named) == len(words) and len({*named.values()}) > 1:
        return named
    marks = {word: WORDS.get(word.casefold()) for word in words}
    if not (split := flagged(column)) or {*marks.values()} != {True, False}:
        return {}
    other = "test" if split == "train" else "train"
    return {word: split if yes else other for word, yes in marks.items()}


def ungrouped(table: Table, taken: Sequence[str]) -> tuple[str, ...]:
    """Warnings of columns that may say which images belong together, in a table without groups, and of
    groups that are named like missing ones.

    Args:
        table: the table.
        taken: columns that mean something else: files, labels, numbers.
    """
    groups = Counter(cells.get("group", "") for _, cells in table.lines)
    missing = [g for g, count in groups.items() if g and findings.is_missing(g) and count > 1]
    notes = [
        f"group {g!r} is named like a missing one, and its {groups[g]:,} images are taken to belong together: give those that "
        "do not groups of their own"
        for g in missing
    ]
    if "group" in table.columns:
        return tuple(notes)
    for column in table.columns:
        named = column not in taken and _TOGETHER.fullmatch(bare(column))
        values = {cells[column] for _, cells in table.lines if cells[column]} if named else ()
        if 1 < len(values) < len(table.lines):
            notes.append(
                f"column {column} may say which images belong together ({len(values):,} values in {len(table.lines):,} rows) and "
                "is not used, so that those of one value may be learnt from and tested: call it group to keep them in one split"
            )
    return tuple(notes)


def with_split(table: Table, taken: Sequence[str]) -> Table:
    """The table, whose lines have the split that a column with another name says.

    It is read where all of its words are splits (subset, Usage), or it says yes and no to one
    (is_test). An empty cell says nothing, as that of an image without a label. The table's notes
    name columns that may be meant as splits and are not read so, and say that val is not tested.

    Args:
        table: the table.
        taken: columns that mean something else: files, labels, numbers.
    """
    if "split" in table.columns:
        kinds = {findings.split_named(cells["split"] or "train") for _, cells in table.lines}
        return table._replace(notes=(*table.notes, *findings.check_untested_val(kinds)))
    columns = [c for c in table.columns if c and c not in taken]
    words = {c: {cells[c] for _, cells in table.lines} - {""} for c in columns}
    found = {c: meaning for c in columns if (meaning := splits_of(c, words[c]))}
    notes = [
        f"column {c} numbers folds and is not used, as folds are drawn here: a column split with the words train and test "
        "holds one of them out"
        for c in columns
        if is_fold(c) and len(words[c]) > 1 and not found
    ] + [
        f"column {c} holds {' and '.join(sorted(words[c]))} and is not read as the split: call it is_{c} if it marks "
        f"images of {split}"
        for c in columns
        # without a column of labels, train may be a class
        if (split := findings.split_named(c))
        and (split != "train" or {*taken} <= {*table.columns})
        and {WORDS.get(word.casefold()) for word in words[c]} == {True, False}
    ]
    # columns that tell train and val apart alone say nothing beside those that name test images
    found = {c: m for c, m in found.items() if "test" in m.values()} or found
    said = {
        c: [meaning.get(cells[c], "") for _, cells in table.lines] for c, meaning in found.items()
    }
    lines = table.lines
    if len({*map(tuple, said.values())}) > 1:
        notes.append(
            f"columns {' and '.join(said)} name different splits, and none is used: call one split"
        )
    elif said:
        column, splits = next(iter(said.items()))
        lines = [(n, c | {"split": split}) for (n, c), split in zip(lines, splits, strict=True)]
        if "test" not in splits:
            notes.append(
                f"column {column} names images of train and val alone, which are learnt from alike, so that folds are tested: "
                "a column split with the word test holds images out"
            )
    return table._replace(lines=lines, notes=(*table.notes, *notes))


def items(cell: str) -> list[str] | None:
    """The names in a list as Python, NumPy, JSON or Label Studio writes it: ['cat', 'dog'],
    {"cat"}, {"choices": ["cat"]}; None if the cell is no list."""
    if cell[:1] not in ("[", "{", "("):
        return None
    text = re.sub(r"""(['"])\s+(?=['"])""", r"\1, ", cell)  # NumPy writes no commas
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
            return None
    if isinstance(value, dict) and [*value] == ["choices"]:
        value = value["choices"]
    if not isinstance(value, list | tuple | set):
        return None
    fits = all(isinstance(v, str | int) and not isinstance(v, bool) for v in value)
    return [str(v).strip() for v in value] if fits else None


def lines(source: TableSet, file: Path, table: Table) -> Iterator[Line]:
    """The lines of the table with their images. A DataError names the line."""
    root = Path(source.root).expanduser() if source.root else file.parent
    finder = Finder(root, file)
    names: set[str] = set()
    taken: set[Path] = set()
    grouped = any(cells.get("group") for _, cells in table.lines)
    for number, cells in table.lines:
        where, name = f"{file}, line {number}", cells[source.file_column]
        try:
            path = finder.find(name)
        except DataError as error:
            raise DataError(f"{where}: {error}; write the suffix, too") from error
        if path is None:
            raise DataError(f"{where}: there is no file {name!r}, {finder}{finder.nearest(name)}")
        if name in names or path in taken:
            raise DataError(f"{where}: {name} has two rows; an image must have one")
        names.add(name)
        taken.add(path)
        split = findings.split_named(given) if (given := cells.get("split", "")) else "train"
        if split is None:
            raise DataError(f"{where}: split is {given!r}; valid: train, val, test")
        row = Row(
            name, path, "test" if split == "test" else "train", (), cells.get("group") or None
        )
        yield Line(where, cells, row, grouped)
    if not names:
        raise DataError(f"{file}: has no row below the first line")


def annotated(line: Line, value: tuple[float, ...] | None, missing: str) -> Row:
    """The row with its annotation; an image without one (None) is there to pretrain on.

    `missing` says of an image that it has none.

    Raises:
        DataError: a test image has no annotation, or an annotated image of a table with groups has
            no group.
    """
    if value is None:
        if line.row.split == "test":
            raise DataError(
                f"{line.where}: {line.row.id} is a test image and {missing}: label it, or remove its row"
            )
        return line.row._replace(split="pool", group=None)
    if line.grouped and line.row.group is None:
        raise DataError(f"{line.where}: the group is missing (of {line.row.id})")
    return line.row._replace(value=value)


def pooled(source: TableSet, rows: Sequence[Row]) -> list[Row]:
    """The images of `dataset.unlabelled`, but for those of the table."""
    if not source.unlabelled:
        return []
    pool = Path(source.unlabelled).expanduser()
    require_folder(pool, "dataset.unlabelled")
    taken = {r.path.resolve() for r in rows}
    files = images_in(pool)
    files = [p for p in files if p.resolve() not in taken]
    if not files:
        raise DataError(
            f"dataset.unlabelled={pool}: is no folder with images beside those of the table"
        )
    return [Row(f"unlabelled/{p.relative_to(pool).as_posix()}", p, "pool") for p in files]


def corpus(
    source: TableSet,
    rows: list[Row],
    target: str,
    target_NK: Tensor,
    names: Sequence[str],
    notes: Sequence[str] = (),
    **described: Any,
) -> Corpus:
    """The data set as a corpus.

    Args:
        source: the options of the data set.
        rows: its images, those to pretrain on included.
        target: the name of the target.
        target_NK: the target of each row.
        names: what the K numbers of the target are called.
        notes: the reader's warnings.
        described: further fields of the corpus.
    """
    image = source.canvas.image
    x, seen, levels = survey(
        [File(r.id, r.path) for r in rows],
        image,
        len(rows) * prod(image) <= source.memory * 1e9,
        max(1, source.workers),
        source.fit,
        learnt=[r.split != "test" for r in rows],
        most=source.most_pixels,
    )
    if faults := [f"{r.path}: {s.fault}" for r, s in zip(rows, seen, strict=True) if s.fault]:
        raise DataError(
            f"{len(faults)} images cannot be used:{listing(faults)}\n"
            "Repair them, or remove their rows"
        )

    def fingerprint(*splits: str) -> str:
        content = [
            (r.id, r.split, r.value, r.group, s.sha256)
            for r, s in zip(rows, seen, strict=True)
            if r.split in splits
        ]
        text = json.dumps([image, source.fit, names, content])
        return hashlib.sha256(text.encode()).hexdigest()

    train, test, extra = (
        part(which, rows, x, {target: target_NK}, source.workers)
        for which in ("train", "test", "pool")
    )
    if train is None:
        raise DataError(f"{source.table}: has no training rows")
    name = Path(str(source.table)).stem
    what = ", ".join(names) or "none of the classes"
    text = f"{name}: {len(train):,} images with {what}, at {image[2]}x{image[1]}."
    console.print(text, soft_wrap=True)
    findings.require_groups_apart(train, test)
    learnt = [(r, s) for r, s in zip(rows, seen, strict=True) if r.split == "train"]
    ids, values = [r.id for r, _ in learnt], [r.value for r, _ in learnt]
    warnings = [
        *notes,
        *findings.check_copies(ids, [s.sha256 for _, s in learnt], values),
        *findings.check_images(seen, levels),
        *findings.check_crop([s.size for s in seen], image, source.fit),
    ]
    return Corpus(
        name,
        train=train,
        test=test,
        extra=extra,
        image=image,
        report=findings.print_warnings(name, warnings),
        fingerprint=fingerprint("train", "pool"),
        test_fingerprint=fingerprint("test"),
        files={r.id: r.path for r in rows},
        levels=levels,
        fit=source.fit,
        **described,
    )
