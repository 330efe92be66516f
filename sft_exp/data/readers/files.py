"""Finds image files in folders, by globs and in tar files, and reads each once, so that broken ones
are known before use."""

import codecs
import csv
import hashlib
import io
import os
import re
import stat
import tarfile
import unicodedata
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from glob import glob, has_magic
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sft_exp.data import tables
from sft_exp.data.decode import (
    Levels,
    TooLarge,
    Traits,
    decode,
    formats,
    look,
    open_undecoded,
    upright_size,
)
from sft_exp.data.images import Held, Images
from sft_exp.errors import DataError, absent, require
from sft_exp.progress import bar

CHUNK = 1000  # images between updates of the progress bar


class File(NamedTuple):
    """The location of an image: a file, a range of a tar file, or the content of a compressed
    member."""

    id: str
    path: Path
    offset: int = 0
    size: int = -1  # bytes; -1 = to the end
    content: bytes | None = None

    def read(self) -> bytes:
        if self.content is not None:
            return self.content
        require_regular(self.path)
        with self.path.open("rb") as file:
            file.seek(self.offset)
            return file.read(self.size)


class Seen(NamedTuple):
    """The properties of a file that was read."""

    sha256: str = ""
    size: tuple[int, int] = (0, 0)  # width, height of the upright image
    fault: str = ""  # why it cannot be used; "" = it can
    traits: Traits = Traits()
    extremes: tuple[int, int] = (0, 255)  # the lowest and the highest grey level after decoding
    shade: str = ""  # the pixel value of an image whose pixels are all equal
    grey: bool = False  # whether its channels are equal


class Decoder:
    """row -> uint8 [C, H, W]. DataError if the row's file has changed since the run began."""

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

    def __len__(self) -> int:
        return len(self.files)

    def key(self) -> str:
        """What decides the decoded images: the files' content, and how they are decoded."""
        how = (self.image, self.fit, self.levels, self.most)
        return hashlib.sha256(repr((how, self.sha256)).encode()).hexdigest()

    def __call__(self, row: int) -> Tensor:
        file = self.files[row]
        try:
            content = file.read()
        except OSError as error:
            problem = f"{error.strerror}, but it was there when the run began"
            raise DataError(f"{file.path}: {problem}") from error
        if hashlib.sha256(content).hexdigest() != self.sha256[row]:
            problem = "changed while the run used it; start again, so that the record is right"
            raise DataError(f"{file.path}: {problem}")
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

    Files of more than 8 bits per pixel share one scale, which is set by the training images, so
    that test images do not affect it. It is known after all files were read; files with another
    range are then decoded again.

    Args:
        files: the image files.
        image: C, H, W of the decoded images.
        hold: whether to keep all images in memory.
        threads: threads that read.
        fit: how images are fitted to the size.
        learnt: for each file whether it is a training image; empty: all are.
        most: limit of the pixels of an image.

    Returns:
        All images, uint8 [N, C, H, W], or a decoder; the properties of each file; and the scale,
        None if no file has more than 8 bits per pixel.
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
        with open_undecoded(content, most) as picture:
            size = upright_size(picture)
        grey = bool((pixels == pixels[:1]).all())
        return Seen(hashlib.sha256(content).hexdigest(), size, "", traits, *summary(pixels), grey)

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
        rescaled = [
            n
            for n, s in enumerate(seen)
            if (span := s.traits.span) and Levels.spanning(span[0], span[2]) != levels
        ]
        for row, new in zip(rescaled, pool.map(again, rescaled), strict=True):
            seen[row] = new
    return x_NCHW if hold else Decoder(files, seen, image, fit, levels, most), seen, levels


def summary(x_CHW: Tensor) -> tuple[tuple[int, int], str]:
    """`Seen.extremes` and `Seen.shade` of a decoded image."""
    extremes = int(x_CHW.min()), int(x_CHW.max())
    one = extremes[0] == extremes[1] or bool((x_CHW == x_CHW[:, :1, :1]).all())
    return extremes, ", ".join(map(str, x_CHW[:, 0, 0].tolist())) if one else ""


def levels_of(traits: Sequence[Traits]) -> Levels | None:
    """The common scale of files with more than 8 bits per pixel; None without such files."""
    spans = [t.span for t in traits if t.span]
    return Levels.spanning(min(s[0] for s in spans), max(s[2] for s in spans)) if spans else None


def find(entry: str, most: float = float("inf")) -> list[File]:
    """The visible files of a path or glob: files, those in folders, members of tar files.

    At most `most` bytes of images in a compressed tar file are held in memory. Ids are paths
    relative to the parent of the entry, or of the last folder before the glob's first wildcard.
    """
    path = Path(entry).expanduser().absolute()
    top = path
    while not path.exists() and has_magic(str(top)):
        top = top.parent
    paths = [path] if path.exists() else map(Path, sorted(glob(str(path), recursive=True)))
    files = []
    for path in paths:
        name = path.relative_to(top.parent).as_posix()
        if path.is_dir():
            files += [File(p.relative_to(top.parent).as_posix(), p) for p in below(path)]
        elif not is_image(path.name) and path.is_file() and tarfile.is_tarfile(path):
            files += members(path, name, most)
        elif path.is_file():
            files.append(File(name, path))
    return files


def below(folder: Path) -> list[Path]:
    """All visible files in a folder and its subfolders, sorted by path. OSError if one is
    unreadable."""
    paths, visited = [], set()
    for parent, folders, names in os.walk(folder, onerror=_raise, followlinks=True):
        if (real := os.path.realpath(parent)) in visited:  # a cycle of links
            folders.clear()
            continue
        visited.add(real)
        folders[:] = [name for name in folders if visible(name)]
        # pipes and sockets named like images are named when they are read, and others hold no data
        paths += [
            path
            for path in (Path(parent, name) for name in names if visible(name))
            if is_image(path.name) or is_regular(path)
        ]
    return sorted(paths, key=Path.as_posix)


def is_regular(path: Path) -> bool:
    """Whether a path is no pipe, socket or device, whose reading may never end; a broken link is
    none of them, and reading it says why."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except OSError:
        return True


def require_regular(path: Path) -> None:
    """DataError for a pipe, socket or device."""
    if not is_regular(path):
        raise DataError("is a pipe, socket or device, and no file")


def content_of(path: Path) -> bytes:
    """A file's content. DataError for a pipe, socket or device."""
    require_regular(path)
    return path.read_bytes()


def _raise(error: OSError) -> None:
    raise error


def images_in(folder: Path) -> list[Path]:
    """The files of `below` that are named like images."""
    return [p for p in below(folder) if is_image(p.name)]


SEPARATORS = ",;\t|"
UPLOADED = re.compile(r"^[0-9a-f]{8}-")  # Label Studio puts it before the names of uploaded files
OPTIONAL = ("split", "group")  # columns that readers use if they are there
REST = "\0"  # key of a row's cells beyond the last column
# what is no text, by its first bytes
PACKED = {
    b"PK\x03\x04": "an Excel workbook or another zip file",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook",
    b"PAR1": "a Parquet file",
    b"\x1f\x8b": "a gzip file",
}


class Table(NamedTuple):
    """A table's columns, and its lines by column with their numbers."""

    columns: list[str]
    lines: list[tuple[int, dict[str, str]]]
    separator: str
    notes: tuple[str, ...] = ()  # sentences on what was guessed


def read_table(
    file: Path, key: str, needs: Sequence[str], hint: str = "", may_lack: str = ""
) -> Table:
    """Read a CSV file as spreadsheets and other programs write it.

    Separators may be commas, semicolons, tabs or bars, encodings UTF-8, UTF-16 or else
    Windows-1252, with or without a byte order mark and Excel's line `sep=;`. The case of column
    names is ignored.

    Args:
        file: the table.
        key: the configuration key that names the file.
        needs: required columns, which are returned under these names.
        hint: text to add to the message if one is missing; `=<label>` of a missing column `label`
            becomes the table's next other column.
        may_lack: a required column that the caller looks for by other means where it is missing.

    Raises:
        DataError: the file cannot be read, or lacks a column.
    """
    try:
        content = file.read_bytes()
        if kind := next((k for start, k in PACKED.items() if content.startswith(start)), None):
            raise DataError(f"{key}={file}: is {kind} and no text; save it as CSV")
        text = decoded(content)
        first, _, rest = text.partition("\n")
        first = first.strip().casefold()
        stated = first.removeprefix("sep=") if first.startswith("sep=") else ""
        text = rest if stated else text
        separator = stated if stated and stated in SEPARATORS else separator_of(text, needs)
        reader = csv.DictReader(
            io.StringIO(text, newline=""),
            restkey=REST,
            restval="",
            delimiter=separator,
            strict=True,
        )
        written = [c.strip() for c in reader.fieldnames or []]
        columns = renamed(written, [*needs, *OPTIONAL])
        reader.fieldnames = columns
        if {*needs} - {*columns, may_lack}:
            raise lacking(file, columns, needs, hint)
        lines = []
        for row in reader:
            number = reader.line_num + bool(stated)
            if extra := [cell for cell in row.pop(REST, []) if cell.strip()]:
                problem = f"has more cells than the first line has columns, such as {extra[0]!r}"
                remedy = f"a cell that holds {separator!r} must be in double quotes"
                raise DataError(f"{file}, line {number}: {problem}; {remedy}")
            line = {k: tables.restored(str(v).strip()) for k, v in row.items() if k}
            if any(line.values()):  # spreadsheets leave empty rows behind
                lines.append((number, line))
    except csv.Error as error:
        problem = f"{error}: is a quotation mark not closed?"
        raise DataError(f"{key}={file}: {problem}") from error
    except FileNotFoundError as error:
        raise DataError(f"{key}={file}: {absent(file, 'file')}") from error
    except UnicodeError as error:
        raise DataError(f"{key}={file}: {error}; save it as UTF-8") from error
    except OSError as error:
        raise DataError(f"{key}={file}: {error.strerror}") from error
    folded = [c.casefold() for c in written]
    if twice := [c for c in needs if (written.count(c) or folded.count(c.casefold())) > 1]:
        raise DataError(f"{file}: has several columns {twice[0]}; rename all but one")
    return Table(columns, lines, separator, guessed_encoding(content))


def lacking(file: Path, columns: Sequence[str], needs: Sequence[str], hint: str) -> DataError:
    """The error of a table without some of the columns that are needed; `hint` as in `read_table`."""
    missing = [c for c in needs if c not in columns]
    others = iter([c for c in columns if c and c not in (*needs, *OPTIONAL)])
    for c in needs:
        hint = hint.replace(f"=<{c}>", f"={next(others, c) if c in missing else c}")
    has = ",".join(columns) or "nothing"
    return DataError(f"{file}: no column {' and '.join(missing)}; its first line has {has}{hint}")


def decoded(content: bytes) -> str:
    """The text of a file in UTF-16, UTF-8, or Windows-1252; else UnicodeError."""
    return content.decode(encoding_of(content)).lstrip("\ufeff")


def encoding_of(content: bytes) -> str:
    """UTF-16 by its byte order mark or zeros, UTF-8 if the bytes are valid, or else Windows-1252,
    which is a guess."""
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    if content[:1] == b"\0" or content[1:2] == b"\0":  # without a mark
        return "utf-16-be" if content[:1] == b"\0" else "utf-16-le"
    try:
        content.decode("utf-8")
    except UnicodeDecodeError:
        return "cp1252"
    return "utf-8-sig"


def guessed_encoding(content: bytes) -> tuple[str, ...]:
    """A warning of a table in Windows-1252, since text in other encodings of single bytes, and of
    Chinese and Japanese, can be read as it, too, into other letters."""
    if encoding_of(content) != "cp1252":
        return ()
    lines = enumerate(decoded(content).splitlines(), start=1)
    number, line = next((n, line) for n, line in lines if not line.isascii())
    word = next((w for w in re.split(r"[ \t,;|\"]+", line) if not w.isascii()), line)
    problem = f"the table is neither UTF-8 nor UTF-16 and is read as Windows-1252 ({word!r} in line {number})"
    return (f"{problem}: if these letters are wrong, save it as UTF-8",)


def separator_of(text: str, needs: Sequence[str]) -> str:
    """The separator that gives the first line most of the required columns, and then most
    columns."""

    def columns_with(separator: str) -> tuple[int, int]:
        columns = next(csv.reader(io.StringIO(text, newline=""), delimiter=separator), [])
        names = {c.strip().casefold() for c in columns}
        return sum(c.casefold() in names for c in needs), len(columns)

    return max(SEPARATORS, key=columns_with)


def renamed(columns: list[str], needs: Sequence[str]) -> list[str]:
    """The columns, where those that differ from a required name in case alone have that name."""
    missing = {c.casefold(): c for c in needs if c not in columns}
    return [c if c in needs else missing.pop(c.casefold(), c) for c in columns]


def absolute(name: str) -> bool:
    """Whether a path is absolute, here or on another system, or a URL."""
    return PureWindowsPath(name).anchor != "" or "://" in name


def same_text(name: str) -> str:
    """A file's name in one form of Unicode and without case."""
    return unicodedata.normalize("NFC", name).casefold()


class Finder:
    """Finds the files that a table names.

    Names may be relative to `root` or to the table, absolute, paths of another machine that end in
    one of these, written with backslashes, in another case or form of Unicode, or ids without a
    suffix.
    """

    def __init__(self, root: Path, table: Path):
        self.places = list(dict.fromkeys([root, table.parent]))
        self.stems: dict[Path, defaultdict[str, list[Path]]] = {}
        self.alike: dict[Path, defaultdict[str, list[Path]]] = {}

    def find(self, name: str) -> Path | None:
        """The file, or None. DataError if an id matches several."""
        parts = PureWindowsPath(name).parts
        elsewhere = ["/".join(parts[n:]) for n in range(1, len(parts))] if absolute(name) else []
        bare = UPLOADED.sub("", parts[-1]) if "upload" in parts else ""
        for text in dict.fromkeys([name, name.replace("\\", "/"), *elsewhere, bare]):
            for place in self.places:
                if text and (place / text).is_file():
                    return place / text
            for place in self.places:
                path = place / text
                matches = [] if not text or is_image(text) else self.named(path.parent)[path.name]
                if len(matches) > 1:
                    files = " and ".join(p.name for p in matches)
                    raise DataError(f"{name} stands for {files} in {path.parent}")
                if matches:
                    return matches[0]
            for place in self.places:
                path = place / text
                matches = self.resembling(path.parent)[same_text(path.name)] if text else []
                if len(matches) == 1:
                    return matches[0]
        return None

    def resembling(self, folder: Path) -> defaultdict[str, list[Path]]:
        """Name without case and in one form of Unicode -> images of the folder."""
        if folder not in self.alike:
            self.alike[folder] = defaultdict(list)
            for paths in self.named(folder).values():
                for path in paths:
                    self.alike[folder][same_text(path.name)].append(path)
        return self.alike[folder]

    def nearest(self, name: str) -> str:
        """A hint at the file that may be meant by a name that stands for none, or ""."""
        path = PurePosixPath(name.replace("\\", "/"))
        stem = path.stem if is_image(path.name) else path.name
        for place in self.places:
            there = self.named(place / path.parent)
            if others := there.get(stem):
                return f"; {others[0].name} is there: write names without suffix, or with this one"
            bare = stem.removesuffix(".0")  # as a spreadsheet writes 0012
            if digits := [
                paths[0].name
                for s, paths in there.items()
                if paths and bare.isdecimal() and s.lstrip("0") == bare.lstrip("0")
            ]:
                return f"; {digits[0]} is there: did a spreadsheet change the numbers? Keep them as text"
            for inside in sorted(place.glob("*/")) if not path.parent.name else ():
                if (inside / path.name).is_file():
                    return f"; {inside / path.name} is there: write the folder, too"
        return ""

    def named(self, folder: Path) -> defaultdict[str, list[Path]]:
        """Name without suffix -> images of the folder."""
        if folder not in self.stems:
            self.stems[folder] = defaultdict(list)
            for path in sorted(folder.iterdir()) if folder.is_dir() else []:
                if is_image(path.name) and visible(path.name):
                    self.stems[folder][path.stem].append(path)
        return self.stems[folder]

    def __str__(self) -> str:
        return f"neither below {self.places[0]} nor beside the table"


def part(
    which: str, rows: Sequence[Any], x: Held, targets: Mapping[str, Held], workers: int
) -> Images | None:
    """The images of one split (train, test, or pool: without annotations); None if it is empty.

    Args:
        which: the split.
        rows: one object per image of all splits, with the fields id, split, stratum and group.
        x: the images of all rows.
        targets: the targets of all rows, by name.
        workers: processes that decode on use.
    """
    indices, pool = [n for n, row in enumerate(rows) if row.split == which], which == "pool"
    if not indices:
        return None
    y = torch.tensor([-1 if pool else rows[n].stratum for n in indices], dtype=torch.long)
    groups = [group for n in indices if (group := rows[n].group) is not None] or None
    ids = [rows[n].id for n in indices]
    return Images(x, y, ids, groups, workers, torch.tensor(indices), {} if pool else targets)


def members(archive: Path, name: str, most: float) -> list[File]:
    """The visible regular files in a tar file, with ids `name::member`. Nothing is unpacked on
    disk."""
    try:
        with tarfile.open(archive) as tar:
            regular = [m for m in tar if m.isreg() and not m.issparse()]
            entries = [m for m in regular if all(map(visible, PurePosixPath(m.name).parts))]
            # members of an uncompressed archive can be read in place
            if isinstance(tar.fileobj, io.BufferedReader):
                return [File(f"{name}::{m.name}", archive, m.offset_data, m.size) for m in entries]
            entries = [m for m in entries if is_image(m.name)]
            if (total := sum(m.size for m in entries)) > most:
                raise DataError(
                    f"{archive}: it is compressed, so its images must be held in memory, and {total / 1e9:.1f} GB are more than "
                    f"dataset.memory={most / 1e9:g}. Decompress it: a plain .tar is read where it lies"
                )
            return [
                File(f"{name}::{m.name}", archive, content=opened.read())
                for m in entries
                if (opened := tar.extractfile(m)) is not None  # never None for regular files
            ]
    except DataError:
        raise
    except Exception as error:  # decompressors raise various errors
        raise DataError(f"{archive}: this tar file is damaged ({error})") from error


# what systems put beside people's files: macOS, Windows, Synology, QNAP, Linux, Python
SYSTEM = (
    "__MACOSX", "$RECYCLE.BIN", "System Volume Information", "@eaDir", "#recycle", "@Recycle",
    "lost+found", "__pycache__",
)  # fmt: skip


def visible(name: str) -> bool:
    return not name.startswith((".", *SYSTEM))


def require_decoding(options: Any) -> None:
    """ConfigError unless the options with which a data set decodes files are valid."""
    require(options.channels in (1, 3), "channels", options.channels, "1 (grey) or 3 (colour)")
    most = options.most_pixels
    require(most is None or most > 0, "most_pixels", most, "above 0, or null")
    require(options.workers >= 0, "workers", options.workers, "0 or more")


def require_folder(path: Path, key: str, hint: str = "") -> None:
    """DataError unless the path that a configuration key names is a folder."""
    if path.is_dir():
        return
    problem = absent(path, "folder")
    if path.is_file():
        packed = path.suffix.lower() in (".zip", ".tar", ".gz", ".tgz", ".7z", ".rar")
        problem = "is a file and no folder" + ("; unpack it and name its folder" if packed else "")
    stop = "" if problem.endswith("?") else "."
    raise DataError(f"{key}={path}: {problem}{f'{stop} {hint}' if hint else ''}")


def require_existing(entry: str, key: str) -> None:
    """DataError unless the path that a key names exists; a glob may match nothing yet."""
    path = Path(entry).expanduser()
    if not path.exists() and not has_magic(entry):
        raise DataError(f"{key}={entry}: {absent(path, 'file or folder')}")


def is_image(name: str) -> bool:
    """Whether a file's suffix is one of an image format."""
    return Path(name).suffix.lower() in suffixes()


@cache
def suffixes() -> frozenset[str]:
    from PIL import Image

    known = formats()  # called first, because it may register a format
    return frozenset(
        suffix for suffix, kind in Image.registered_extensions().items() if kind in known
    )


def png(picture: Any) -> bytes:
    """A Pillow image as PNG bytes."""
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return buffer.getvalue()


def unique(stem: str, taken: set[str]) -> str:
    """The stem, or the first `stem-N` that is not in `taken`; the result is added to `taken`."""
    name, n = stem, 1
    while name in taken:
        n += 1
        name = f"{stem}-{n}"
    taken.add(name)
    return name
