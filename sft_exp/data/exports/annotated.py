"""The one form that all readers of labelling tools' exports fill: images with their boxes, and notes on what was left out.

A `Tree` is the export on disk. It finds the image that an annotation names even where the name is a path on the
annotator's machine, a URL, or written with backslashes.
"""

import json
import math
import os
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple
from urllib.parse import unquote

from sft_exp.data.readers.boxed import Box, Marked
from sft_exp.data.readers.files import File, below, is_image
from sft_exp.data.readers.findings import some, split_named
from sft_exp.errors import DataError

Corners = tuple[float, float, float, float]
NOWHERE: Corners = (math.nan,) * 4  # of an annotation without a box; the reader of boxes names it

_PREFIX = re.compile(r"^[0-9a-f]{8}-")  # Label Studio puts it before the names of uploaded files


class Annotated(NamedTuple):
    """An image and its boxes, in pixels of the image."""

    path: Path
    boxes: list[Box]
    told: Path  # the file of annotations
    size: tuple[int, int] | None = None  # width and height, as the annotations state them
    split: str | None = None  # train, val or test; None where the export has no splits

    def marked(self, root: Path) -> Marked:
        """The same for the reader of boxes, which names an image by its path from the root."""
        name = Path(os.path.relpath(self.path, root)).as_posix()
        return Marked(File(name, self.path), self.boxes, self.size, str(self.told))


class Export(NamedTuple):
    """What a reader found."""

    images: list[Annotated]
    classes: tuple[str, ...] = ()  # in the export's own order; none where it does not list them
    notes: tuple[str, ...] = ()  # what was left out or had to be interpreted, one line each


class Settings(NamedTuple):
    """What the user may say about an export that the export does not say itself."""

    first: int = 1  # number of the first pixel in Pascal VOC's files
    attribute: str | None = None  # the region attribute that is the class, of VIA


class LeftOut:
    """Counts what is left out, by reason."""

    def __init__(self) -> None:
        self.names: dict[str, list[str]] = {}

    def add(self, reason: str, name: object) -> None:
        """`reason` completes the sentence '3 ...', such as 'polylines are left out'."""
        self.names.setdefault(reason, []).append(str(name))

    @property
    def notes(self) -> tuple[str, ...]:
        return tuple(
            f"{len(names):,} {reason}: {some(list(dict.fromkeys(names)))}"
            for reason, names in self.names.items()
        )


class Tree:
    """The files of an export.

    Args:
        root: the folder of the export.
        images: the folder of its images, where they lie elsewhere.
    """

    def __init__(self, root: Path, images: Path | None = None):
        self.root, self.images = root, images
        self._content: dict[Path, Any] = {}

    @cached_property
    def files(self) -> list[Path]:
        """All visible files below the root."""
        return below(self.root)

    def ending(self, *suffixes: str) -> list[Path]:
        return [p for p in self.files if p.suffix.lower() in suffixes]

    @cached_property
    def pictures(self) -> list[Path]:
        """All images: those below the root, or where they lie elsewhere those there."""
        return [p for p in (below(self.images) if self.images else self.files) if is_image(p.name)]

    @cached_property
    def _by_name(self) -> dict[str, list[Path]]:
        found: dict[str, list[Path]] = {}
        for path in self.pictures:
            found.setdefault(path.name.casefold(), []).append(path)
        return found

    @cached_property
    def _by_stem(self) -> dict[str, list[Path]]:
        found: dict[str, list[Path]] = {}
        for path in self.pictures:
            found.setdefault(path.stem, []).append(path)
        return found

    def find(self, name: str, annotations: Path) -> Path | None:
        """The image that `annotations` calls `name`; None where there is none.

        The name is tried as a path from the annotations, the root and the folder of images. Otherwise the image is the
        one of this file name that shares most of the path's last folders, and then the one in the annotations' folder.

        Raises:
            DataError: several images are equally likely.
        """
        text = re.sub(r"^[a-z0-9+]+://", "", name.partition("?d=")[2] or name).replace("\\", "/")
        for wording in dict.fromkeys([text, unquote(text), _PREFIX.sub("", Path(text).name)]):
            for place in (annotations.parent, self.root, *([self.images] if self.images else [])):
                if wording and (path := Path(os.path.normpath(place / wording))).is_file():
                    return path
            if found := self._by_name.get(PurePosixPath(wording).name.casefold()):
                return self._likeliest(found, wording, annotations)
        return None

    def _likeliest(self, found: list[Path], name: str, annotations: Path) -> Path:
        parts = PurePosixPath(name).parts[::-1]

        def shared(path: Path) -> int:
            pairs = zip(parts, path.parts[::-1], strict=False)
            return next((n for n, (a, b) in enumerate(pairs) if a != b), len(parts))

        most = max(map(shared, found))
        best = [p for p in found if shared(p) == most]
        near = [p for p in best if p.is_relative_to(annotations.parent)]
        best = near if len(best) > 1 and near else best
        if len(best) > 1:
            raise DataError(
                f"{annotations}: {name} may be {' or '.join(map(str, best[:3]))}; "
                "name one of the folders by dataset.images="
            )
        return best[0]

    def named(self, stem: str, annotations: Path) -> Path | None:
        """The image whose name without suffix is `stem`, for annotations that have a file for each image."""
        found = self._by_stem.get(stem, [])
        beside = [p for p in found if p.parent == annotations.parent]
        return self._likeliest(beside or found, stem, annotations) if found else None

    def split(self, path: Path) -> str | None:
        """train, val or test: the innermost folder between the root and the file that is named like one."""
        inside = path.relative_to(self.root).parts[:-1] if path.is_relative_to(self.root) else ()
        return next((s for part in reversed(inside) if (s := split_named(part))), None)

    def json(self, path: Path) -> Any:
        """A file's JSON; None where it holds none. DataError where it cannot be read."""
        if path not in self._content:
            try:
                self._content[path] = json.loads(path.read_text(encoding="utf-8-sig"))
            except (ValueError, RecursionError):
                self._content[path] = None
            except OSError as error:
                raise DataError(f"{path}: {error.strerror}") from error
        return self._content[path]

    def tag(self, path: Path) -> str | None:
        """The outermost tag of an XML file, read from its beginning; None where there is none."""
        with path.open("rb") as file:
            found = re.search(rb"<([A-Za-z_][\w.-]*)", file.read(4096))
        return found[1].decode() if found else None


def text_of(file: Path) -> str:
    """A text file in UTF-8, with or without its mark. DataError where it cannot be read or is none."""
    try:
        return file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"{file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: no text in UTF-8 ({error})") from error


def xml(file: Path, hint: str = "") -> ET.Element:
    """The outermost element. DataError where there is no such file, with the hint, or no XML in it."""
    try:
        return ET.parse(file).getroot()  # noqa: S314 (entities do not grow: expat limits them since 2.4.1)
    except OSError as error:
        raise DataError(f"{file}: {error.strerror}{hint}") from error
    except ET.ParseError as error:
        raise DataError(f"{file}: no XML ({error})") from error


def number(value: Any, where: str) -> float:
    """A finite number. DataError otherwise."""
    try:
        found = float(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise DataError(f"{where}: {value!r} is no number") from error
    if not math.isfinite(found):
        raise DataError(f"{where}: {value!r} is no finite number")
    return found


def around(points: Iterable[Any], where: str) -> Corners:
    """The upright box around a polygon given as x, y, x, y, ... DataError where it has fewer than two points."""
    flat = [number(v, where) for v in points]
    if len(flat) < 4 or len(flat) % 2:
        raise DataError(f"{where}: {len(flat)} numbers make no polygon of pairs x, y")
    return min(flat[::2]), min(flat[1::2]), max(flat[::2]), max(flat[1::2])


def rotated(corners: Corners, degrees: float, centre: tuple[float, float]) -> Corners:
    """The upright box around a box that is turned clockwise (as seen, y points down) about a point."""
    if not degrees:
        return corners
    x0, y0, x1, y1 = corners
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    at = [(x - centre[0], y - centre[1]) for x in (x0, x1) for y in (y0, y1)]
    return around(
        [v for x, y in at for v in (centre[0] + c * x - s * y, centre[1] + s * x + c * y)], ""
    )


def ellipse(x: float, y: float, rx: float, ry: float, degrees: float = 0.0) -> Corners:
    """The upright box around an ellipse that is turned by that angle."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    wide, high = math.hypot(rx * c, ry * s), math.hypot(rx * s, ry * c)
    return x - wide, y - high, x + wide, y + high


def flat(pairs: Any, where: str) -> list[Any]:
    """[[x, y], ...] as [x, y, ...]. DataError where it is no such list."""
    if not isinstance(pairs, list) or not all(isinstance(pair, list) for pair in pairs):
        raise DataError(f"{where}: the points are no list of pairs x, y")
    return [v for pair in pairs for v in pair]
