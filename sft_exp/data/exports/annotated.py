"""The common result of all readers of labelling tools' exports: images with boxes, and notes.

A `Tree` is the export on disk. It finds the image that an annotation names even where the name is a
path on the annotator's machine, a URL, or written with backslashes.
"""

import json
import os
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple
from urllib.parse import unquote

from sft_exp.data.readers.boxed import Box, ImageWithBoxes
from sft_exp.data.readers.files import UPLOADED, File, below, is_image
from sft_exp.data.readers.findings import split_named
from sft_exp.errors import DataError, some


class AnnotatedImage(NamedTuple):
    """An image and its boxes, in pixels of the image."""

    path: Path
    boxes: list[Box]
    source: Path  # the file of annotations
    size: tuple[int, int] | None = None  # width and height, as the annotations state them
    split: str | None = None  # train, val or test; None where the export has no splits

    def to_input(self, root: Path) -> ImageWithBoxes:
        """The image for the reader of boxes, named by its path relative to the root."""
        name = Path(os.path.relpath(self.path, root)).as_posix()
        return ImageWithBoxes(File(name, self.path), self.boxes, self.size, str(self.source))


class Export(NamedTuple):
    """The images, classes and notes that a reader returns."""

    images: list[AnnotatedImage]
    classes: tuple[str, ...] = ()  # in the export's order; empty where it lists none
    notes: tuple[str, ...] = ()  # sentences on omissions and interpretations


class Settings(NamedTuple):
    """Properties of an export that only the user knows."""

    first: int = 1  # number of the first pixel in Pascal VOC's files
    attribute: str | None = None  # VIA: the region attribute that is the class


class Omissions:
    """Counts omissions by reason."""

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
        images: the folder of its images, if it is another one.
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
        """All images below `images`, or else below the root."""
        return [p for p in (below(self.images) if self.images else self.files) if is_image(p.name)]

    @cached_property
    def _splits(self) -> set[str | None]:
        """The splits whose folders hold images."""
        return {self.split(path) for path in self.pictures} - {None}

    @cached_property
    def _by_name(self) -> dict[str, list[Path]]:
        return grouped(self.pictures, lambda path: path.name.casefold())

    @cached_property
    def _by_stem(self) -> dict[str, list[Path]]:
        return grouped(self.pictures, lambda path: path.stem)

    def find(self, name: str, annotations: Path) -> Path | None:
        """The image that `annotations` calls `name`, or None.

        The name is tried as a path from the annotations, the root and the folder of images. Else it
        is the image of this file name that shares most of the path's last folders, and of several
        such images the one in the annotations' folder. It is never an image of another split.

        Raises:
            DataError: several images are equally likely.
        """
        text = re.sub(r"^[a-z0-9+]+://", "", name.partition("?d=")[2] or name).replace("\\", "/")
        bare = text.partition("?")[0] if "://" in name else text  # without a URL's query
        split = split_of_folders(PurePosixPath(text).parts[:-1])
        for wording in dict.fromkeys([text, unquote(bare), UPLOADED.sub("", Path(text).name)]):
            for place in (annotations.parent, self.root, *([self.images] if self.images else [])):
                path = Path(os.path.normpath(place / wording))
                if wording and path.is_file() and self._of_split([path], split, annotations):
                    return path
            candidates = self._by_name.get(PurePosixPath(wording).name.casefold(), [])
            if candidates := self._of_split(candidates, split, annotations):
                return self._likeliest(candidates, wording, annotations)
        return None

    def _of_split(self, candidates: list[Path], split: str | None, annotations: Path) -> list[Path]:
        """The candidates that are in no folder of another split.

        The split is that of the annotation, or else of the annotations' folder, if it has images.
        """
        if split is None and (here := self.split(annotations)) in self._splits:
            split = here
        return [p for p in candidates if split is None or self.split(p) in (split, None)]

    def _likeliest(self, candidates: list[Path], name: str, annotations: Path) -> Path:
        parts = PurePosixPath(name).parts[::-1]

        def shared(path: Path) -> int:
            pairs = zip(parts, path.parts[::-1], strict=False)
            return next((n for n, (a, b) in enumerate(pairs) if a != b), len(parts))

        most = max(map(shared, candidates))
        best = [p for p in candidates if shared(p) == most]
        near = [p for p in best if p.is_relative_to(annotations.parent)]
        best = near if len(best) > 1 and near else best
        if len(best) > 1:
            raise DataError(
                f"{annotations}: {name} may be {' or '.join(map(str, best[:3]))}; "
                "name one of the folders by dataset.images="
            )
        return best[0]

    def named(self, stem: str, annotations: Path, but: Sequence[str] = ()) -> Path | None:
        """The image whose name without suffix is `stem`, for formats with a file per image; in none
        of the folders named `but`."""
        candidates = [p for p in self._by_stem.get(stem, []) if p.parent.name not in but]
        candidates = self._of_split(candidates, None, annotations)
        beside = [p for p in candidates if p.parent == annotations.parent]
        return self._likeliest(beside or candidates, stem, annotations) if candidates else None

    def split(self, path: Path) -> str | None:
        """train, val or test, by the innermost folder with such a name below the root, or below the
        folder of images; or None."""
        tops = [top for top in (self.root, self.images) if top and path.is_relative_to(top)]
        return split_of_folders(path.relative_to(tops[0]).parts[:-1]) if tops else None

    def json(self, path: Path) -> Any:
        """A file's JSON, or None if it is invalid. DataError if it cannot be read."""
        if path not in self._content:
            try:
                self._content[path] = json.loads(path.read_bytes())  # in UTF-8, 16 or 32
            except (ValueError, RecursionError):
                self._content[path] = None
            except OSError as error:
                raise DataError(f"{path}: {error.strerror}") from error
        return self._content[path]

    def tag(self, path: Path) -> str | None:
        """The root tag of an XML file, read from its beginning, or None."""
        with path.open("rb") as file:
            match = re.search(rb"<([A-Za-z_][\w.-]*)", file.read(4096))
        return match[1].decode() if match else None


def split_of_folders(names: Sequence[str]) -> str | None:
    """The split of a file by the innermost of its folders that is named like one; or None."""
    return next((split for name in reversed(names) if (split := split_named(name))), None)


def grouped(paths: list[Path], key: Callable[[Path], str]) -> dict[str, list[Path]]:
    """Key -> the paths with it."""
    groups: dict[str, list[Path]] = {}
    for path in paths:
        groups.setdefault(key(path), []).append(path)
    return groups


def text_of(file: Path) -> str:
    """The text of a UTF-8 file, with or without a byte order mark. DataError if it is
    unreadable."""
    try:
        return file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"{file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: no text in UTF-8 ({error})") from error


def xml(file: Path, hint: str = "") -> ET.Element:
    """The root element. DataError if the file is missing (with the hint) or holds no XML."""
    try:
        return ET.parse(file).getroot()  # noqa: S314 (expat limits the growth of entities since 2.4.1)
    except OSError as error:
        raise DataError(f"{file}: {error.strerror}{hint}") from error
    except ET.ParseError as error:
        raise DataError(f"{file}: no XML ({error})") from error
