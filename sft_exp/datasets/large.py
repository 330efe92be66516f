"""Sets too large to read before they are used: folders of classes, as ImageNet's, or tar files, as WebDataset's.

    <folder>/<class>/<images>                       the folder's name is the class
    shards-000.tar, ...: 0001.jpg 0001.cls ...      the number in .cls is the class; without .cls an image has no label

Names, sizes and labels are read at the start, images when their batch comes, by a few processes and each where it lies: a tar
file is never unpacked, and the batches after a restart are those that would have come. What is not known before is whether an
image can be read, and its pixels: the fingerprint is of names, sizes and labels. A sample is looked at for what is doubtful, and
for the scale of files with more than 8 bits a pixel.
"""

import hashlib
import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from glob import glob
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch

from sft_exp.data.corpus import Corpus, Dataset
from sft_exp.data.decode import Levels, look
from sft_exp.data.images import Images
from sft_exp.data.readers import findings
from sft_exp.data.readers.files import File, is_image, survey, visible
from sft_exp.errors import DataError, listing, require
from sft_exp.progress import bar

SAMPLED = 64  # images of each split that are looked at before any use


class Place(NamedTuple):
    """Where an image lies."""

    name: str
    file: str
    offset: int
    size: int
    label: str  # empty: none


@dataclass
class Large(Dataset):
    unhashed: ClassVar[tuple[str, ...]] = (
        "root",
        "train",
        "test",
        "unlabelled",
        "classes",
        "most_pixels",
        "workers",
    )

    root: str = "."  # folder that the others are looked for in
    train: Any = None  # labelled images: a folder of classes, or a glob of tar files
    test: Any = None  # the same for images to test on; null = folds of `train`
    # more images to pretrain on: a folder of folders, or a glob of tar files
    unlabelled: Any = None
    classes: str | None = None  # file with the names of numbered classes, one a line
    size: int = 224  # pixels, height and width
    channels: int = 3  # 3 = colour, 1 = grey
    # of an image that is decoded; null = Pillow's limit against decompression bombs
    most_pixels: int | None = None
    workers: int = 2  # processes that read and decode

    def __post_init__(self):
        require(
            isinstance(self.train, str | None),
            "train",
            self.train,
            "a folder of classes, or a glob of tar files",
        )
        require(self.size > 0, "size", self.size, "above 0")
        require(self.channels in (1, 3), "channels", self.channels, "1 (grey) or 3 (colour)")
        require(
            self.most_pixels is None or self.most_pixels > 0,
            "most_pixels",
            self.most_pixels,
            "above 0, or null",
        )
        require(self.workers >= 0, "workers", self.workers, "0 or more")

    def load(self):
        require(
            bool(self.train),
            "dataset.train",
            self.train,
            "a folder of classes, or a glob of tar files",
        )
        found = {
            split: self.places(split)
            for split in ("train", "test", "unlabelled")
            if getattr(self, split)
        }
        names = self.names({p.label for split in ("train", "test") for p in found.get(split, ())})
        image, name = (
            (self.channels, self.size, self.size),
            (Path(self.root) / str(self.train)).expanduser().absolute().parent.name,
        )
        levels, report = self.looked(name, image, names, found)
        made = {split: self.images(split, places, names, levels) for split, places in found.items()}
        marks = {split: mark(image, names, places) for split, places in found.items()}
        pool = hashlib.sha256((marks["train"] + marks.get("unlabelled", "")).encode()).hexdigest()
        return Corpus(
            name,
            tuple(names.values()),
            made["train"],
            made.get("test"),
            made.get("unlabelled"),
            image,
            report,
            fingerprint=pool,
            test_fingerprint=marks.get("test", ""),
            levels=levels,
        )

    def looked(
        self,
        name: str,
        image: tuple[int, int, int],
        names: dict[str, str],
        found: dict[str, list[Place]],
    ) -> tuple[Levels | None, dict[str, Any]]:
        """(the scale of files with more than 8 bits a pixel, by images to learn from; the report): from a sample, evenly spaced.
        An image of it that cannot be read is left to be named when its batch comes."""
        some = [
            (split, p)
            for split, places in found.items()
            for p in places[:: -(-len(places) // SAMPLED)]
        ]
        files = [File(p.name, Path(p.file), p.offset, p.size) for _, p in some]
        _, seen, levels = survey(
            files,
            image,
            False,
            max(1, self.workers),
            learnt=[s != "test" for s, _ in some],
            most=self.most_pixels,
        )
        of = {split: [names[p.label] for p in found.get(split, ())] for split in ("train", "test")}
        classes = tuple(names.values())
        warnings = [
            *findings.class_names(classes),
            *findings.labels(classes, of["train"], "training image"),
            *findings.labels(classes, of["test"]),
            *findings.images([s for s in seen if not s.fault], levels),
        ]
        return levels, findings.said(f"{name} ({len(some)} images looked at)", warnings)

    def places(self, split: str) -> list[Place]:
        """Every image of a split, in the order of names."""
        given = str(Path(self.root).expanduser() / Path(getattr(self, split)).expanduser())
        if Path(given).is_dir():
            found = list(in_folder(Path(given)))
        else:
            shards = sorted(glob(given))
            with bar(f"listing {split}", len(shards)) as advance:
                found = []
                for n, shard in enumerate(shards, start=1):
                    found += in_tar(Path(shard))
                    advance(n, "")
        if not found:
            raise DataError(
                f"dataset.{split}={given}: no image there. It takes a folder of classes, or a glob of tar files"
            )
        if split != "unlabelled" and (bare := next((p for p in found if not p.label), None)):
            raise DataError(
                f"{bare.name}: has no label (a folder's name, or a number in a .cls beside it)"
            )
        return found

    def names(self, labels: set[str]) -> dict[str, str]:
        """Label -> name of its class, in the order of class numbers. DataError."""
        numbered = all(label.isdigit() for label in labels)
        if not self.classes:
            return {label: label for label in sorted(labels, key=int if numbered else str)}
        try:
            lines = (Path(self.root).expanduser() / self.classes).read_text().split("\n")
        except OSError as error:
            raise DataError(f"dataset.classes={self.classes}: {error.strerror}") from error
        named = {str(n): line.strip() for n, line in enumerate(lines) if line.strip()}
        if unknown := sorted(labels - named.keys()):
            raise DataError(
                f"dataset.classes={self.classes}: has {len(named)} lines, and there are images of class {unknown[0]}"
            )
        return named

    def images(
        self, split: str, places: list[Place], names: dict[str, str], levels: Levels | None
    ) -> Images:
        number = {label: n for n, label in enumerate(names)}
        y = torch.tensor([number.get(p.label, -1) if split != "unlabelled" else -1 for p in places])
        reader = Reader(
            places, (self.channels, self.size, self.size), levels, split != "test", self.most_pixels
        )
        return Images(reader, y, [p.name for p in places], workers=self.workers)


class Reader:
    """row -> uint8 [C, H, W]. DataError names an image that is not what it was, cannot be read, or if it is `learnt` from, holds
    values outside of the levels. Holds each file's name once and 20 bytes an image."""

    def __init__(
        self,
        places: list[Place],
        image: tuple[int, int, int],
        levels: Levels | None = None,
        learnt: bool = True,
        most: int | None = None,
    ):
        self.levels, self.learnt, self.most = levels, learnt, most
        self.image, self.files = image, list(dict.fromkeys(p.file for p in places))
        number = {file: n for n, file in enumerate(self.files)}
        self.file = np.array([number[p.file] for p in places], np.int32)
        self.offset = np.array([p.offset for p in places], np.int64)
        self.size = np.array([p.size for p in places], np.int64)

    def __call__(self, row: int) -> torch.Tensor:
        path, size = self.files[self.file[row]], int(self.size[row])
        try:
            with open(path, "rb") as file:
                file.seek(int(self.offset[row]))
                content = file.read(size)
        except OSError as error:
            raise DataError(
                f"{path}: {error.strerror}, but it was there when the run began"
            ) from error
        if len(content) < size:
            raise DataError(f"{path}: shorter than when the run began")
        try:
            x_CHW, traits = look(content, self.image, levels=self.levels, most=self.most)
            if self.learnt and (span := traits.span):
                black, white = self.levels or (0, 255)
                if span[0] < black or span[2] > white:
                    raise DataError(
                        f"has the values {span[0]:,} to {span[2]:,}, and the images looked at before had {black:,} to {white:,}: "
                        "dataset=image_folder looks at all of them for one scale"
                    )
            return x_CHW
        except DataError as error:
            raise DataError(f"{path}, image at byte {self.offset[row]}: {error}") from error


def in_folder(root: Path) -> Iterator[Place]:
    """Images of the classes' folders."""
    for folder in sorted(d for d in root.iterdir() if d.is_dir() and visible(d.name)):
        with os.scandir(folder) as entries:
            for entry in sorted(
                (e for e in entries if is_image(e.name) and visible(e.name)), key=lambda e: e.name
            ):
                yield Place(
                    f"{folder.name}/{entry.name}",
                    entry.path,
                    0,
                    entry.stat().st_size,
                    findings.class_name(folder.name),
                )


def in_tar(shard: Path) -> list[Place]:
    """Images of a tar file. DataError if it is damaged, or compressed: what lies in it could not be read alone."""
    images, labels = [], {}
    try:
        with tarfile.open(shard, "r:") as tar, shard.open("rb") as raw:
            for member in tar:
                tar.members = []  # type: ignore[attr-defined] # the list of all it has seen would be as large as the rest
                path = PurePosixPath(member.name)
                key = str(path.with_suffix(""))
                if member.isreg() and path.suffix == ".cls":
                    raw.seek(member.offset_data)
                    labels[key] = raw.read(member.size).decode().strip()
                elif member.isreg() and is_image(path.name):
                    images.append((key, path, member.offset_data, member.size))
    except (OSError, tarfile.TarError, UnicodeDecodeError) as error:
        raise DataError(
            f"{shard}: cannot be read as a tar file that is not compressed ({error})"
        ) from error
    first: dict[str, PurePosixPath] = {}
    if double := [
        f"{first[key]} and {path}"
        for key, path, *_ in images
        if first.setdefault(key, path) != path
    ]:
        raise DataError(
            f"{shard}: {len(double)} samples have two images, and one .cls:{listing(double)}\nRemove one of each"
        )
    return [
        Place(f"{shard.name}::{path}", str(shard), at, size, labels.get(key, ""))
        for key, path, at, size in images
    ]


def mark(image: tuple[int, int, int], names: dict[str, str], places: list[Place]) -> str:
    """SHA-256 of what is known of a split without its pixels."""
    digest = hashlib.sha256(repr((image, names)).encode())
    for p in places:
        digest.update(f"{p.name}\0{p.size}\0{p.label}\n".encode())
    return digest.hexdigest()
