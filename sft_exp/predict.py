"""What a model that a run has left says of images: `python -m sft_exp.predict RUN FILES... > classes.csv`.

Writes `file,class,probability` for each image (an SVM has no probabilities), or with --format jsonl an object a line with
the probabilities of all classes. Models of other tasks write `file` and their numbers; or masks, or one COCO json of boxes, with
overlays, into the folder --out, in the images' own pixels. What cannot be read is named on stderr and left out; then the exit
code is 3.
"""

import argparse
import csv
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from glob import glob, has_magic
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from sft_exp.errors import DataError, Failure

if TYPE_CHECKING:
    from torch import Tensor

    from sft_exp.predicting.inference import Predictor

BATCH = 256  # images predicted at once
Row = Callable[[Path, "Tensor"], None]  # writes an image's probabilities [Y]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m sft_exp.predict", description=__doc__)
    parser.add_argument(
        "run", metavar="RUN", help="folder of a run (with results.json), a finetune-* folder of the store, an .onnx or .ort file"
    )
    parser.add_argument("files", metavar="FILES", nargs="+", help="image files, folders of them, globs; - reads them from stdin")
    parser.add_argument("--format", choices=("csv", "jsonl"), default="csv")
    parser.add_argument("--out", type=Path, default=Path("outputs/predictions"), help="folder of masks and overlays")
    parser.add_argument(
        "--scale", type=float, help="of images whose pixels are predicted, in windows of the model's size; default: fitted to it"
    )
    parser.add_argument("--like", type=Path, help="of boxes: a COCO json; they are written as results with its ids")
    args = parser.parse_args(arguments)
    from sft_exp.predicting.inference import load, load_other  # after the arguments, so that --help does not wait for torch

    try:
        entries, other = list(named(args.files, sys.stdin)), load_other(Path(args.run))
        if other is None:
            unread = predict(load(Path(args.run)), entries, sys.stdout, args.format)
        else:
            from sft_exp.predicting.predictions import writer

            unread = each(writer(other, args.out, sys.stdout, args.scale, args.like), entries)
    except Failure as error:
        print(f"sft_exp.predict: {error}", file=sys.stderr)
        return error.code
    for line in unread:
        print(f"sft_exp.predict: {line}", file=sys.stderr)
    return DataError.code if unread else 0


def predict(model: "Predictor", entries: list[str], out: TextIO, how: str = "csv") -> list[str]:
    """Write a row for each image in the order of the entries; gives what could not be read, with the reason."""
    import torch

    from sft_exp.data import decode
    from sft_exp.progress import bar

    write, unread, done = (table if how == "csv" else lines)(model, out), [], 0
    paths = list(files(entries))
    with bar("predict", len(paths)) as advance:
        for some in batches(paths):
            read, images = [], []
            for path in some:
                try:
                    images.append(decode(path.read_bytes(), model.image, levels=model.levels))
                    read.append(path)
                except (DataError, OSError) as error:
                    reason = "no image lies there" if path.is_dir() else getattr(error, "strerror", None) or error
                    unread.append(f"{path}: {reason}")
            if images:
                for path, p_Y in zip(read, model.probabilities(torch.stack(images)), strict=True):
                    write(path, p_Y)
            done += len(some)
            advance(done, f"{len(unread)} unread" if unread else "")
    return unread


def each(write: Callable[[Path, bytes], None], entries: list[str]) -> list[str]:
    """Let each image be written; gives what could not be read, with the reason."""
    from sft_exp.progress import bar

    paths, unread = list(files(entries)), []
    with bar("predict", len(paths)) as advance:
        for n, path in enumerate(paths, start=1):
            try:
                write(path, path.read_bytes())
            except (DataError, OSError) as error:
                unread.append(f"{path}: {'no image lies there' if path.is_dir() else getattr(error, 'strerror', None) or error}")
            advance(n, f"{len(unread)} unread" if unread else "")
    getattr(write, "close", lambda: None)()  # boxes of all images are one file
    return unread


def table(model: "Predictor", out: TextIO) -> Row:
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["file", "class", "probability"])

    def write(path: Path, p_Y: "Tensor") -> None:
        best = int(p_Y.argmax())
        writer.writerow([path, model.classes[best], f"{p_Y[best]:.4f}" if model.probabilistic else ""])

    return write


def lines(model: "Predictor", out: TextIO) -> Row:
    def write(path: Path, p_Y: "Tensor") -> None:
        row: dict[str, object] = {"file": str(path), "class": model.classes[int(p_Y.argmax())]}
        if model.probabilistic:
            row["probabilities"] = {name: round(p, 6) for name, p in zip(model.classes, p_Y.tolist(), strict=True)}
        out.write(json.dumps(row) + "\n")

    return write


def named(entries: list[str], stdin: Iterable[str]) -> Iterator[str]:
    """The entries, with stdin's lines in the place of `-`."""
    for entry in entries:
        yield from (line.rstrip("\n") for line in stdin if line.strip()) if entry == "-" else [entry]


def files(entries: list[str]) -> Iterator[Path]:
    """The files themselves, the images in folders and below them, and the images that globs match."""
    from sft_exp.readers.files import below, is_image

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
