"""Checks of decoded images, masks and class names, which all readers make before any use.

Meaningless training data are a DataError with a remedy; doubtful data are a warning of one line.
`said` prints the warnings, and readers store them in the corpus's report, which is part of the test
images' manifest.
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

FAINT = 16  # grey levels of 256: images with fewer look black
LEFT = 64  # grey levels of 256: 16-bit colour with fewer has its content in the lower 8 bits
HEIF_REMEDY = "`pip install pillow-heif`, and they are read"
HEIF = (".heic", ".heics", ".heif", ".heifs", ".hif")
FEW = 8  # names that a warning lists
KEPT = 0.5  # share of an image's area that a crop should leave
MANY = 0.1  # share of the images of which a crop leaves less, from which there is a warning
UNANNOTATED = 0.5  # share of ignored pixels above which there is a warning

_PART = re.compile(
    r"(?:seg|images?|imgs?|data|dataset)?"
    r"(?P<split>train|training|val|valid|validation|validate|dev|development|test|testing|tests)"
    r"(?:set|data|dataset|images?|imgs?|split|files|samples)?"
)
_SPLITS = {"t": "train", "v": "val", "d": "val"}  # by the first letter; test is checked before


def split_named(name: str) -> str | None:
    """train, val or test for a name of a split (Training, valid, test_set, seg_train, val2017),
    else None."""
    bare = re.sub(r"[\W\d_]+", "", unicodedata.normalize("NFKC", name).casefold())
    if not (match := _PART.fullmatch(bare)):
        return None
    word = match["split"]
    return "test" if word.startswith("test") else _SPLITS[word[0]]


def class_name(name: str) -> str:
    """The name in Unicode's composed form (NFC), in which equal text has equal characters."""
    return unicodedata.normalize("NFC", name)


def class_names(names: Iterable[str]) -> list[str]:
    """A warning if classes differ only in case, blanks or Unicode's compatible forms."""
    groups: dict[str, set[str]] = {}
    for name in names:
        simplified = " ".join(unicodedata.normalize("NFKC", name).casefold().split())
        groups.setdefault(simplified, set()).add(name)
    pairs = [" and ".join(map(repr, sorted(group))) for group in groups.values() if len(group) > 1]
    if not pairs:
        return []
    problem = "differ only in case or blanks and are kept apart: rename one where they are the same"
    return [f"classes {'; '.join(pairs)} {problem}"]


def lists(names: Iterable[str]) -> list[str]:
    """A warning if classes look like lists of others: `cat;dog` beside `cat` and `dog`."""
    known = {*names}
    for name in sorted(known):
        for separator in ";|,":
            parts = [part.strip() for part in name.split(separator)]
            if len(parts) > 1 and known.issuperset(parts):
                problem = f"class {name!r} looks like the classes {' and '.join(parts)}"
                return [f"{problem}: dataset=multilabel_table reads several classes an image"]
    return []


def same_subfolders(folders: dict[str, set[str]], what: str) -> None:
    """DataError if all class folders hold the same subfolders, two or more: then they are splits.

    Args:
        folders: name of a class folder -> names of its subfolders with images.
        what: the data set in the message.
    """
    first, *others = folders.values()
    if others and len(first) > 1 and all(inside == first for inside in others):
        raise DataError(
            f"{what}: all of its folders ({', '.join(sorted(folders))}) hold the same folders ({', '.join(sorted(first))}): are "
            "these splits? Name them train, val and test; or where they are classes, name each image's class in a table, "
            "dataset.labels=<table.csv>"
        )


def by_stem(paths: Iterable[Path], folder: Path) -> dict[str, Path]:
    """Path below the folder without its suffix -> file.

    Raises:
        DataError: two files differ in their suffix alone, so that an annotation would match both.
    """
    groups: dict[str, list[Path]] = {}
    for path in paths:
        groups.setdefault(path.relative_to(folder).with_suffix("").as_posix(), []).append(path)
    double = [
        f"{' and '.join(p.name for p in files)} in {files[0].parent}"
        for files in groups.values()
        if len(files) > 1
    ]
    if double:
        problem = "names belong to several files, and an annotation is found by its name alone"
        remedy = "Rename or remove one of each"
        raise DataError(f"{len(double)} {problem}:{listing(double)}\n{remedy}")
    return {stem: files[0] for stem, files in groups.items()}


def images(seen: Sequence[Seen], levels: Levels | None, annotated: str = "") -> list[str]:
    """Warnings of content that decoding loses. DataError if the images have no content.

    Args:
        seen: the properties of all used images.
        levels: the scale of those with more than 8 bits per pixel.
        annotated: the annotations that depend on an image's orientation: masks, boxes, or "".
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
    """DataError if all images have one value, or 16-bit colours lose their content."""
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
    """Warnings of classes without a mask and of many ignored pixels.

    Args:
        classes: the class names.
        train_MY, test_MY: pixels of each class in each mask; the last column counts ignored ones.
        ignored, values: the ignored mask values, and the values of the classes; [] for colours.

    Raises:
        DataError: the training masks hold fewer than two classes.
    """
    total_Y = train_MY.sum(0)
    share = total_Y[-1] / max(1, total_Y.sum())
    missing = [name for name, count in zip(classes, total_Y, strict=False) if not count]
    blank = guess = ""
    if share:
        value = " or ".join(map(str, ignored))
        blank = f"{100 * share:.0f} % of the masks' pixels have the value {value}, which is ignored"
    if missing and share and len(ignored) == 1:
        used = {v for v, count in zip(values, total_Y, strict=False) if count} | set(ignored)
        if len(used) == len(classes):
            guess = f": did you mean dataset.values=[{','.join(map(str, sorted(used)))}]?"
    problem = f"no training mask holds a pixel of {some(missing)}"
    if len(classes) - len(missing) < 2:
        why = (
            f"; {blank}{guess}" if blank else ". Check dataset.classes and the values in the masks"
        )
        raise DataError(f"{problem}, so there is nothing to tell apart{why}")
    warnings = []
    if missing:
        also = f"; {blank}{guess}" if guess else ""
        warnings.append(f"{problem}: means over classes leave out what is never there{also}")
    elif share > UNANNOTATED:
        warnings.append(blank)
    if test_MY is not None:
        pairs = zip(classes, test_MY.sum(0), strict=False)
        if absent := [name for name, count in pairs if not count and name not in missing]:
            effect = "test scores are means over the other classes"
            warnings.append(f"no test mask holds a pixel of {some(absent)}: {effect}")
    return warnings


def unread(names: Iterable[str]) -> list[str]:
    """A warning of HEIC images, such as an iPhone's photographs, which Pillow reads with an extra
    package."""
    suffixes = Counter(Path(name).suffix.lower() for name in names)
    if not (count := sum(suffixes[suffix] for suffix in HEIF)):
        return []
    return [f"{count:,} files are HEIC images, which are left out: {HEIF_REMEDY}"]


def suffixes(names: Sequence[str]) -> str:
    """What files that are no images are instead, for a sentence; "" without files."""
    if not names:
        return ""
    counts = Counter(Path(name).suffix.lower() or "no suffix" for name in names)
    kinds = ", ".join(f"{count:,} {suffix}" for suffix, count in counts.most_common(FEW))
    remedy = f"; {HEIF_REMEDY}" if any(suffix in counts for suffix in HEIF) else ""
    return f", but other files ({kinds}){remedy}"


def cropped(
    sizes: Sequence[tuple[int, int]],
    image: tuple[int, int, int],
    fit: str,
    key: str = "dataset.fit",
) -> list[str]:
    """A warning if many images lose most of their area when they are cropped.

    Args:
        sizes: (width, height) of each used image.
        image: C, H, W to which they are brought.
        fit: how.
        key: the key that chooses how.
    """
    if fit != "crop" or not sizes:
        return []
    wanted = image[2] / image[1]
    shapes = [width / height for width, height in sizes if width and height]
    lost = sum(min(shape, wanted) < KEPT * max(shape, wanted) for shape in shapes)
    if lost < MANY * len(sizes):
        return []
    problem = (
        f"are so long that the crop to {image[2]}x{image[1]} leaves out more than half of each"
    )
    return [f"{lost:,} of {len(sizes):,} images {problem}: {key}=letterbox keeps them whole"]


def labels(classes: Sequence[str], part: Iterable[str], what: str = "test image") -> list[str]:
    """A warning of classes that do not occur in `part`, the labels of a split, so that no mean
    includes them."""
    counts = Counter(part)
    if not counts or not (absent := [c for c in classes if not counts[c]]):
        return []
    rest = f"means over classes are of the other {len(classes) - len(absent)}"
    return [f"no {what} is of class {some(absent)}: {rest}"]


def some(names: Sequence[str]) -> str:
    """The first names, and the number of the others."""
    more = f" and {len(names) - FEW} more" if len(names) > FEW else ""
    return ", ".join(names[:FEW]) + more


def said(name: str, warnings: Sequence[str]) -> dict[str, Any]:
    """Print the warnings, one line each; returns them for the report, or {} if there are none."""
    for line in warnings:
        console.message(f"{name}: warning: {line}{'' if line.endswith('?') else '.'}")
    return {"warnings": list(warnings)} if warnings else {}
