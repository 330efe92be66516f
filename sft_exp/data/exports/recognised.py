"""Recognises the format of an export by the content of its files, or takes the one that the user
names."""

from pathlib import Path
from typing import Any

from sft_exp.data.exports import coco, cvat, label_studio, labelme, via, voc, yolo
from sft_exp.data.exports.annotated import AnnotatedImage, Export, Settings, Tree
from sft_exp.data.readers import findings
from sft_exp.errors import DataError, listing, some

FORMATS: dict[str, Any] = {
    module.__name__.rpartition(".")[2]: module
    for module in (coco, voc, yolo, cvat, label_studio, via, labelme)
}

# those whose files hold the annotations of many images
COLLECTED = ("coco", "cvat", "label_studio", "via")

# of these, those that list images without annotations, too, as images without objects
LISTING = ("coco", "cvat", "via")


def layouts() -> str:
    """All supported formats, one line each."""
    return listing([f"{key}: {module.NAME}, {module.LAYOUT}" for key, module in FORMATS.items()])


def read(tree: Tree, named: str | None, settings: Settings) -> tuple[str, Export]:
    """(the format's name, the export's content).

    Args:
        tree: the files of the export.
        named: a key of `FORMATS`, or None to look for all of them.
        settings: properties that the files do not state.

    Raises:
        DataError: no format or several formats match; the message names them.
    """
    keys = [named] if named else FORMATS
    matches = {key: files for key in keys if (files := FORMATS[key].files(tree))}
    if not matches:
        name = f"export of {FORMATS[named].NAME}" if named else "annotations in a known format"
        why = yolo.unnamed(tree) if "yolo" in keys else ""
        raise DataError(
            f"dataset.root={tree.root}: no {name} there.{why} These are read:{layouts()}"
        )
    if len(matches) > 1:
        names = (f"{FORMATS[key].NAME} ({files[0].name})" for key, files in matches.items())
        options = " or ".join(f"dataset.format={key}" for key in matches)
        problem = f"there are {' and '.join(names)}; choose by {options}"
        raise DataError(f"dataset.root={tree.root}: {problem}")
    ((key, files),) = matches.items()
    export = FORMATS[key].read(tree, files, settings)
    if not export.images:
        why = "".join(f"\n  {note}" for note in export.notes)
        raise DataError(
            f"{files[0]}: no annotated image of this {FORMATS[key].NAME} export is there{why}"
        )
    refuse_annotated_twice(export.images)
    if key in COLLECTED:
        export = split_by_file(export, files)
    if key in LISTING:
        export = export._replace(notes=(*export.notes, *unlisted(tree, export)))
    return FORMATS[key].NAME, export


def split_by_file(export: Export, files: list[Path]) -> Export:
    """The export with the splits that its files of annotations have in their names.

    Files of one folder with the names of different splits are these splits. Files in different
    folders are so too where their images have no other split.
    """
    named = {file: findings.split_word(file.stem) for file in files}
    beside = {
        file: {split for other, split in named.items() if split and other.parent == file.parent}
        for file in files
    }
    everywhere = set[str]().union(*beside.values())

    def split(image: AnnotatedImage) -> str | None:
        several = len(beside[image.source]) > 1
        if several or (image.split is None and len(everywhere) > 1):
            return named[image.source] or image.split
        return image.split

    images = [image._replace(split=split(image)) for image in export.images]
    bare = sorted({image.source.name for image in images if image.split is None})
    notes = list(export.notes)
    if bare and len(bare) < len({image.source for image in images}):
        problem = "files of annotations are of no split, and are training data"
        notes.append(f"{len(bare):,} {problem}: {some(bare)}")
    return export._replace(images=images, notes=tuple(notes))


def unlisted(tree: Tree, export: Export) -> tuple[str, ...]:
    """A note on images that no file of annotations names; those called like a named one, as masks and
    previews are, are none of them."""
    stems = {image.path.stem for image in export.images}
    bare = [path.name for path in tree.pictures if path.stem not in stems]
    problem = "images are in no file of annotations and are left out"
    return (f"{len(bare):,} {problem}: {some(bare)}",) if bare else ()


def refuse_annotated_twice(images: list[AnnotatedImage]) -> None:
    """DataError if an image is annotated twice."""
    first: dict[Path, AnnotatedImage] = {}
    double = [
        f"{image.path} in {first[image.path].source} and {image.source}"
        for image in images
        if first.setdefault(image.path, image) is not image
    ]
    if double:
        raise DataError(
            f"{len(double)} images are annotated twice:{listing(double)}\nRemove one of each"
        )


def parts(images: list[AnnotatedImage]) -> tuple[list[AnnotatedImage], list[AnnotatedImage] | None]:
    """(train, test): test is the split test, or else val; None without such a split, or without a
    train split.

    With a test split, val is part of train, because its labels cost the same.
    """
    splits = {image.split for image in images}
    held_out = next((s for s in ("test", "val") if s in splits and splits != {s}), None)
    if held_out is None:
        return images, None
    train = [image for image in images if image.split != held_out]
    return train, [image for image in images if image.split == held_out]
