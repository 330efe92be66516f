"""FiftyOne's FiftyOneImageClassificationDataset (docs.voxel51.com/user_guide/export_datasets.html):
labels.json beside the folder data, or beside data.json with the images' paths.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sft_exp.data.exports.annotated import Tree
from sft_exp.errors import DataError

NAME = "FiftyOne"


def is_labels(content: Any) -> bool:
    return isinstance(content, dict) and isinstance(content.get("labels"), dict)


def labelled(content: Any, file: Path) -> Iterator[tuple[str, list[str]]]:
    """(image's name without suffix, its classes): none, one, or several."""
    classes = content.get("classes")
    for name, target in content["labels"].items():
        targets = target if isinstance(target, list) else [target]
        yield name, [label for t in targets if (label := named(t, classes, file, name))]


def named(target: Any, classes: Sequence[str] | None, file: Path, name: str) -> str:
    """The class of a target: its number if the file lists classes, else its name; "" for none.

    With a confidence or attributes the target is an object that has it under "label".
    """
    if isinstance(target, dict):
        target = target.get("label")
    if target is None:
        return ""
    if not classes:
        return str(target)
    if type(target) is not int or not 0 <= target < len(classes):
        raise DataError(f"{file}: {name} has the class {target!r}; {len(classes)} are listed")
    return str(classes[target])


def paths(file: Path, tree: Tree) -> dict[str, Path]:
    """The images by their names in labels.json, of data.json or the folder data."""
    manifest = (
        tree.json(file.with_name("data.json")) if file.with_name("data.json").exists() else None
    )
    if isinstance(manifest, dict):
        return {
            Path(k).with_suffix("").as_posix(): file.parent / str(v) for k, v in manifest.items()
        }
    folder = file.parent / "data" if (file.parent / "data").is_dir() else tree.root
    inside = [p for p in tree.pictures if p.is_relative_to(folder)]
    return {p.relative_to(folder).with_suffix("").as_posix(): p for p in inside}
