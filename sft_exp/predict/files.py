"""Predictions of image files, written as CSV or JSON lines."""

import json
from collections.abc import Callable, Iterable, Iterator
from glob import glob, has_magic
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from sft_exp.data import tables
from sft_exp.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

    from sft_exp.predict.inference import Predictor


BATCH = 256  # images predicted at once
# writes an image's probabilities [Y], and whether it is unlike those that the model learnt from
Row = Callable[[Path, "Tensor", bool | None], None]


def predict(model: "Predictor", entries: list[str], out: TextIO, how: str = "csv") -> list[str]:
    """Write a row for each image in order of the entries -> unreadable files, with the reason."""
    import torch

    from sft_exp.data.decode import look
    from sft_exp.progress import bar, console

    write, unread, done = (table if how == "csv" else lines)(model, out), [], 0
    paths, unlike, deep, spec = found(entries), 0, 0, model.spec
    with bar("predict", len(paths)) as advance:
        for batch in batches(paths):
            read, images = [], []
            for path in batch:
                try:
                    x_CHW, traits = look(content(path), spec.image, spec.fit, spec.levels)
                    images.append(x_CHW)
                    read.append(path)
                    deep += traits.span is not None
                except (DataError, OSError) as error:
                    unread.append(f"{path}: {reason(path, error)}")
            if images:
                p_BY, unlike_B = model.predict(torch.stack(images))
                for n, path in enumerate(read):
                    write(path, p_BY[n], unlike_B[n] if unlike_B else None)
                unlike += sum(unlike_B or [])
            done += len(batch)
            advance(done, f"{len(unread)} unread" if unread else "")
    if not spec.levels:
        say_deep(deep, len(paths) - len(unread))
    if unlike:
        text = (
            "unlike those that the model learnt from (column unlike): do not rely on their classes"
        )
        console.message(f"{unlike} of {len(paths) - len(unread)} images are {text}.")
    return unread


def say_deep(deep: int, images: int) -> None:
    """Say how many images have no scale in common with those that the model learnt from."""
    from sft_exp.progress import console

    if deep:
        console.message(of_more_bits(deep, images))


def of_more_bits(deep: int, images: int) -> str:
    """The warning of images that hold more bits than a model without a scale learnt from. Their classes
    cannot depend on which other images are predicted beside them, so that they share no scale."""
    text = "hold more than 8 bits a pixel and the model learnt from 8: each is scaled by its own values"
    return f"{deep} of {images} images {text}, save them with 8 bits."


def for_each_image(
    write: Callable[[Path, bytes], None], entries: list[str], scaled: bool = True
) -> list[str]:
    """Call `write` with each image -> unreadable files, with the reason. `scaled`: the model has a scale
    for files of more than 8 bits a pixel."""
    from sft_exp.data.decode import open_undecoded
    from sft_exp.progress import bar

    paths, unread, deep = found(entries), [], 0
    with bar("predict", len(paths)) as advance:
        for n, path in enumerate(paths, start=1):
            try:
                held = content(path)
                write(path, held)
                if not scaled:
                    with open_undecoded(held) as file:
                        deep += file.mode.startswith("I")
            except (DataError, OSError) as error:
                unread.append(f"{path}: {reason(path, error)}")
            advance(n, f"{len(unread)} unread" if unread else "")
    say_deep(deep, len(paths) - len(unread))
    getattr(write, "close", lambda: None)()  # the boxes of all images are in one file
    return unread


def content(path: Path) -> bytes:
    """A file's content. DataError for a pipe or device that is named like an image, whose reading may
    never end; another one was named on purpose, as a shell's <(...)."""
    from sft_exp.data.readers.files import is_image, require_regular

    if is_image(path.name):
        require_regular(path)
    return path.read_bytes()


def reason(path: Path, error: Exception) -> object:
    """Why a file could not be read."""
    if path.is_dir():
        return "no image lies there"
    return getattr(error, "strerror", None) or error


def table(model: "Predictor", out: TextIO) -> Row:
    writer = tables.Writer(out)
    if model.thresholds is not None:
        return label_sets(model, writer)
    writer.writerow(
        ["file", "class", "probability", *(["unlike"] if model.logits_and_unlike else [])]
    )

    def write(path: Path, p_Y: "Tensor", unlike: bool | None) -> None:
        best = int(p_Y.argmax())
        row = [path, model.spec.classes[best], f"{p_Y[best]:.4f}" if model.probabilistic else ""]
        writer.writerow(row if unlike is None else [*row, "yes" if unlike else "no"])

    return write


def label_sets(model: "Predictor", writer: tables.Writer) -> Row:
    """`file,labels,<class>,...`: the predicted classes, `none` without any, and all probabilities."""
    writer.writerow(["file", "labels", *model.spec.classes])

    def write(path: Path, p_Y: "Tensor", unlike: bool | None) -> None:
        labels = ";".join(model.present(p_Y)) or "none"
        writer.writerow([path, labels, *(f"{p:.4f}" for p in p_Y.tolist())])

    return write


def lines(model: "Predictor", out: TextIO) -> Row:
    def write(path: Path, p_Y: "Tensor", unlike: bool | None) -> None:
        row: dict[str, object] = {"file": str(path)}
        if model.thresholds is None:
            row["class"] = model.spec.classes[int(p_Y.argmax())]
        else:
            row["labels"] = model.present(p_Y)
        if model.probabilistic:
            row["probabilities"] = {
                name: round(p, 6) for name, p in zip(model.spec.classes, p_Y.tolist(), strict=True)
            }
        if unlike is not None:
            row["unlike"] = unlike
        out.write(json.dumps(row) + "\n")

    return write


def named(entries: list[str], stdin: Iterable[str]) -> Iterator[str]:
    """The entries, with `-` replaced by the lines of stdin."""
    for entry in entries:
        if entry == "-":
            yield from (line.rstrip("\n") for line in stdin if line.strip())
        else:
            yield entry


def files(entries: list[str]) -> Iterator[Path]:
    """The entries that are files, all images below folders, and the images that match globs."""
    from sft_exp.data.readers.files import below, is_image

    for entry in entries:
        path = Path(entry)
        if path.is_dir():
            images = [p for p in below(path) if is_image(p.name)]
        elif not path.exists() and has_magic(entry):
            images = [Path(p) for p in sorted(glob(entry, recursive=True)) if is_image(p)]
        else:
            images = [path]
        yield from images or [path]  # an entry without images is reported as unreadable


def found(entries: list[str]) -> list[Path]:
    """`files`; warns of photographs in folders and behind globs that are left out because of their
    format."""
    from sft_exp.data.readers import findings
    from sft_exp.data.readers.files import File, below, is_image, is_regular

    others: list[Path] = []
    for entry in entries:
        if (path := Path(entry)).is_dir():
            others += below(path)
        elif not path.exists() and has_magic(entry):
            others += map(Path, sorted(glob(entry, recursive=True)))
    left_out = [File(str(p), p) for p in others if not is_image(p.name) and is_regular(p)]
    warnings = [*findings.check_heic([f.id for f in left_out]), *findings.check_suffixes(left_out)]
    findings.print_warnings("sft_exp predict", warnings)
    return list(files(entries))


def batches(paths: Iterable[Path]) -> Iterator[list[Path]]:
    remaining = iter(paths)
    while batch := list(islice(remaining, BATCH)):
        yield batch
