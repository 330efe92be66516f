"""Classes of images, by a model that a run has left: `python -m sft_exp.predict RUN FILES... > classes.csv`.

Writes `file,class,probability` for each image (an SVM has no probabilities). What cannot be read is named on
stderr and left out; then the exit code is 3.
"""

import argparse
import csv
import sys
from collections.abc import Iterable, Iterator
from glob import glob, has_magic
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from sft_exp.errors import DataError, Failure

if TYPE_CHECKING:
    from sft_exp.stages.model import Model

BATCH = 256  # images predicted at once


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m sft_exp.predict", description=__doc__)
    parser.add_argument("run", metavar="RUN", help="folder of a run (with results.json), or a finetune-* folder of the store")
    parser.add_argument("files", metavar="FILES", nargs="+", help="image files, folders of them, globs")
    args = parser.parse_args(arguments)
    from sft_exp.api import load_model  # after the arguments, so that --help does not wait for torch

    try:
        unread = predict(load_model(args.run), args.files, sys.stdout)
    except Failure as error:
        print(f"sft_exp.predict: {error}", file=sys.stderr)
        return error.code
    for line in unread:
        print(f"sft_exp.predict: {line}", file=sys.stderr)
    return DataError.code if unread else 0


def predict(model: "Model", entries: list[str], out: TextIO) -> list[str]:
    """Write the CSV, an image a line in the order of the entries; gives what could not be read, with the reason."""
    import torch

    from sft_exp.data import decode

    table, unread = csv.writer(out, lineterminator="\n"), []
    table.writerow(["file", "class", "probability"])
    for paths in batches(files(entries)):
        read, images = [], []
        for path in paths:
            try:
                images.append(decode(path.read_bytes(), model.spec.image))
                read.append(path)
            except (DataError, OSError) as error:
                reason = "no image lies there" if path.is_dir() else getattr(error, "strerror", None) or error
                unread.append(f"{path}: {reason}")
        if images:
            probabilities, classes = model.predict(torch.stack(images).float().div_(255)).softmax(1).max(1)
            for path, p, c in zip(read, probabilities.tolist(), classes.tolist(), strict=True):
                table.writerow([path, model.spec.classes[c], f"{p:.4f}" if model.probabilistic else ""])
    return unread


def files(entries: list[str]) -> Iterator[Path]:
    """The files themselves, the images in folders and below them, and the images that globs match."""
    from sft_exp.files import below, is_image

    for entry in entries:
        path = Path(entry)
        if path.is_dir():
            found = [p for p in below(path) if is_image(p.name)]
        elif not path.exists() and has_magic(entry):
            found = [Path(p) for p in sorted(glob(entry, recursive=True)) if is_image(p)]
        else:
            found = [path]
        yield from found or [path]  # nothing found is said like any other file that cannot be read


def batches(paths: Iterable[Path]) -> Iterator[list[Path]]:
    left = iter(paths)
    while batch := list(islice(left, BATCH)):
        yield batch


if __name__ == "__main__":
    sys.exit(main())
