"""Which tool's export lies in a folder: told by the content of its files, or named by the user."""

from pathlib import Path
from typing import Any

from sft_exp.data.exports import coco, cvat, label_studio, labelme, via, voc, yolo
from sft_exp.data.exports.annotated import Annotated, Export, Settings, Tree
from sft_exp.errors import DataError, listing

FORMATS: dict[str, Any] = {
    module.__name__.rpartition(".")[2]: module
    for module in (coco, voc, yolo, cvat, label_studio, via, labelme)
}


def layouts() -> str:
    """All formats that are read, one line each."""
    return listing([f"{key}: {module.NAME}, {module.LAYOUT}" for key, module in FORMATS.items()])


def read(tree: Tree, named: str | None, settings: Settings) -> tuple[str, Export]:
    """(the format's name, what the export holds).

    Args:
        named: a key of `FORMATS`, or null to look for all of them.

    Raises:
        DataError: there is none, or several; it names what was found and what is read.
    """
    found = {
        key: files for key in ([named] if named else FORMATS) if (files := FORMATS[key].files(tree))
    }
    if not found:
        what = (
            f"no export of {FORMATS[named].NAME}" if named else "no annotations in a known format"
        )
        raise DataError(f"dataset.root={tree.root}: {what} there. These are read:{layouts()}")
    if len(found) > 1:
        there = " and ".join(f"{FORMATS[k].NAME} ({files[0].name})" for k, files in found.items())
        keys = " or ".join(f"dataset.format={k}" for k in found)
        raise DataError(f"dataset.root={tree.root}: there are {there}; choose by {keys}")
    ((key, files),) = found.items()
    export = FORMATS[key].read(tree, files, settings)
    if not export.images:
        why = "".join(f"\n  {note}" for note in export.notes)
        raise DataError(
            f"{files[0]}: no annotated image of this {FORMATS[key].NAME} export is there{why}"
        )
    once(export.images)
    return FORMATS[key].NAME, export


def once(images: list[Annotated]) -> None:
    """DataError where an image is annotated twice."""
    first: dict[Path, Annotated] = {}
    double = [
        f"{image.path} in {first[image.path].told} and {image.told}"
        for image in images
        if first.setdefault(image.path, image) is not image
    ]
    if double:
        raise DataError(
            f"{len(double)} images are annotated twice:{listing(double)}\nRemove one of each"
        )


def parts(images: list[Annotated]) -> tuple[list[Annotated], list[Annotated] | None]:
    """(train, test): test is the part named test, or where there is none val; None where there is neither, or no train.

    A val beside a test is learnt from, because its labels cost the same.
    """
    splits = {image.split for image in images}
    tested = next((s for s in ("test", "val") if s in splits and splits != {s}), None)
    train = [i for i in images if i.split != tested]
    return (train, [i for i in images if i.split == tested]) if tested else (images, None)
