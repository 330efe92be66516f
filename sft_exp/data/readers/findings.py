"""What a reader has read, looked at once before any use: the decoded images and masks, and the names of the classes.

Every reader asks here, and none looks at the names of image files for this. What would be meaningless to learn from is a
DataError that says the way out. What is doubtful is a warning of one line: `said` prints the warnings, and readers keep them
in the corpus's report, which the manifest of the test images holds.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sft_exp.data.decode import Levels
from sft_exp.data.readers.files import Seen
from sft_exp.errors import DataError, listing
from sft_exp.progress import console

FAINT = 16  # grey levels, of 256: images that use no more are nearly black to whoever looks at them
# grey levels, of 256, below which 16-bit colour has lost its content with the lower 8 bits
LEFT = 64
HEIF = (".heic", ".heics", ".heif", ".heifs", ".hif")
FEW = 8  # names that a warning lists
UNANNOTATED = 0.5  # share of a mask set's pixels above which it is said that they are ignored

_PART = re.compile(
    r"(?:seg|images?|imgs?|data|dataset)?"
    r"(?P<split>train|training|val|valid|validation|validate|dev|development|test|testing|tests)"
    r"(?:set|data|dataset|images?|imgs?|split|files|samples)?"
)
# by the first letter; those of the test part are tested for first
_SPLITS = {"t": "train", "v": "val", "d": "val"}


def split_named(name: str) -> str | None:
    """train, val or test for a folder or a value named like one, in any case and with the usual words around it (Training,
    valid, test_set, seg_train, val2017); None for any other."""
    bare = re.sub(r"[\W\d_]+", "", unicodedata.normalize("NFKC", name).casefold())
    if not (match := _PART.fullmatch(bare)):
        return None
    word = match["split"]
    return "test" if word.startswith("test") else _SPLITS[word[0]]


def class_name(name: str) -> str:
    """The name in Unicode's composed form (NFC), in which names that look the same are the same."""
    return unicodedata.normalize("NFC", name)


def class_names(names: Iterable[str]) -> list[str]:
    """A warning of classes that differ only in case, blanks or Unicode's compatible forms."""
    alike: dict[str, set[str]] = {}
    for name in names:
        alike.setdefault(
            " ".join(unicodedata.normalize("NFKC", name).casefold().split()), set()
        ).add(name)
    pairs = [" and ".join(map(repr, sorted(group))) for group in alike.values() if len(group) > 1]
    if not pairs:
        return []
    return [
        f"classes {'; '.join(pairs)} differ only in case or blanks and are kept apart: rename one where they are the same"
    ]


def same_subfolders(folders: dict[str, set[str]], what: str) -> None:
    """DataError where all classes' folders hold the same subfolders, two or more: they are splits, and their subfolders the
    classes. `folders`: name of a class's folder -> names of its subfolders with images."""
    first, *others = folders.values()
    if others and len(first) > 1 and all(inside == first for inside in others):
        raise DataError(
            f"{what}: all of its folders ({', '.join(sorted(folders))}) hold the same folders ({', '.join(sorted(first))}): are "
            "these splits? Name them train, val and test; or where they are classes, name each image's class in a table, "
            "dataset.labels=<table.csv>"
        )


def by_stem(paths: Iterable[Path], folder: Path) -> dict[str, Path]:
    """Path below the folder without its suffix -> file. DataError where two files differ in their suffix alone: one annotation
    cannot belong to both."""
    found: dict[str, list[Path]] = {}
    for path in paths:
        found.setdefault(path.relative_to(folder).with_suffix("").as_posix(), []).append(path)
    if double := [
        " and ".join(p.name for p in files) + f" in {files[0].parent}"
        for files in found.values()
        if len(files) > 1
    ]:
        raise DataError(
            f"{len(double)} names belong to several files, and an annotation is found by its name alone:{listing(double)}\n"
            "Rename or remove one of each"
        )
    return {stem: files[0] for stem, files in found.items()}


def images(seen: Sequence[Seen], levels: Levels | None, annotated: str = "") -> list[str]:
    """Warnings of what the images of a set lose or have lost when they are decoded. DataError where nothing is left to see.

    Args:
        seen: of each image that is used.
        levels: the scale of those of more than 8 bits a pixel.
        annotated: what is annotated in pixels (masks, boxes), for which an image's orientation matters.
    """
    if not seen:
        return []
    _must_differ(seen)
    warnings, n = [], len(seen)

    def warn(count: int, text: str) -> None:
        if count:
            warnings.append(f"{count:,} of {n:,} images {text}")

    traits = [s.traits for s in seen]
    spans = [t.span for t in traits if t.span]
    if levels and levels != (0, 65535):
        low, high = min(s[0] for s in spans), max(s[2] for s in spans)
        warn(
            len(spans),
            f"have more than 8 bits a pixel and use the values {low:,} to {high:,}: all are scaled alike, {levels.low:,} "
            f"becomes black and {levels.high:,} white",
        )
    if levels and spans:
        most = max(s[1] for s in spans)
        kept = int(levels.bytes(np.array([most]))[0])
        if kept < FAINT * 2 and most > 0:
            warn(
                len(spans),
                f"have 99.9 % of their pixels at or below {most:,}, which becomes the grey level {kept} of 255: a few very "
                "bright pixels set the scale. Clip them in the files if the rest is what matters",
            )
    warn(sum(bool(s.shade) for s in seen), "have the same value in all pixels")
    top, bottom = max(s.extremes[1] for s in seen), min(s.extremes[0] for s in seen)
    if top - bottom < FAINT:
        warn(
            n,
            f"use the grey levels {bottom} to {top} of 0 to 255 alone: are these masks or class numbers, and not photographs?",
        )
    warn(
        sum(t.alpha == "transparent" for t in traits),
        "have transparent parts: the colours below them are used as they are",
    )
    warn(
        sum(t.alpha == "drawn" for t in traits),
        "are drawn in their alpha channel in one colour: it is laid on white or black",
    )
    warn(sum(t.frames > 1 for t in traits), "have several frames or pages: the first one is used")
    warn(
        sum(t.cmyk for t in traits), "are CMYK: they are converted to RGB without a colour profile"
    )
    if annotated:
        turned = sum(t.turned for t in traits)
        warn(
            turned,
            f"are turned upright by their Exif orientation: their {annotated} must be drawn on the upright image",
        )
    return warnings


def _must_differ(seen: Sequence[Seen]) -> None:
    """DataError where all images are one value, or 16-bit colours have lost their content."""
    deep = [s for s in seen if s.traits.deep]
    if deep and (top := max(s.extremes[1] for s in deep)) < LEFT:
        raise DataError(
            f"{len(deep):,} images have 16 bits in each colour but use only the lowest {(top + 1) * 256:,} of 65,536 values, "
            f"and Pillow reads the upper 8 bits: {top + 1} grey levels would be left. Save them with 8 bits a colour, scaled "
            "to 0 to 255"
        )
    shades = {s.shade for s in seen}
    if len(seen) > 1 and len(shades) == 1 and "" not in shades:
        raise DataError(
            f"all {len(seen):,} images have the value {shades.pop()} in all of their pixels: there is nothing to see in them"
        )


def masks(
    classes: Sequence[str],
    train_MY: np.ndarray,
    test_MY: np.ndarray | None,
    ignored: Sequence[Any],
    values: Sequence[int],
) -> list[str]:
    """Warnings of classes that no mask holds and of many ignored pixels. DataError where the training masks hold fewer than
    two classes, so that a model that says one class everywhere is always right.

    Args:
        train_MY, test_MY: pixels of each class in each mask, and in the last column those that are ignored.
        ignored, values: the mask values that are ignored, and those of the classes in their order; none for colours.
    """
    total_Y = train_MY.sum(0)
    share = total_Y[-1] / max(1, total_Y.sum())
    missing = [name for name, count in zip(classes, total_Y, strict=False) if not count]
    named = some(missing)
    blank = (
        f"{100 * share:.0f} % of the masks' pixels have the value {' or '.join(map(str, ignored))}, which is ignored"
        if share
        else ""
    )
    guess = ""
    if missing and share and len(ignored) == 1:
        there = sorted({*(v for v, count in zip(values, total_Y, strict=False) if count), *ignored})
        if len(there) == len(classes):
            guess = f": did you mean dataset.values=[{','.join(map(str, there))}]?"
    if len(classes) - len(missing) < 2:
        why = (
            f"; {blank}{guess}" if blank else ". Check dataset.classes and the values in the masks"
        )
        raise DataError(
            f"no training mask holds a pixel of {named}, so there is nothing to tell apart{why}"
        )
    warnings = []
    if missing:
        also = f"; {blank}{guess}" if guess else ""
        warnings.append(
            f"no training mask holds a pixel of {named}: means over classes leave out what is never there{also}"
        )
    elif share > UNANNOTATED:
        warnings.append(blank)
    if test_MY is not None:
        absent = [
            c
            for c, count in zip(classes, test_MY.sum(0), strict=False)
            if not count and c not in missing
        ]
        if absent:
            warnings.append(
                f"no test mask holds a pixel of {some(absent)}: test scores are means over the other classes"
            )
    return warnings


def unread(names: Iterable[str]) -> list[str]:
    """A warning of image files, by their suffix, that Pillow does not read here: an iPhone's photographs are most often HEIC."""
    found = Counter(Path(name).suffix.lower() for name in names)
    if not (count := sum(found[suffix] for suffix in HEIF)):
        return []
    return [
        f"{count:,} files are HEIC images, which are left out: `pip install pillow-heif`, and they are read"
    ]


def labels(classes: Sequence[str], part: Iterable[str], what: str = "test image") -> list[str]:
    """A warning of classes that a part of the set, given by the labels of its images, does not have: no mean includes them."""
    there = Counter(part)
    if not there or not (absent := [c for c in classes if not there[c]]):
        return []
    return [
        f"no {what} is of class {some(absent)}: means over classes are of the other {len(classes) - len(absent)}"
    ]


def some(names: Sequence[str]) -> str:
    """The first of the names."""
    more = f" and {len(names) - FEW} more" if len(names) > FEW else ""
    return ", ".join(names[:FEW]) + more


def said(name: str, warnings: Sequence[str]) -> dict[str, Any]:
    """Print each warning on a line of its own; gives what the report keeps of them: nothing where there are none."""
    for line in warnings:
        console.message(f"{name}: warning: {line}{'' if line.endswith('?') else '.'}")
    return {"warnings": list(warnings)} if warnings else {}
