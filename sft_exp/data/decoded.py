"""Decoded images on disk, so that an image file is decoded once however often it is used.

A file in decoded/ of the folder `dataset.cache` has one record an image: the CRC-32 of its pixels,
then the pixels. A record that was never written, or not whole, does not fit its checksum, and the
image is decoded. Any number of processes read and write the file: they write the same records.
"""

import hashlib
import zlib
from collections.abc import Callable
from contextlib import suppress
from math import prod
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from sft_exp.data.corpus import Corpus, Dataset
from sft_exp.data.decode import look
from sft_exp.errors import StorageError
from sft_exp.progress import console
from sft_exp.store import atomic_io, code_hash
from sft_exp.store.listing import bytes_

FOLDER = "decoded"  # subfolder of the store
CHECKSUM = 4  # bytes


@runtime_checkable
class Reader(Protocol):
    """A reader of image files, index -> uint8 [C, H, W], with a key that changes where its images may."""

    def __call__(self, row: int) -> Tensor: ...

    def __len__(self) -> int: ...

    def key(self) -> str: ...


class Decoded:
    """A reader of image files, index -> uint8 [C, H, W], whose results are kept in `file`."""

    def __init__(self, read: Callable[[int], Tensor], file: Path, image: tuple[int, int, int]):
        self.read, self.file, self.image = read, file, image
        self.bytes = CHECKSUM + prod(image)

    def __call__(self, row: int) -> Tensor:
        record = atomic_io.read_record(self.file, row, self.bytes)
        kept = memoryview(record)[CHECKSUM:]
        if len(kept) and checksum(kept) == record[:CHECKSUM]:
            return torch.frombuffer(kept, dtype=torch.uint8).view(self.image)
        x_CHW = self.read(row)
        content = x_CHW.contiguous().numpy().tobytes()
        with suppress(StorageError):  # the disk is full or read-only: decoded again the next time
            atomic_io.write_record(self.file, row, checksum(content) + content)
        return x_CHW


def checksum(content: bytes | memoryview) -> bytes:
    """CRC-32, and of content that has the checksum 0 another: a record of zeros is none."""
    return (zlib.crc32(content) or 1).to_bytes(CHECKSUM, "little")


def keep(corpus: Corpus, dataset: Dataset) -> None:
    """Keep the decoded images of a data set that is not in memory, if they take at most
    `dataset.cache_gb`."""
    from PIL import __version__ as pillow

    splits = [s for s in (corpus.train, corpus.test, corpus.extra) if s is not None]
    readers = {id(s.x): s.x for s in splits if isinstance(s.x, Reader)}
    cache, most = getattr(dataset, "cache", None), getattr(dataset, "cache_gb", 0)
    if not readers or not cache or not most:
        return
    size = sum(map(len, readers.values())) * (CHECKSUM + prod(corpus.image))
    if size > most * 1e9:
        console.message(
            f"{corpus.name}: images are decoded each time they are used; kept decoded, they would take "
            f"{bytes_(size)}, and dataset.cache_gb is {most:g}"
        )
        return
    folder = Path(cache).expanduser().absolute() / FOLDER
    console.message(f"{corpus.name}: decoded images are kept in {folder}, at most {bytes_(size)}")
    code = code_hash.digest({}, look), pillow
    kept = {}
    for number, reader in readers.items():
        key = hashlib.sha256(repr((reader.key(), code)).encode()).hexdigest()[:16]
        kept[number] = Decoded(reader, folder / f"{FOLDER}-{key}", corpus.image)
    for split in splits:
        split.x = kept.get(id(split.x), split.x)
