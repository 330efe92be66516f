"""Photographs of 640 x 480 pixels as batches of 224: decoded each time, kept decoded, and by a plain DataLoader.

    python -m benchmarks decoding

BCCD's JPEG files, each ten times under names of its own, in batches of 64 by two worker processes and by none.
"""

import os
import tempfile
from pathlib import Path

import torch

from benchmarks.timing import interleaved
from sft_exp.data import decoded
from sft_exp.datasets.large import Large

SIZE, BATCH, COPIES = 224, 64, 10
CPU = torch.device("cpu")


def main(_: list[str], data: Path) -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        photos = sorted((data / "bccd").rglob("*.jpg"))
        for split, copies in (("train", COPIES), ("test", 1)):
            for n in range(copies):
                for photo in photos:
                    link = Path(folder) / split / str(len(photo.stem) % 2) / f"{n}-{photo.name}"
                    link.parent.mkdir(parents=True, exist_ok=True)
                    link.symlink_to(photo.absolute())
        count = COPIES * len(photos)
        for workers in (0, 2):
            print(
                f"\n| {count:,} photographs, workers={workers} | images/s | |\n| --- | ---: | --- |"
            )
            for name, seconds in interleaved(ways(Path(folder), workers), 3).items():
                least, most = count / max(seconds), count / min(seconds)
                middle = count / sorted(seconds)[1]
                print(f"| {name} | {middle:,.0f} | {least:,.0f} to {most:,.0f} |", flush=True)


def ways(folder: Path, workers: int) -> dict:
    """Each way of reading all training images once, in a shuffled order."""
    each_time = dataset(folder, workers, None).load().train
    store = folder / f"store-{workers}"
    kept = dataset(folder, workers, store)
    corpus = kept.load()
    decoded.keep(corpus, kept)
    file = corpus.train.x.file

    def first() -> None:
        file.unlink(missing_ok=True)
        epoch(corpus.train)

    return {
        "decoded each time": lambda: epoch(each_time),
        "the first use, kept": first,
        "later uses": lambda: epoch(corpus.train),
        "torchvision's ImageFolder and DataLoader": lambda: plain(folder, workers),
    }


def dataset(folder: Path, workers: int, cache: Path | None) -> Large:
    place = None if cache is None else str(cache)
    root = str(folder)
    return Large(root, "train", "test", size=SIZE, workers=workers, cache=place)


def epoch(images) -> None:
    for batch in images.batches(torch.randperm(len(images)).split(BATCH), CPU):
        assert batch["x"].shape[1:] == (3, SIZE, SIZE)


def plain(folder: Path, workers: int) -> None:
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import v2

    prepared = v2.Compose(
        [
            v2.Resize(SIZE),
            v2.CenterCrop(SIZE),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
        ]
    )
    images = ImageFolder(os.fspath(folder / "train"), prepared)
    for x_BCHW, _ in torch.utils.data.DataLoader(images, BATCH, shuffle=True, num_workers=workers):
        assert x_BCHW.shape[1:] == (3, SIZE, SIZE)
