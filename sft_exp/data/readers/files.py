"""Image files: found in folders, by globs and in tar files, and each read once, so that a broken one is known before any use."""

import codecs
import csv
import hashlib
import io
import os
import tarfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from glob import glob, has_magic
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sft_exp.data import tables
from sft_exp.data.decode import (
    ORIENTATION,
    Levels,
    TooLarge,
    Traits,
    decode,
    formats,
    look,
    unpacked,
)
from sft_exp.data.images import Held, Images
from sft_exp.errors import DataError
from sft_exp.progress import bar

CHUNK = 1000  # images read between two looks at the progress bar


class File(NamedTuple):
    """Where an image lies: a file, a stretch of a tar file, or the member of a compressed one, which is held in memory."""

    id: str
    path: Path
    offset: int = 0
    size: int = -1  # bytes; -1 = to the end
    content: bytes | None = None

    def read(self) -> bytes:
        if self.content is not None:
            return self.content
        with self.path.open("rb") as file:
            file.seek(self.offset)
            return file.read(self.size)


class Seen(NamedTuple):
    """What reading a file showed."""

    sha256: str = ""
    size: tuple[int, int] = (0, 0)  # width, height, upright
    fault: str = ""  # why it cannot be used; empty = it can
    traits: Traits = Traits()
    extremes: tuple[int, int] = (0, 255)  # the lowest and the highest grey level after decoding
    shade: str = ""  # of an image whose pixels are all equal, what they are


class Decoder:
    """row -> uint8 [C, H, W], as long as the row's file is what it was when the run began; else DataError."""

    def __init__(
        self,
        files: list[File],
        seen: list[Seen],
        image: tuple[int, int, int],
        fit: str = "crop",
        levels: Levels | None = None,
        most: int | None = None,
    ):
        self.files, self.sha256, self.image, self.fit = files, [s.sha256 for s in seen], image, fit
        self.levels, self.most = levels, most

    def __call__(self, row: int) -> Tensor:
        file = self.files[row]
        try:
            content = file.read()
        except OSError as error:
            raise DataError(
                f"{file.path}: {error.strerror}, but it was there when the run began"
            ) from error
        if hashlib.sha256(content).hexdigest() != self.sha256[row]:
            raise DataError(
                f"{file.path}: changed while the run used it; start again, so that what is trained on is what is recorded"
            )
        return decode(content, self.image, self.fit, self.levels, self.most)


def survey(
    files: list[File],
    image: tuple[int, int, int],
    hold: bool,
    threads: int,
    fit: str = "crop",
    learnt: Sequence[bool] = (),
    most: int | None = None,
) -> tuple[Tensor | Decoder, list[Seen], Levels | None]:
    """Read and decode each file once.

    Files of more than 8 bits a pixel are all scaled by the values that those `learnt` from use (one flag a file; none: all
    of them), so that no test image has a say. That scale is known when all are read; a file that its own values would
    scale otherwise is then decoded again.

    Returns:
        all images, uint8 [N, C, H, W], or unless `hold` what decodes one; what was seen of each; and the scale, None where
        no file has more than 8 bits a pixel.
    """
    x_NCHW = torch.zeros(len(files) if hold else 0, *image, dtype=torch.uint8)

    def read(row: int) -> Seen:
        try:
            content = files[row].read()
            pixels, traits = look(content, image, fit, most=most)
        except TooLarge as error:
            return Seen(fault=f"{error}. dataset.most_pixels= allows more")
        except (DataError, OSError) as error:
            return Seen(fault=getattr(error, "strerror", None) or str(error))
        if hold:
            x_NCHW[row] = pixels
        with unpacked(content, most) as picture:
            on_side = picture.getexif().get(ORIENTATION, 1) >= 5
            size = picture.size[::-1] if on_side else picture.size
        return Seen(hashlib.sha256(content).hexdigest(), size, "", traits, *summary(pixels))

    def again(row: int) -> Seen:
        pixels = decode(files[row].read(), image, fit, levels, most)
        if hold:
            x_NCHW[row] = pixels
        extremes, shade = summary(pixels)
        return seen[row]._replace(extremes=extremes, shade=shade)

    seen: list[Seen] = []
    with ThreadPoolExecutor(threads) as pool, bar("reading images", len(files)) as advance:
        for first in range(0, len(files), CHUNK):
            seen += pool.map(read, range(first, min(first + CHUNK, len(files))))
            advance(len(seen), "")
        levels = levels_of([s.traits for n, s in enumerate(seen) if not learnt or learnt[n]])
        other = [
            n
            for n, s in enumerate(seen)
            if (span := s.traits.span) and Levels.spanning(span[0], span[2]) != levels
        ]
        for row, found in zip(other, pool.map(again, other), strict=True):
            seen[row] = found
    return x_NCHW if hold else Decoder(files, seen, image, fit, levels, most), seen, levels


def summary(x_CHW: Tensor) -> tuple[tuple[int, int], str]:
    """`Seen.extremes` and `Seen.shade` of a decoded image."""
    extremes = int(x_CHW.min()), int(x_CHW.max())
    one = extremes[0] == extremes[1] or bool((x_CHW == x_CHW[:, :1, :1]).all())
    return extremes, ", ".join(map(str, x_CHW[:, 0, 0].tolist())) if one else ""


def levels_of(traits: Sequence[Traits]) -> Levels | None:
    """The one scale of files with more than 8 bits a pixel; None where there are none."""
    spans = [t.span for t in traits if t.span]
    return Levels.spanning(min(s[0] for s in spans), max(s[2] for s in spans)) if spans else None


def find(entry: str, most: float = float("inf")) -> list[File]:
    """The visible files that a path or glob names: files, those in folders, members of tar files. Of images in compressed tar
    files, `most` bytes are held. Ids are paths from where the entry's folder lies, or the folder before the glob's first star.
    """
    path = Path(entry).expanduser().absolute()
    top = path
    while not path.exists() and has_magic(str(top)):
        top = top.parent
    files = []
    for found in (
        [path]
        if path.exists()
        else [Path(name) for name in sorted(glob(str(path), recursive=True))]
    ):
        if found.is_dir():
            files += [File(p.relative_to(top.parent).as_posix(), p) for p in below(found)]
        elif not is_image(found.name) and tarfile.is_tarfile(found):
            files += members(found, found.relative_to(top.parent).as_posix(), most)
        elif found.is_file():
            files.append(File(found.relative_to(top.parent).as_posix(), found))
    return files


def below(folder: Path) -> list[Path]:
    """Every file in a folder and its subfolders, in the order of their paths; hidden files and folders are left out. OSError
    where one may not be read."""
    found, seen = [], set()
    for here, folders, names in os.walk(folder, onerror=_raise, followlinks=True):
        if (place := os.path.realpath(here)) in seen:  # a link leads back
            folders.clear()
            continue
        seen.add(place)
        folders[:] = [name for name in folders if visible(name)]
        found += [Path(here, name) for name in names if visible(name)]
    return sorted(found, key=Path.as_posix)


def _raise(error: OSError) -> None:
    raise error


def images_in(folder: Path) -> list[Path]:
    """Every file in a folder and its subfolders that is named like an image, in the order of their paths. OSError as `below`."""
    return [p for p in below(folder) if is_image(p.name)]


def names_in(file: Path, hint: str) -> list[str]:
    """The first word of each line. DataError with the hint where the file cannot be read."""
    try:
        return [line.split()[0] for line in file.read_text().splitlines() if line.strip()]
    except OSError as error:
        raise DataError(f"{file}: {error.strerror}{hint}") from error


SEPARATORS = ",;\t|"


class Table(NamedTuple):
    """A table's columns, and its lines by column with their numbers."""

    columns: list[str]
    lines: list[tuple[int, dict[str, str]]]
    separator: str


def read_table(file: Path, key: str, needs: Sequence[str], hint: str = "") -> Table:
    """A CSV as spreadsheets and other programs write it: separated by commas, semicolons, tabs or bars, in UTF-8 or UTF-16,
    else in Windows-1252, with or without a byte order mark and Excel's line `sep=;`. Columns are found whatever their case.

    Args:
        key: the configuration's key that names the file.
        needs: columns that it must have; they come back under these names.
        hint: added to the message where one is missing.

    Raises:
        DataError: it cannot be read, or lacks a column.
    """
    try:
        text = decoded(file.read_bytes())
        first, _, rest = text.partition("\n")
        given = (
            first.strip().casefold().removeprefix("sep=")
            if first.casefold().startswith("sep=")
            else ""
        )
        text = rest if given else text
        separator = given if given and given in SEPARATORS else separator_of(text, needs)
        reader = csv.DictReader(io.StringIO(text, newline=""), restval="", delimiter=separator)
        columns = renamed([c.strip() for c in reader.fieldnames or []], needs)
        reader.fieldnames = columns
        skipped = 1 if given else 0
        lines = [
            (
                reader.line_num + skipped,
                {k: tables.restored(str(v).strip()) for k, v in line.items() if k},
            )
            for line in reader
        ]
        # spreadsheets leave empty rows behind
        lines = [(number, line) for number, line in lines if any(line.values())]
    except (OSError, UnicodeError, csv.Error) as error:
        raise DataError(f"{key}={file}: {getattr(error, 'strerror', None) or error}") from error
    if missing := [c for c in needs if c not in columns]:
        has = ",".join(columns) or "nothing"
        raise DataError(
            f"{file}: no column {' and '.join(missing)}; its first line has {has}{hint}"
        )
    return Table(columns, lines, separator)


def decoded(content: bytes) -> str:
    """The text of a file in UTF-16 with its mark, in UTF-8, or in Windows-1252. UnicodeError where it is none of these."""
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return content.decode("utf-16")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("cp1252")


def separator_of(text: str, needs: Sequence[str]) -> str:
    """The separator with which the first line has most of the needed columns, and then most columns."""

    def found(separator: str) -> tuple[int, int]:
        columns = next(csv.reader(io.StringIO(text, newline=""), delimiter=separator), [])
        there = {c.strip().casefold() for c in columns}
        return sum(c.casefold() in there for c in needs), len(columns)

    return max(SEPARATORS, key=found)


def renamed(columns: list[str], needs: Sequence[str]) -> list[str]:
    """The columns, those that are needed and differ in case alone as they are asked for."""
    asked = {c.casefold(): c for c in needs if c not in columns}
    return [c if c in needs else asked.pop(c.casefold(), c) for c in columns]


class Finder:
    """Finds the files that a table names: relative to `root` or to the table, absolute, written with backslashes, and of ids
    without a suffix the image of that name."""

    def __init__(self, root: Path, table: Path):
        self.places = list(dict.fromkeys([root, table.parent]))
        self.stems: dict[Path, dict[str, list[Path]]] = {}

    def find(self, name: str) -> Path | None:
        """None where there is no such file. DataError where an id stands for several."""
        for text in dict.fromkeys([name, name.replace("\\", "/")]):
            for place in self.places:
                if text and (place / text).is_file():
                    return place / text
            for place in self.places:
                path = place / text
                if (
                    text
                    and not is_image(text)
                    and (found := self.named(path.parent).get(path.name))
                ):
                    if len(found) > 1:
                        raise DataError(
                            f"{name} stands for {' and '.join(p.name for p in found)} in {path.parent}"
                        )
                    return found[0]
        return None

    def named(self, folder: Path) -> dict[str, list[Path]]:
        """Name without suffix -> images of the folder."""
        if folder not in self.stems:
            found: dict[str, list[Path]] = {}
            for path in sorted(folder.iterdir()) if folder.is_dir() else []:
                if is_image(path.name) and visible(path.name):
                    found.setdefault(path.stem, []).append(path)
            self.stems[folder] = found
        return self.stems[folder]

    def __str__(self) -> str:
        return f"neither below {self.places[0]} nor beside the table"


def part(
    which: str, rows: Sequence[Any], x: Held, targets: Mapping[str, Held], workers: int
) -> Images | None:
    """The images of one split (train, test, or pool: without annotations), where there are any. Each row has an id, a split, a
    stratum, and perhaps a group; `x` and `targets` hold what belongs to all rows, in order."""
    mine, pool = [n for n, r in enumerate(rows) if r.split == which], which == "pool"
    y = torch.tensor([-1 if pool else rows[n].stratum for n in mine], dtype=torch.long)
    groups = [g for n in mine if (g := rows[n].group) is not None] or None
    ids = [rows[n].id for n in mine]
    return (
        Images(x, y, ids, groups, workers, torch.tensor(mine), {} if pool else targets)
        if mine
        else None
    )


def members(archive: Path, name: str, most: float) -> list[File]:
    """The visible regular files in a tar file, which is never unpacked on disk; `name::member` are their ids."""
    try:
        with tarfile.open(archive) as tar:
            found = [
                m
                for m in tar
                if m.isreg() and not m.issparse() and all(map(visible, PurePosixPath(m.name).parts))
            ]
            # not compressed: each can be read where it lies
            if isinstance(tar.fileobj, io.BufferedReader):
                return [File(f"{name}::{m.name}", archive, m.offset_data, m.size) for m in found]
            found = [m for m in found if is_image(m.name)]
            if (total := sum(m.size for m in found)) > most:
                raise DataError(
                    f"{archive}: it is compressed, so its images must be held in memory, and {total / 1e9:.1f} GB are more than "
                    f"dataset.memory={most / 1e9:g}. Decompress it: a plain .tar is read where it lies"
                )
            return [
                File(f"{name}::{m.name}", archive, content=opened.read())
                for m in found
                if (opened := tar.extractfile(m)) is not None  # it is for files, as these are
            ]
    except DataError:
        raise
    except Exception as error:  # whatever the decompressor has to say
        raise DataError(f"{archive}: this tar file is damaged ({error})") from error


def visible(name: str) -> bool:
    return not name.startswith((".", "__MACOSX"))


def is_image(name: str) -> bool:
    """Whether a file's name ends like an image's."""
    return Path(name).suffix.lower() in suffixes()


@cache
def suffixes() -> frozenset[str]:
    from PIL import Image

    known = formats()  # before extensions are asked for: it may register a format
    return frozenset(
        suffix for suffix, kind in Image.registered_extensions().items() if kind in known
    )


def png(picture: Any) -> bytes:
    """A Pillow image as a file's content."""
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return buffer.getvalue()


def unique(stem: str, taken: set[str]) -> str:
    """The stem, or with a number behind it the first that is not taken yet; it is then."""
    name, n = stem, 1
    while name in taken:
        n += 1
        name = f"{stem}-{n}"
    taken.add(name)
    return name
