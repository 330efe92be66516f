"""Data sets too large to decode in advance: class folders (ImageNet) or tar files (WebDataset).

    <folder>/<class>/<images>                     the folder's name is the class
    shards-000.tar, ...: 0001.jpg 0001.cls ...    .cls holds the class number; without it, no label

Names, sizes and labels are read at the start. Images are read when their batch is needed, by worker
processes and in place: tar files are never unpacked, and a resumed run gets the same batches.
Pixels are therefore not part of the fingerprint, which covers names, sizes and labels, and an
unreadable image is noticed only when it is used. A sample is decoded first, for warnings and for
the scale of files with more than 8 bits a pixel.
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
from sft_exp.data.decode import FITS, Levels, look
from sft_exp.data.images import Images
from sft_exp.data.readers import findings
from sft_exp.data.readers.files import (
    File,
    is_image,
    require_decoding,
    require_existing,
    survey,
    visible,
)
from sft_exp.errors import DataError, listing, require
from sft_exp.progress import bar

SOURCES = "a folder of classes, or a glob of tar files"
SAMPLED = 64  # images of each split that are decoded in advance


class Place(NamedTuple):
    """The location of an image: `size` bytes at `offset` of `file`."""

    name: str
    file: str
    offset: int
    size: int
    label: str  # "" = unlabelled


@dataclass
class Large(Dataset):
    unhashed: ClassVar[tuple[str, ...]] = (
        "root", "train", "test", "unlabelled", "classes", "most_pixels", "workers", "cache", "cache_gb",
    )  # fmt: skip

    root: str = "."  # folder that the other paths are relative to
    train: Any = None  # training images: a folder of classes, or a glob of tar files
    test: Any = None  # test images, likewise; null = folds of `train`
    # more images for pretraining: a folder of folders, or a glob of tar files
    unlabelled: Any = None
    classes: str | None = None  # file with the names of numbered classes, one per line
    size: int = 224  # height and width in pixels
    channels: int = 3  # 3 = colour, 1 = grey
    fit: str = "crop"  # how an image is brought to that size: crop (centre), stretch, letterbox
    # most pixels of a file that is decoded; null = Pillow's limit against decompression bombs
    most_pixels: int | None = None
    workers: int = 2  # processes that read and decode
    # folder in whose subfolder `decoded` the decoded images are kept, usually the store; null = none
    cache: str | None = None
    cache_gb: float = 20.0  # most GB that they may take; more are decoded each time

    def __post_init__(self):
        require(isinstance(self.train, str | None), "train", self.train, SOURCES)
        require(self.size > 0, "size", self.size, "above 0")
        require(self.fit in FITS, "fit", self.fit, ", ".join(FITS))
        require(self.cache_gb >= 0, "cache_gb", self.cache_gb, "0 or more")
        require_decoding(self)

    def load(self):
        require(bool(self.train), "dataset.train", self.train, SOURCES)
        splits = [split for split in ("train", "test", "unlabelled") if getattr(self, split)]
        places = {split: self.places(split) for split in splits}
        names = self.names({p.label for split in ("train", "test") for p in places.get(split, ())})
        image = (self.channels, self.size, self.size)
        name = (Path(self.root) / str(self.train)).expanduser().absolute().parent.name
        levels, report = self.inspect_sample(name, image, names, places)
        images = {split: self.images(split, places[split], names, levels) for split in splits}
        hashes = {split: fingerprint(image, self.fit, names, places[split]) for split in splits}
        pool = hashlib.sha256((hashes["train"] + hashes.get("unlabelled", "")).encode())
        return Corpus(
            name,
            tuple(names.values()),
            images["train"],
            images.get("test"),
            images.get("unlabelled"),
            image,
            report,
            fingerprint=pool.hexdigest(),
            test_fingerprint=hashes.get("test", ""),
            levels=levels,
            fit=self.fit,
        )

    def inspect_sample(
        self,
        name: str,
        image: tuple[int, int, int],
        names: dict[str, str],
        places: dict[str, list[Place]],
    ) -> tuple[Levels | None, dict[str, Any]]:
        """Decode an evenly spaced sample; returns (levels, report).

        `levels` is the scale of training files with more than 8 bits a pixel. Images of the sample
        that cannot be read are reported when their batch is needed.
        """
        sample = [
            (split, place)
            for split, all_places in places.items()
            for place in all_places[:: -(-len(all_places) // SAMPLED)]
        ]
        files = [File(p.name, Path(p.file), p.offset, p.size) for _, p in sample]
        _, seen, levels = survey(
            files,
            image,
            False,
            max(1, self.workers),
            self.fit,
            learnt=[split != "test" for split, _ in sample],
            most=self.most_pixels,
        )
        labels = {
            split: [names[p.label] for p in places.get(split, ())] for split in ("train", "test")
        }
        classes = tuple(names.values())
        readable = [s for s in seen if not s.fault]
        warnings = [
            *findings.check_class_names(classes),
            *findings.check_absent_classes(classes, labels["train"], "training image"),
            *findings.check_absent_classes(classes, labels["test"]),
            *findings.check_images(readable, levels),
            *findings.check_crop([s.size for s in readable], image, self.fit),
        ]
        return levels, findings.print_warnings(f"{name} ({len(sample)} images looked at)", warnings)

    def places(self, split: str) -> list[Place]:
        """All images of a split, in the order of their names. DataError."""
        path = str(Path(self.root).expanduser() / Path(getattr(self, split)).expanduser())
        if Path(path).is_dir():
            places = list(in_folder(Path(path)))
        else:
            shards = sorted(glob(path))
            with bar(f"listing {split}", len(shards)) as advance:
                places = []
                for n, shard in enumerate(shards, start=1):
                    places += in_tar(Path(shard))
                    advance(n, "")
        if not places:
            require_existing(path, f"dataset.{split}")
            raise DataError(f"dataset.{split}={path}: no image there. It takes {SOURCES}")
        if split != "unlabelled" and (bare := next((p for p in places if not p.label), None)):
            raise DataError(
                f"{bare.name}: has no label (a folder's name, or a number in a .cls beside it)"
            )
        return places

    def names(self, labels: set[str]) -> dict[str, str]:
        """Label -> class name, in the order of class numbers. DataError."""
        numbered = all(label.isdigit() for label in labels)
        if not self.classes:
            return {label: label for label in sorted(labels, key=int if numbered else str)}
        try:
            lines = (Path(self.root).expanduser() / self.classes).read_text().split("\n")
        except OSError as error:
            raise DataError(f"dataset.classes={self.classes}: {error.strerror}") from error
        names = {str(n): line.strip() for n, line in enumerate(lines) if line.strip()}
        if unknown := sorted(labels - names.keys()):
            raise DataError(
                f"dataset.classes={self.classes}: has {len(names)} lines, "
                f"and there are images of class {unknown[0]}"
            )
        return names

    def images(
        self, split: str, places: list[Place], names: dict[str, str], levels: Levels | None
    ) -> Images:
        """The images of a split, which are read on demand."""
        class_of = {} if split == "unlabelled" else {label: n for n, label in enumerate(names)}
        y = torch.tensor([class_of.get(p.label, -1) for p in places])
        image = (self.channels, self.size, self.size)
        reader = Reader(places, image, self.fit, levels, split != "test", self.most_pixels)
        return Images(reader, y, [p.name for p in places], workers=self.workers)


class Reader:
    """Reads image number `row` as uint8 [C, H, W].

    Keeps each file's name once and 20 bytes per image.
    DataError for an image that has changed, cannot be read, or, if it is trained on (`learnt`),
    has values outside of `levels`.
    """

    def __init__(
        self,
        places: list[Place],
        image: tuple[int, int, int],
        fit: str = "crop",
        levels: Levels | None = None,
        learnt: bool = True,
        most: int | None = None,
    ):
        self.fit, self.levels, self.learnt, self.most = fit, levels, learnt, most
        self.image, self.files = image, list(dict.fromkeys(p.file for p in places))
        index = {file: n for n, file in enumerate(self.files)}
        self.file = np.array([index[p.file] for p in places], np.int32)
        self.offset = np.array([p.offset for p in places], np.int64)
        self.size = np.array([p.size for p in places], np.int64)

    def __len__(self) -> int:
        return len(self.file)

    def key(self) -> str:
        """What decides the decoded images: the places, the files' times of change, and how they are decoded."""
        how = (self.image, self.fit, self.levels, self.learnt, self.most)
        digest = hashlib.sha256(repr(how).encode())
        for file in self.files:
            digest.update(f"{file}\0{os.stat(file).st_mtime_ns}\n".encode())
        for array in (self.file, self.offset, self.size):
            digest.update(array.tobytes())
        return digest.hexdigest()

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
            x_CHW, traits = look(content, self.image, self.fit, self.levels, self.most)
            if self.learnt and (span := traits.span):
                black, white = self.levels or (0, 255)
                if span[0] < black or span[2] > white:
                    raise DataError(
                        f"has values from {span[0]:,} to {span[2]:,}, but the sample of images had "
                        f"{black:,} to {white:,}: "
                        "dataset=image_folder reads all images for the scale"
                    )
            return x_CHW
        except DataError as error:
            raise DataError(f"{path}, image at byte {self.offset[row]}: {error}") from error


def in_folder(root: Path) -> Iterator[Place]:
    """Yield the images in the folders of the classes."""
    for folder in sorted(d for d in root.iterdir() if d.is_dir() and visible(d.name)):
        label = findings.class_name(folder.name)
        with os.scandir(folder) as entries:
            images = [e for e in entries if is_image(e.name) and visible(e.name)]
        for entry in sorted(images, key=lambda e: e.name):
            name = f"{folder.name}/{entry.name}"
            yield Place(name, entry.path, 0, entry.stat().st_size, label)


def in_tar(shard: Path) -> list[Place]:
    """The images of a tar file. DataError if it is damaged or compressed.

    Single members of a compressed file could not be read on demand.
    """
    images, labels = [], {}
    try:
        with tarfile.open(shard, "r:") as tar, shard.open("rb") as raw:
            for member in tar:
                # tarfile keeps all members that it has read, which would take as much memory again
                tar.members = []  # type: ignore[attr-defined]
                if not member.isreg():  # folders, also the archive's own, "."
                    continue
                path = PurePosixPath(member.name)
                key = str(path.with_suffix(""))
                if path.suffix == ".cls":
                    raw.seek(member.offset_data)
                    labels[key] = raw.read(member.size).decode().strip()
                elif is_image(path.name):
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
            f"{shard}: {len(double)} samples have two images, and one .cls:{listing(double)}\n"
            "Remove one of each"
        )
    return [
        Place(f"{shard.name}::{path}", str(shard), offset, size, labels.get(key, ""))
        for key, path, offset, size in images
    ]


def fingerprint(
    image: tuple[int, int, int], fit: str, names: dict[str, str], places: list[Place]
) -> str:
    """SHA-256 of what is known of a split without decoding it."""
    known = (image, names) if fit == "crop" else (image, fit, names)
    digest = hashlib.sha256(repr(known).encode())
    for p in places:
        digest.update(f"{p.name}\0{p.size}\0{p.label}\n".encode())
    return digest.hexdigest()
