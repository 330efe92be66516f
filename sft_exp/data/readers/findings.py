"""Checks of decoded images, masks and class names, which all readers make before any use.

Meaningless training data are a DataError with a remedy; doubtful data are a warning of one line. The
functions `check_...` return warnings. `print_warnings` prints them, and readers store them in the
corpus's report, which is part of the test images' manifest.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from posixpath import split, splitext
from typing import Any

import numpy as np

from sft_exp.data.decode import Levels
from sft_exp.data.readers.files import File, Seen
from sft_exp.errors import DataError, listing, some
from sft_exp.progress import console

FAINT = 16  # grey levels of 256: images with fewer look black
LEFT = 64  # grey levels of 256: 16-bit colour with fewer has its content in the lower 8 bits
HEIF_REMEDY = "`pip install pillow-heif`, and they are read"
HEIF = (".heic", ".heics", ".heif", ".heifs", ".hif")
# how files of images begin: JPEG, PNG, GIF, TIFF and cameras' formats made of it, WebP in RIFF,
# JPEG XL, photographs of Fujifilm, Panasonic and Olympus
PICTURES = (
    b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"II*\0", b"MM\0*", b"RIFF", b"\xff\x0a", b"\0\0\0\x0cJXL ",
    b"FUJIFILM", b"IIU\0", b"IIRO",
)  # fmt: skip
BRANDS = (b"ftypavif", b"ftypcrx ")  # behind a box's length: AVIF, photographs of Canon
FEW = 8  # names that a warning lists
KEPT = 0.5  # share of an image's area that a crop should leave
MANY = 0.1  # share of the images of which a crop leaves less, from which there is a warning
NUMBERS = 20  # classes that are numbers with fractions, above which these are quantities
ALIKE = 4  # images of each class, from which a common property is no chance
BESIDE = 0.25  # share of the images that are named like another one and an addition
UNANNOTATED = 0.5  # share of ignored pixels above which there is a warning

# the key that keeps the images of a subfolder in one split
BY_FOLDER = "dataset.group='([^/]+)/[^/]+$' keeps the images of each in one split"

_PART = re.compile(
    r"(?:seg|images?|imgs?|data|dataset|public|private)?"
    r"(?P<split>train|training|val|valid|validation|validate|dev|development|eval|evaluation|"
    r"test|testing|tests|holdout)"
    r"(?:set|data|dataset|images?|imgs?|split|files|samples)?"
)
_SPLITS = {"t": "train", "v": "val", "d": "val", "e": "val", "h": "test"}  # by the first letter
_NUMBER = re.compile(r"[+-]?\d{1,9}(?:\.\d{0,6})?")
_REAL = re.compile(r"[+-]?\d+(?:[.,]\d+)?(?:[eE][+-]?\d+)?")
_UNLABELLED = re.compile(r"(?:un|non|not)labell?ed(?:images?|data|set)?|(?:no|without)labels?")
# what may be a class, or images whose label is still to come
_UNSURE = re.compile(
    r"(?:un|non|not|to|tobe)(?:yet)?(?:sort|annotat|tag|label|classif|review|identif|assign|"
    r"categor|determin|known)\w*|inbox|todo"
)
_PENDING = re.compile(rf"{_UNSURE.pattern}|skip(?:ped)?|tbd|pending")
# how programs write a missing label
_MISSING = {
    "", "nan", "none", "null", "na", "n/a", "n.a.", "<na>", "nat", "undefined", "-", "--", "?", "??", ".", "missing",
    # a spreadsheet's errors
    "#n/a", "#ref!", "#value!", "#name?", "#div/0!", "#null!", "#num!",
}  # fmt: skip
# between the labels of an image that has several
_JOINED = re.compile(r"[,;|/+&]|(?<=\s)(?:and|und|et)(?=\s)", re.IGNORECASE)
# what file managers add to the name of a copied folder
_COPIED = re.compile(
    r"(?:copy of|kopie von) (?P<of>.+)|(?P<name>.+?)(?:[ _-]+(?:copy|kopie))?(?: ?\(?\d+\)?)?",
    re.IGNORECASE,
)
ALONE = "an image has one class here, and each combination is a class of its own"


def split_named(name: str) -> str | None:
    """train, val or test for a name of a split (Training, valid, test_set, seg_train, val2017),
    else None."""
    bare = re.sub(r"[\W\d_]+", "", unicodedata.normalize("NFKC", name).casefold())
    if not (match := _PART.fullmatch(bare)):
        return None
    word = match["split"]
    return "test" if word.startswith("test") else _SPLITS[word[0]]


def split_word(name: str) -> str | None:
    """train, val or test where words of a name say one of them (my_train, Test_Original, train.v1,
    PublicTest), else None. Validation data that the name joins to the training data are part of
    them (trainval)."""
    if split := split_named(name):
        return split
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", unicodedata.normalize("NFKC", name))
    words = re.findall(r"[^\W\d_]+", spaced)
    said = {"train" if w.casefold() == "trainval" else split_named(w) for w in words} - {None}
    if said == {"train", "val"}:
        return "train"
    return said.pop() if len(said) == 1 else None


def splits(names: Sequence[str]) -> dict[str, str]:
    """Name -> train, val or test, of the names that say so, where one is train and another is not;
    else {}. Words of names count where whole names do not say it."""
    for read in (split_named, split_word):
        found = {name: split for name in names if (split := read(name))}
        if "train" in found.values() and len(set(found.values())) > 1:
            return found
    return {}


def check_split_names(found: Mapping[str, str]) -> list[str]:
    """Warnings of folders that are read as splits because of a word of their names, and of val
    without test.

    Args:
        found: name -> train, val or test.
    """
    words = [f"{name} = {split}" for name, split in found.items() if not split_named(name)]
    warnings = (
        [f"a word of the folders' names is read as their split ({some(words)})"] if words else []
    )
    return warnings + check_untested_val(found.values())


def check_names_like_splits(names: Sequence[str]) -> list[str]:
    """A warning of classes that are named like splits, train and another one."""
    found = [*splits(names)]
    if not found:
        return []
    remedy = "splits have folders of the same classes inside"
    return [f"{classes_are(found)} named like splits, and learnt as classes: {remedy}"]


def check_untested_val(kinds: Iterable[str | None]) -> list[str]:
    """A warning that val is not tested, where there is no test."""
    if not {"train", "val"} <= (kinds := set(kinds)) or "test" in kinds:
        return []
    return [
        "there is val and no test: val is training data, and folds of train and val are tested. "
        "Name it test to test on it alone"
    ]


def check_split_lists(root: Path) -> list[str]:
    """A warning of lists of splits (train.txt, val.txt), which are not read."""
    lists = sorted([*root.glob("*.txt"), *root.glob("*/*.txt")])
    found = splits([p.relative_to(root).with_suffix("").as_posix() for p in lists])
    if not found:
        return []
    names = some([f"{name}.txt" for name in found])
    remedy = "put the images of each into a folder of its name, such as train/ and test/"
    return [f"{names} may list splits, and are not read: {remedy}"]


def holds_no_labels(name: str) -> bool:
    """Whether a folder is named as one of images without labels: unlabelled, not_labeled."""
    return bool(_UNLABELLED.fullmatch(letters(name)))


def check_unsure_classes(folders: Sequence[Path]) -> list[str]:
    """A warning of folders of classes that are named like images whose label is still to come:
    unsorted, to_label, unknown."""
    named = [f for f in folders if _UNSURE.fullmatch(letters(f.name))]
    if not named:
        return []
    pools = ",".join(map(str, named))
    remedy = f"if these are images without labels, dataset.unlabelled=[{pools}] pretrains on them"
    return [f"{classes_are([f.name for f in named])} learnt: {remedy}"]


def class_name(name: str) -> str:
    """The name in Unicode's composed form (NFC), in which equal text has equal characters."""
    return unicodedata.normalize("NFC", name)


def check_class_names(names: Iterable[str], several: str = ALONE) -> list[str]:
    """Warnings of classes that may be one, several, or none: names that differ only in case, blanks,
    hyphens, invisible characters or the form of a number; joined names; words for a missing label.

    `several` says how images with several classes are read, where {key} stands for the option that
    names their separator.
    """
    names, warnings = sorted(set(names)), []
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(simplified(name), []).append(name)
    pairs = [" and ".join(map(repr, group)) for group in groups.values() if len(group) > 1]
    if pairs:
        warnings.append(
            f"classes {'; '.join(pairs)} differ only in case or blanks, or in how they are written, and are kept apart: "
            "rename one where they are the same"
        )
    if copied := [
        name for name in names if (other := original(name)) and simplified(other) in groups
    ]:
        remedy = "move its images to the other one where both are the same"
        warnings.append(f"{classes_are(copied)} named like a copy of another one: {remedy}")
    absent = [name for name in names if is_missing(name)]
    separators = {name: sign for name in names if (sign := separator_in(name, groups))}
    if joined := [name for name in separators if name not in absent]:
        key = f"'dataset.separator=\"{separators[joined[0]]}\"'"
        how = several.format(key=key)
        warnings.append(f"{classes_are(joined)} named like several of the classes: {how}")
    bracketed = [n for n in names if len(n) > 2 and n[0] + n[-1] in ("[]", "{}")]
    if bracketed:
        remedy = "write the names without brackets where they are no part of them"
        warnings.append(f"{classes_are(bracketed)} written like a list: {remedy}")
    if absent:
        remedy = "empty the cell of an image without a label, or rename the class"
        warnings.append(f"{classes_are(absent)} named like a missing label, and learnt: {remedy}")
    return warnings


def original(name: str) -> str:
    """What a name would be a copy of by the addition of a file manager (cat - Copy, cat copy 2, cat (2),
    Copy of cat); "" without one."""
    if not re.search(r"copy|kopie|\(\d+\)$", name, re.IGNORECASE):
        return ""
    match = _COPIED.fullmatch(name)
    found = (match["of"] or match["name"]).strip() if match else ""
    return found if found != name else ""


def separator_in(name: str, known: Container[str]) -> str:
    """What separates the classes of which a name seems to be made, or "".

    One of them must be known, and all of them where blanks separate them, as those of `red fox`.
    """
    if sign := _JOINED.search(name):
        parts = {simplified(part) for part in _JOINED.split(name)}
        among = all if sign[0].isalpha() else any  # salt and pepper may be one class
        found = "" not in parts and among(part in known for part in parts)
        return sign[0] if len(parts) > 1 and found else ""
    parts = {simplified(part) for part in name.split()}
    return " " if len(parts) > 1 and all(part in known for part in parts) else ""


def check_labels_are_classes(labels: Sequence[str]) -> list[str]:
    """A warning if the labels of images are numbers to predict, or identifiers, rather than classes."""
    count, classes = len(labels), {*labels}
    numbers = all(map(_REAL.fullmatch, classes))
    values = [float(c.replace(",", ".")) for c in classes] if numbers else []
    fractions = any(value % 1 for value in values)
    many = 2 * len(classes) > count or len(classes) > NUMBERS
    # as probabilities are; a scale of classes has halves or quarters
    shares = fractions and all(0 <= v <= 1 for v in values) and any(4 * v % 1 for v in values)
    clear = len(classes) == count or (fractions and many)
    if not shares and (count < 2 * ALIKE or not clear):
        return []
    problem = f"{count:,} images have {len(classes):,} classes"
    if numbers:
        examples = ", ".join(sorted(classes)[:3])
        return [f"{problem}, which are numbers ({examples}): did you mean dataset=number_table?"]
    return [f"{problem}, so that each has a class of its own: are these the images' names?"]


def simplified(name: str) -> str:
    """A name without what the eye passes over: case, blanks, hyphens and underscores inside, invisible
    characters, and the form of a number (1, 1.0, 01)."""
    text = unicodedata.normalize("NFKC", name).casefold()
    text = "".join(c for c in text if unicodedata.category(c) not in ("Cf", "Cc"))
    text = " ".join(re.sub(r"(?<=\w)[-_](?=\w)", " ", text).replace("_", " ").split())
    return f"{float(text):g}" if _NUMBER.fullmatch(text) else text


def classes_are(names: Sequence[str]) -> str:
    """`class 'a' is` or `classes 'a', 'b' are`, as the subject of a sentence."""
    kind, verb = ("classes", "are") if len(names) > 1 else ("class", "is")
    return f"{kind} {some([repr(n) for n in names])} {verb}"


def refuse_shared_subfolders(folders: dict[str, set[str]], what: str) -> None:
    """DataError if folders of classes share most of their subfolders, two or more: then they are
    splits.

    Args:
        folders: name of a class folder -> names of its subfolders with images, "" for itself.
        what: the data set in the message.
    """
    alike, shared = set[str](), set[str]()
    below = [(name, inside - {""}) for name, inside in folders.items()]
    several = [(name, inside) for name, inside in below if len(inside) > 1]
    for (one, first), (other, second) in combinations(several, 2):
        both = first & second
        if len(both) > 1 and 2 * len(both) >= min(len(first), len(second)):
            alike |= {one, other}
            shared |= both
    if alike:
        raise DataError(
            f"{what}: its folders ({some(sorted(alike))}) hold the same folders ({some(sorted(shared))}): are "
            "these splits? Name them train, val and test. Where they are classes, name each image's class in a table, "
            f"dataset.labels=<table.csv>, or where the inner folders are patients, videos or the like, {BY_FOLDER}; "
            "'(.+)/[^/]+$' does where equal names in two classes are not the same"
        )


def check_subfolders(folders: Mapping[str, set[str]]) -> list[str]:
    """A warning of classes whose images lie in several subfolders alone, as nested classes do.

    Args:
        folders: name of a class folder -> names of its subfolders with images, "" for itself.
    """
    nested = {
        name: inside for name, inside in folders.items() if len(inside) > 1 and "" not in inside
    }
    if not nested:
        return []
    names = sorted({*nested}), sorted(set().union(*nested.values()))
    return [
        f"{classes_are(names[0])} learnt, and the subfolders inside ({some(names[1])}) are not told apart. Where the "
        "subfolders are the classes, move them up by one folder; where they are patients, videos or the like, "
        f"{BY_FOLDER}"
    ]


def check_names_beside(names: Sequence[str]) -> list[str]:
    """A warning of images that are named like another one of their folder and a common addition, as
    masks, depth images and previews are: x_mask.png or x.png beside x.jpg.

    Args:
        names: paths of the images.
    """
    parts = [(folder, *splitext(file)) for folder, file in map(split, names)]
    stems: dict[str, Counter[str]] = {}  # of each folder
    for folder, stem, _ in parts:
        stems.setdefault(folder, Counter())[stem] += 1
    found: dict[str, list[str]] = {}  # pattern of a name, * for the other one -> images
    for name, (folder, stem, suffix) in zip(names, parts, strict=True):
        near, patterns = stems[folder], set[str]()
        for cut in range(1, len(stem)):
            start, end = stem[:cut], stem[cut:]
            # numbers are no addition: 1, 10 and 100 are three images
            if start in near and any(map(str.isalpha, end)):
                patterns.add(f"*{end}")
            if end in near and any(map(str.isalpha, start)):
                patterns.add(f"{start}*")
        if near[stem] > 1:
            patterns.add(f"*{suffix}")
        for pattern in patterns:
            found.setdefault(pattern, []).append(name)
    pattern, of_it = max(found.items(), key=lambda item: (len(item[1]), item[0]), default=("", []))
    if len(of_it) < max(ALIKE, BESIDE * len(names)):
        return []
    return [
        f"{len(of_it):,} of {len(names):,} images are named {pattern}, where * is another image "
        f"({of_it[0]}): if these are its mask, depth, preview or copy, move them out of the "
        "folders, or name the images alone in dataset.labels=<table.csv>"
    ]


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


def check_images(seen: Sequence[Seen], levels: Levels | None, annotated: str = "") -> list[str]:
    """Warnings of content that decoding loses. DataError if the images have no content.

    Args:
        seen: the properties of all used images.
        levels: the scale of those with more than 8 bits per pixel.
        annotated: the annotations that depend on an image's orientation: masks, boxes, or "".
    """
    if not seen:
        return []
    _require_content(seen)
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
    deep = [s.extremes for s in seen if s.traits.deep]  # of whose values the upper 8 bits are left
    if levels:
        warnings += check_ranges([(s[0], s[2]) for s in spans], levels)
    warnings += check_ranges(
        [(256 * low, 256 * high + 255) for low, high in deep], Levels(0, 65535)
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
    for bands, kept in sorted({(t.bands, t.kept) for t in traits if t.bands}):
        warn(
            sum((t.bands, t.kept) == (bands, kept) for t in traits),
            f"have {bands} bands, of which {kept} {'is' if kept == 1 else 'are'} read and the "
            "others are not: save those that matter as one or three channels; a Dataset in Python "
            "may hold tensors of four",
        )
    warn(
        sum(t.cut for t in traits),
        "end in plain grey, as a JPEG does that was cut off and closed: copy them again if so",
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


def check_ranges(ranges: Sequence[tuple[int, int]], levels: Levels) -> list[str]:
    """A warning of files whose values are so much lower than those of others that the common scale
    makes them black, as 8-bit values in 16-bit files are.

    Args:
        ranges: the lowest and the highest value of each file with more than 8 bits.
        levels: their scale.
    """
    tops = levels.bytes(np.array([[high for _, high in ranges]]))[0] if ranges else []
    dark = [r for r, top in zip(ranges, tops, strict=True) if top < FAINT]
    bright = [r for r, top in zip(ranges, tops, strict=True) if top >= FAINT]
    if not dark or not bright or len(dark) < MANY * len(ranges):
        return []
    low, high = (
        f"{min(r[0] for r in part):,} to {max(r[1] for r in part):,}" for part in (dark, bright)
    )
    return [
        f"{len(dark):,} of {len(ranges):,} images of more than 8 bits use the values {low} alone, and the other "
        f"{len(bright):,} use {high}: all are scaled alike, so the first become almost black. Bring all to one range"
    ]


def _require_content(seen: Sequence[Seen]) -> None:
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


def check_masks(
    classes: Sequence[str],
    train_MY: np.ndarray,
    test_MY: np.ndarray | None,
    ignored: Sequence[Any],
    values: Sequence[int],
    fitted_MY: np.ndarray | None = None,
    learnt: bool = True,
) -> list[str]:
    """Warnings of classes without a mask, of classes that are lost at the canvas's size, and of many
    ignored pixels.

    Args:
        classes: the class names.
        train_MY, test_MY: pixels of each class in each mask; the last column counts ignored ones.
        ignored, values: the ignored mask values, and the values of the classes; [] for colours.
        fitted_MY: `train_MY` after the masks were fitted to the canvas.
        learnt: whether a model learns from them; one that is scored knows its classes.

    Raises:
        DataError: the training masks hold fewer than two classes, but for masks that are scored and
            hold no other values.
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
    warnings = check_only_ignored(classes, train_MY, ignored)
    if not learnt and not guess:
        return [*warnings, blank] if share > UNANNOTATED else warnings
    if len(classes) - len(missing) < 2:
        why = (
            f"; {blank}{guess}" if blank else ". Check dataset.classes and the values in the masks"
        )
        raise DataError(f"{problem}, so there is nothing to tell apart{why}")
    warnings += check_lost_classes(classes, train_MY, fitted_MY) if fitted_MY is not None else []
    if missing:
        also = f"; {blank}{guess}" if guess else ""
        warnings.append(f"{problem}: means over classes leave out what is never there{also}")
    if share > UNANNOTATED and not guess:  # which says it too
        warnings.append(blank)
    if test_MY is not None:
        pairs = zip(classes, test_MY.sum(0), strict=False)
        if absent := [name for name, count in pairs if not count and name not in missing]:
            effect = "test scores are means over the other classes"
            warnings.append(f"no test mask holds a pixel of {some(absent)}: {effect}")
    return warnings


def check_only_ignored(
    classes: Sequence[str], file_MY: np.ndarray, ignored: Sequence[Any]
) -> list[str]:
    """A warning of masks that hold the first class and ignored pixels alone, where others hold other
    classes: of masks of 0 and 255 among masks of 0 and 1 the objects are ignored."""
    objects_M, ignored_M = file_MY[:, 1:-1].sum(1) > 0, file_MY[:, -1] > 0
    bare = int((~objects_M & ignored_M & (file_MY[:, 0] > 0)).sum())
    if not objects_M.any() or bare < MANY * len(file_MY) or not bare:
        return []
    value = " or ".join(map(str, ignored))
    return [
        f"{bare:,} of {len(file_MY):,} training masks hold {classes[0]} and the ignored value {value} alone, and others hold "
        f"{some(list(classes[1:]))}: if {value} is a class in them, bring all masks to the same values"
    ]


def check_lost_classes(
    classes: Sequence[str], file_MY: np.ndarray, fitted_MY: np.ndarray
) -> list[str]:
    """A warning of classes that most of their masks lose when they are fitted to the canvas. DataError
    if fewer than two classes are left."""
    remedy = (
        "a larger dataset.size= keeps them, or dataset.fit=letterbox where the crop removes them"
    )
    count = len(classes)
    held_Y = (file_MY[:, :count] > 0).sum(0)
    kept_Y = ((file_MY[:, :count] > 0) & (fitted_MY[:, :count] > 0)).sum(0)
    if (kept_Y > 0).sum() < 2:
        gone = [c for c, n, kept in zip(classes, held_Y, kept_Y, strict=True) if n and not kept]
        problem = f"no pixel of {some(gone)} is left after the masks are fitted to dataset.size"
        raise DataError(f"{problem}: {remedy}")
    parts = [
        f"{name} in {n - kept:,} of {n:,}"
        for name, n, kept in zip(classes, held_Y.tolist(), kept_Y.tolist(), strict=True)
        if n and kept <= KEPT * n
    ]
    return [f"training masks lose a class by dataset.size or fit, {some(parts)}: {remedy}"] * bool(
        parts
    )


def check_shortcuts(labels: Sequence[str], seen: Sequence[Seen]) -> list[str]:
    """A warning if a property of the files, which is the same within each class, differs between
    classes: a model may learn it in place of what the images show.

    Args:
        labels: the class of each image.
        seen: the properties of its file.
    """
    by_class: dict[str, list[Seen]] = {}
    for label, each in zip(labels, seen, strict=True):
        by_class.setdefault(label, []).append(each)
    if len(by_class) < 2 or min(map(len, by_class.values())) < ALIKE:
        return []
    warnings = []
    for what, value in (
        ("sizes", lambda s: f"{s.size[0]}x{s.size[1]}"),
        ("formats", lambda s: s.traits.format),
        ("colours", lambda s: "grey" if s.grey else "colour"),
    ):
        values = {name: {value(s) for s in group} for name, group in by_class.items()}
        if any(len(v) > 1 for v in values.values()):
            continue
        each_value = {name: next(iter(v)) for name, v in values.items()}
        if len(set(each_value.values())) > 1:
            examples: dict[str, str] = {}
            for name, of_class in each_value.items():
                examples.setdefault(of_class, name)
            pairs = ", ".join(f"{name} {v}" for v, name in list(examples.items())[:3])
            warnings.append(
                f"the files' {what} alone tell classes apart ({pairs}): a model may learn that and not what they "
                "show. Bring all classes to one"
            )
    return warnings


def require_groups_apart(train: Any, test: Any) -> None:
    """DataError if a group has images in the training and in the test split.

    Args:
        train, test: `Images`, or None.
    """
    if test is None or not (train.groups and test.groups):
        return
    member = dict(zip(train.groups, train.ids, strict=True))
    for group, name in zip(test.groups, test.ids, strict=True):
        if group in member:
            problem = f"group {group} is in train and in test and must not be split"
            raise DataError(f"{problem}: {member[group]} and {name}")


def check_copies(names: Sequence[str], hashes: Sequence[str], values: Sequence[Any]) -> list[str]:
    """A warning of files with the same content, which folds may both train and test on. DataError if
    copies are annotated differently.

    Args:
        names: the names of annotated images.
        hashes: SHA-256 of their files.
        values: their annotations.
    """
    first: dict[str, int] = {}
    same: list[str] = []
    different: list[str] = []
    for n, sha256 in enumerate(hashes):
        other = first.setdefault(sha256, n)
        if other != n:
            pair = f"{names[other]} and {names[n]}"
            (same if values[other] == values[n] else different).append(pair)
    if different:
        raise DataError(
            f"{len(different)} images have a copy with another annotation:{listing(different)}\nRemove the wrong one of each"
        )
    problem = "are copies of others, so that folds may test what was learnt: remove one of each"
    return [f"{len(same):,} images {problem} ({some(same)})"] if same else []


def check_heic(names: Iterable[str]) -> list[str]:
    """A warning of HEIC images, such as an iPhone's photographs, which Pillow reads with an extra
    package."""
    suffixes = Counter(Path(name).suffix.lower() for name in names)
    if not (count := sum(suffixes[suffix] for suffix in HEIF)):
        return []
    return [f"{count:,} files are HEIC images, which are left out: {HEIF_REMEDY}"]


def check_suffixes(files: Sequence[File]) -> list[str]:
    """A warning of files that hold images, and are left out because their names do not say so."""
    found = [f.id for f in files if Path(f.id).suffix.lower() not in HEIF and is_picture(f)]
    if not found:
        return []
    counts = Counter(Path(name).suffix.lower() or "no suffix" for name in found)
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in counts.most_common(FEW))
    problem = f"files hold images and are left out, as their suffix is of no format that is read ({kinds})"
    return [f"{len(found):,} {problem}: rename or convert them"]


def is_picture(file: File) -> bool:
    """Whether a file begins like an image, or a photograph in a camera's own format."""
    try:
        with file.path.open("rb") as opened:
            start = opened.read(132)
    except OSError:
        return False
    return start.startswith(PICTURES) or start[4:12] in BRANDS or start[128:] == b"DICM"


def suffixes(names: Sequence[str]) -> str:
    """What files that are no images are instead, for a sentence; "" without files."""
    if not names:
        return ""
    counts = Counter(Path(name).suffix.lower() or "no suffix" for name in names)
    kinds = ", ".join(f"{count:,} {suffix}" for suffix, count in counts.most_common(FEW))
    remedy = f"; {HEIF_REMEDY}" if any(suffix in counts for suffix in HEIF) else ""
    return f", but other files ({kinds}){remedy}"


def check_crop(
    sizes: Sequence[tuple[int, int]], image: tuple[int, int, int], fit: str
) -> list[str]:
    """A warning if many images lose most of their area when they are cropped.

    Args:
        sizes: (width, height) of each used image.
        image: C, H, W to which they are brought.
        fit: how.
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
    return [f"{lost:,} of {len(sizes):,} images {problem}: dataset.fit=letterbox keeps them whole"]


def is_missing(name: str) -> bool:
    """Whether a text is how programs write that there is none."""
    return name.strip().casefold() in _MISSING


def check_pending_labels(names: Iterable[str]) -> list[str]:
    """A warning of labels in a table that are words for images whose label is still to come: unlabelled,
    unknown, todo, skip."""
    found = [n for n in sorted({*names}) if holds_no_labels(n) or _PENDING.fullmatch(letters(n))]
    if not found:
        return []
    remedy = "empty the cells of images without a label, and they are pretrained on"
    return [f"{classes_are(found)} named like images without a label, and learnt: {remedy}"]


def letters(name: str) -> str:
    """A name's letters alone, small."""
    return re.sub(r"[\W\d_]+", "", name.casefold())


def check_absent_classes(
    classes: Sequence[str], part: Iterable[str], what: str = "test image"
) -> list[str]:
    """A warning of classes that do not occur in `part`, the labels of a split, so that no mean
    includes them."""
    counts = Counter(part)
    if not counts or not (absent := [c for c in classes if not counts[c]]):
        return []
    rest = f"means over classes are of the other {len(classes) - len(absent)}"
    return [f"no {what} is of class {some(absent)}: {rest}"]


def print_warnings(name: str, warnings: Sequence[str]) -> dict[str, Any]:
    """Print the warnings, one line each; returns them for the report, or {} if there are none."""
    for line in warnings:
        console.message(f"{name}: warning: {line}{'' if line.endswith('?') else '.'}")
    return {"warnings": list(warnings)} if warnings else {}
