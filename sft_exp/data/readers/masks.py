"""Turns images with masks into a corpus, placing image and mask on the canvas together.

Each file is read and decoded once, so that missing, broken or invalid files are reported before use.
"""

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from sft_exp.data.corpus import Corpus, Dataset
from sft_exp.data.decode import ORIENTATION, fitting, instead, open_undecoded
from sft_exp.data.images import Held
from sft_exp.data.readers import findings
from sft_exp.data.readers.canvas import Canvas, canvas_of
from sft_exp.data.readers.files import File, Seen, part, require_folder, survey
from sft_exp.errors import ConfigError, DataError, listing, require, some
from sft_exp.progress import bar, console

IGNORE = 255  # value of pixels without annotation
FEW_VALUES = 32  # a mask with more different values was interpolated, and holds no classes
LOSSY = ("JPEG", "MPO", "JPEG2000", "WEBP", "AVIF", "HEIF")
MASKS = (".png", ".bmp", ".tif", ".tiff", ".gif")  # lossless image formats


ONE_NUMBER = "a mask has one whole number a pixel (modes 1, L, P, I)"


class Readable(Protocol):
    """What is used of a mask's file; other masks are made when they are read."""

    def is_file(self) -> bool: ...
    def read_bytes(self) -> bytes: ...


class Pair(NamedTuple):
    """An image and its mask."""

    id: str
    split: str  # train, test, or pool (without a mask)
    image: Path
    mask: "Path | Readable | None" = None
    stratum: int = 0
    group: str | None = None


@dataclass(frozen=True)
class Codes:
    """The classes of a mask's pixel values or colours."""

    known: dict[int, int]  # value, or colour as 0xRRGGBB -> class, or IGNORE
    classes: int
    coloured: bool = False
    keys: bool = False  # whether the data set has the keys `values` and `colours`

    @staticmethod
    def plain(
        classes: int, ignore: int | None, values: Sequence[int] = (), keys: bool = False
    ) -> "Codes":
        """Class n is the n-th of `values`; without them, n."""
        known = {} if ignore is None else {ignore: IGNORE}
        known |= {value: n for n, value in enumerate(values or range(classes))}
        return Codes(known, classes, keys=keys)

    @staticmethod
    def colours(colours: Sequence[Sequence[int]], ignore: Sequence[int] | None) -> "Codes":
        """Class n is the n-th of `colours` (red, green, blue)."""
        known = {} if ignore is None else {packed(ignore): IGNORE}
        known |= {packed(colour): n for n, colour in enumerate(colours)}
        return Codes(known, len(colours), True, True)

    def read(self, content: bytes, most: int | None = None) -> np.ndarray:
        """The classes of all pixels, uint8 [H, W]. DataError for an invalid mask.

        Three channels that are equal everywhere, and no transparency, are one grey channel.
        """
        from PIL import ImageOps, UnidentifiedImageError

        try:
            with open_undecoded(content, most) as file:
                mode, compression = file.mode, str(file.info.get("compression", ""))
                if file.format in LOSSY or "jpeg" in compression:
                    problem = f"is compressed as {compression or file.format}, which changes values"
                    raise DataError(f"{problem}; a mask must keep them, as PNG does")
                if getattr(file, "n_frames", 1) > 1:
                    raise DataError(f"has {file.n_frames} frames or pages, and a mask is one")
                turned = file.getexif().get(ORIENTATION, 1) != 1
                upright = ImageOps.exif_transpose(file) if turned else file
                value_HW = np.asarray(upright.convert("RGB") if self.coloured else upright)
        except DataError:
            raise
        except UnidentifiedImageError as error:
            raise DataError(instead(content)) from error
        except Exception as error:  # broken files make Pillow raise various errors
            raise DataError(f"cannot be decoded: {str(error) or type(error).__name__}") from error
        if value_HW.ndim == 3 and self.coloured:
            value_HW = value_HW.astype(np.int64) @ (1 << 16, 1 << 8, 1)
        elif value_HW.ndim == 3 and mode in ("RGB", "RGBA", "LA"):
            value_HW = self.grey(value_HW, mode)
        if value_HW.ndim != 2 or value_HW.dtype.kind not in "bui":
            raise DataError(f"has the mode {mode}; {ONE_NUMBER}")
        value_HW = value_HW.astype(np.int64)
        values = np.array(sorted(self.known))
        index_HW = np.searchsorted(values, value_HW).clip(max=len(values) - 1)
        wrong = values[index_HW] != value_HW
        if wrong.any():
            row, column = np.argwhere(wrong)[0]
            kind, value = (
                "colour" if self.coloured else "value",
                self.name(int(value_HW[row, column])),
            )
            where = f"in row {row}, column {column}"
            valid = f"valid are {self.valid()}{self.hint(value_HW)}"
            raise DataError(f"holds the {kind} {value} {where}; {valid}")
        return np.array([self.known[v] for v in values.tolist()], np.uint8)[index_HW]

    def grey(self, value_HWC: np.ndarray, mode: str) -> np.ndarray:
        """One channel of a mask whose channels are equal. DataError if they differ."""
        colour_HWC = value_HWC[..., : 1 if mode == "LA" else 3]
        if (colour_HWC != colour_HWC[..., :1]).any():
            colours = [str(c) for c in np.unique(colour_HWC.reshape(-1, 3), axis=0).tolist()]
            hint = "; dataset.colours={background: [0,0,0], ...} says which class is which"
            problem = f"has the mode {mode} and the colours {some(colours)}; {ONE_NUMBER}"
            raise DataError(f"{problem}{hint if self.keys else ''}")
        if mode != "RGB" and (value_HWC[..., -1] != 255).any():
            raise DataError(f"has the mode {mode} and transparent parts; {ONE_NUMBER}")
        return colour_HWC[..., 0]

    def hint(self, value_HW: np.ndarray) -> str:
        """A remedy for a mask with unknown values."""
        if not self.keys or self.coloured:
            return ""
        values = [str(value) for value in np.unique(value_HW).tolist()]
        if len(values) > FEW_VALUES:
            return f". It holds {len(values)} different values: was it resized smoothly, or saved as JPEG before?"
        key = f"dataset.values=[{','.join(values)}]"
        return f". It holds {', '.join(values)}: {key} if these are the classes, in their order"

    def name(self, value: int) -> str:
        """A value, or a colour as [red,green,blue]."""
        return f"[{value >> 16},{value >> 8 & 255},{value & 255}]" if self.coloured else str(value)

    def valid(self) -> str:
        """The valid values or colours, for messages."""
        values = sorted(v for v, c in self.known.items() if c != IGNORE)
        ignored = sorted(v for v, c in self.known.items() if c == IGNORE)
        consecutive = values == list(range(values[0], values[-1] + 1)) and not self.coloured
        text = f"{values[0]} to {values[-1]}" if consecutive else ", ".join(map(self.name, values))
        if ignored:
            text += f", and {', '.join(map(self.name, ignored[:3]))} where nothing is annotated"
        return text


def packed(colour: Sequence[int]) -> int:
    """Red, green, blue as 0xRRGGBB."""
    red, green, blue = colour
    return red << 16 | green << 8 | blue


class MaskDecoder:
    """row -> uint8 [H, W]. DataError if the row's file has changed since the run began."""

    def __init__(
        self,
        files: Sequence[Readable],
        sha256: list[str],
        codes: Codes,
        canvas: Canvas,
        most: int | None = None,
    ):
        self.files, self.sha256, self.codes = files, sha256, codes
        self.canvas, self.most = canvas, most

    def __call__(self, row: int) -> Tensor:
        content = read(self.files[row])
        if hashlib.sha256(content).hexdigest() != self.sha256[row]:
            raise DataError(f"{self.files[row]}: changed while the run used it; start again")
        return placed(self.codes.read(content, self.most), self.canvas)


def read(path: Readable) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from error


def placed(mask_HW: np.ndarray, canvas: Canvas) -> Tensor:
    """A mask placed on the canvas like its image, uint8 [H, W]."""
    from PIL import Image

    _, height, width = canvas.image
    picture = fitting(
        Image.fromarray(mask_HW), (width, height), canvas.fit, Image.Resampling.NEAREST, IGNORE
    )
    return torch.from_numpy(np.array(picture))


def require_group(pattern: str | None) -> None:
    """ConfigError unless the pattern, by which images stay in one split, has one group."""
    try:
        ok = pattern is None or re.compile(pattern).groups == 1
    except re.error:
        ok = False
    require(
        ok, "group", pattern, "a regular expression with one group, such as (p[0-9]+)_, or null"
    )


def group_in(name: str, pattern: str | None) -> str | None:
    """The group that the pattern finds in a file's name; None without a pattern."""
    if pattern is None:
        return None
    if not (match := re.search(pattern, name)):
        raise DataError(f"{name}: dataset.group={pattern} finds no group in this name")
    return match[1]


class MaskSet(Dataset):
    """The common fields of data sets of images with masks."""

    unhashed: ClassVar[tuple[str, ...]] = ("root", "most_pixels", "memory", "workers")
    gives: ClassVar[tuple[str, ...]] = ("mask",)

    root: str | None  # folder of the data set
    size: Any  # pixels, or [rows, columns], of all images
    channels: int  # 3 = colour, 1 = grey
    fit: str  # how an image is brought to that size: crop (centre), stretch, letterbox
    most_pixels: int | None  # limit of the pixels of a decoded image
    memory: float  # GB of images and masks kept in memory; a larger set is decoded per batch
    workers: int  # worker processes that decode images

    def __post_init__(self):
        self.canvas = canvas_of(self)

    def folder(self, what: str) -> Path:
        """The folder of the data set. ConfigError without a root; `what` says what it must name."""
        if not self.root:
            raise ConfigError("dataset.root", self.root, f"must name {what}")
        root = Path(self.root).expanduser()
        require_folder(root, "dataset.root", f"It names {what}")
        return root


def corpus(
    source: MaskSet,
    name: str,
    classes: tuple[str, ...],
    pairs: list[Pair],
    codes: Codes,
    strata: tuple[str, ...] = ("image",),
    named: dict[str, tuple[str, ...]] | None = None,
    notes: Sequence[str] = (),
) -> Corpus:
    """The corpus of these files, with masks as the target `mask`. `notes` are warned of. DataError
    names every unusable file."""
    canvas, workers = source.canvas, source.workers
    if missing := [p for p in pairs if p.mask is not None and not p.mask.is_file()]:
        lines = [f"{p.id}: there is no mask {p.mask}" for p in missing]
        raise DataError(f"{len(missing)} images have no mask:{listing(lines)}")
    hold = len(pairs) * prod(canvas.image[1:]) * (canvas.image[0] + 1) <= source.memory * 1e9
    files = [File(p.id, p.image) for p in pairs]
    learnt = [p.split != "test" for p in pairs]
    x, seen, levels = survey(
        files, canvas.image, hold, max(1, workers), canvas.fit, learnt, source.most_pixels
    )
    masked = [n for n, p in enumerate(pairs) if p.mask is not None]
    paths = [m for p in pairs if (m := p.mask) is not None]
    masks, hashes, (counts, fitted), faults, shades = surveyed(
        paths, [seen[n] for n in masked], codes, canvas, hold, workers, source.most_pixels
    )
    faults += [f"{p.image}: {s.fault}" for p, s in zip(pairs, seen, strict=True) if s.fault]
    if faults:
        problem = f"{len(faults)} files of {name} cannot be used:{listing(faults)}"
        raise DataError(f"{problem}\nRepair or remove them")
    place = {n: row for row, n in enumerate(masked)}  # row of an image -> row of its mask
    target: Held = (
        masks[torch.tensor([place.get(n, 0) for n in range(len(pairs))])]
        if isinstance(masks, Tensor)
        else _at(masks, place)
    )

    def fingerprint(*splits: str) -> str:
        rows = [
            (p.id, p.split, p.stratum, p.group, s.sha256, hashes[place[n]] if n in place else "")
            for n, (p, s) in enumerate(zip(pairs, seen, strict=True))
            if p.split in splits
        ]
        text = json.dumps([canvas.image, canvas.fit, classes, sorted(codes.known.items()), rows])
        return hashlib.sha256(text.encode()).hexdigest()

    train, test, pool = (
        part(which, pairs, x, {"mask": target}, workers) for which in ("train", "test", "pool")
    )
    if train is None:
        raise DataError(f"{name}: no image with a mask to learn from")
    findings.require_groups_apart(train, test)
    console.message(summary(name, pairs, [s.size for s in seen], canvas))
    named = named or {}
    mask_classes, tested = named.get("mask", classes), [pairs[n].split == "test" for n in masked]
    train_MY, test_MY = counts[~np.array(tested)], counts[tested] if test is not None else None
    ignored: list[Any] = sorted(v for v, c in codes.known.items() if c == IGNORE)
    values = [min(v for v, c in codes.known.items() if c == n) for n in range(codes.classes)]
    if codes.coloured:
        ignored, values = list(map(codes.name, ignored)), []
    warnings = [
        *notes,
        *findings.check_class_names(mask_classes),
        *findings.check_masks(
            mask_classes,
            train_MY,
            test_MY,
            ignored,
            values,
            fitted[~np.array(tested)],
            source.learnt,
        ),
        *inverted(shades, codes, mask_classes),
        *findings.check_copies(*annotated(pairs, seen, hashes, masked)),
        *findings.check_images(seen, levels, "masks"),
        *findings.check_crop([s.size for s in seen], canvas.image, canvas.fit),
    ]
    return Corpus(
        name,
        classes,
        train,
        test,
        pool,
        canvas.image,
        findings.print_warnings(name, warnings),
        fingerprint("train", "pool"),
        fingerprint("test"),
        {p.id: p.image for p in pairs},
        strata=strata,
        named=named,
        levels=levels,
        fit=canvas.fit,
    )


def annotated(
    pairs: list[Pair], seen: Sequence[Seen], hashes: list[str], masked: list[int]
) -> tuple[list[str], list[str], list[str]]:
    """(names, SHA-256 of the images, SHA-256 of the masks) of the training images."""
    rows = [(n, m) for m, n in enumerate(masked) if pairs[n].split == "train"]
    names = [pairs[n].id for n, _ in rows]
    return names, [seen[n].sha256 for n, _ in rows], [hashes[m] for _, m in rows]


def _at(decoder: Callable[[int], Tensor], place: dict[int, int]) -> Callable[[int], Tensor]:
    return partial(_of_place, decoder, place)


def _of_place(decoder: Callable[[int], Tensor], place: dict[int, int], row: int) -> Tensor:
    # as a function of the module it can be unpickled by workers that are not forked
    return decoder(place[row])


def surveyed(
    files: Sequence[Readable],
    images: list[Seen],
    codes: Codes,
    canvas: Canvas,
    hold: bool,
    workers: int,
    most: int | None,
) -> tuple[
    Tensor | MaskDecoder, list[str], tuple[np.ndarray, np.ndarray], list[str], dict[int, int]
]:
    """Read each mask once.

    Args:
        files: the mask files, M of them.
        images: the properties of their images.
        codes: the classes of pixel values.
        canvas: the common size.
        hold: whether to keep all masks in memory.
        workers: threads that read.
        most: limit of the pixels of a mask.

    Returns:
        All masks, uint8 [M, H, W], or a decoder; SHA-256 of the files; pixels of each class, and
        ignored ones, in each file and in each mask on the canvas [M, Y + 1]; faults; the colours of
        palettes (0xRRGGBB) with their values.
    """
    count_MY = np.zeros((len(files), codes.classes + 1), np.int64)
    fitted_MY = np.zeros_like(count_MY)
    shades: dict[int, tuple[int, Readable]] = {}  # colour of a palette -> (its value, a file)
    held_MHW = torch.zeros(len(files) if hold else 0, *canvas.image[1:], dtype=torch.uint8)

    def survey_mask(row: int) -> tuple[str, str]:
        """(SHA-256, fault) of a file; its counts and its mask are stored."""
        file, (width, height) = files[row], images[row].size
        try:
            content = read(file)
            mask_HW = codes.read(content, most)
        except DataError as error:
            text = str(error)
            return "", text if text.startswith(str(file)) else f"{file}: {text}"
        high, wide = mask_HW.shape
        if (width, height) not in ((0, 0), (wide, high)):
            turned = (
                ", which its Exif orientation turned"
                if images[row].traits.turned
                else ": rows and columns are exchanged"
            )
            swapped = turned if (wide, high) == (height, width) else ""
            return "", f"{file}: is {wide} x {high}, its image {width} x {height}{swapped}"
        count_MY[row] = per_class(mask_HW, codes.classes)
        on_canvas_HW = placed(mask_HW, canvas)
        fitted_MY[row] = per_class(on_canvas_HW.numpy(), codes.classes)
        for value, colour in palette(content, codes, most).items():
            other, there = shades.setdefault(colour, (value, file))
            if other != value:
                text = f"[{colour >> 16},{colour >> 8 & 255},{colour & 255}]"
                problem = f"its palette gives the value {value} the colour {text}, which is {other} in {there}"
                return "", f"{file}: {problem}. dataset.colours={{...}} reads colours, not values"
        if hold:
            held_MHW[row] = on_canvas_HW
        return hashlib.sha256(content).hexdigest(), ""

    with ThreadPoolExecutor(max(1, workers)) as pool, bar("reading masks", len(files)) as advance:
        results = []
        for n, result in enumerate(pool.map(survey_mask, range(len(files))), start=1):
            results.append(result)
            advance(n, "")
    hashes = [sha256 for sha256, _ in results]
    faults = [fault for _, fault in results if fault]
    masks = held_MHW if hold else MaskDecoder(files, hashes, codes, canvas, most)
    values = {colour: value for colour, (value, _) in shades.items()}
    return masks, hashes, (count_MY, fitted_MY), faults, values


def inverted(shades: dict[int, int], codes: Codes, classes: Sequence[str]) -> list[str]:
    """A warning of masks whose palettes show the first class white and another one black, as programs
    do that order a palette by how often a colour occurs."""
    first, other = (codes.known.get(shades.get(colour, -1)) for colour in (0xFFFFFF, 0))
    if first != 0 or other is None:
        return []
    return [
        f"the masks' palettes show {classes[0]} white and {classes[other]} black: classes are read from the values below the "
        f"colours. Where black is {classes[0]}, dataset.colours={{{classes[0]}: [0,0,0], {classes[other]}: "
        "[255,255,255]} reads the colours"
    ]


def per_class(mask_HW: np.ndarray, classes: int) -> list[int]:
    """The number of pixels of each class, and of ignored ones."""
    each = np.bincount(mask_HW.ravel(), minlength=IGNORE + 1)
    return [*each[:classes].tolist(), int(each[IGNORE])]


def palette(content: bytes, codes: Codes, most: int | None) -> dict[int, int]:
    """Value -> colour as 0xRRGGBB, of the classes' values in a mask that is read by values and has a
    palette; {} for other masks."""
    if codes.coloured:
        return {}
    with open_undecoded(content, most) as file:
        colours = file.getpalette("RGB") if file.mode == "P" else None
        if colours is None:
            return {}
        used = [v for _, v in file.getcolors(256) or []]
    triples = {v: colours[3 * v : 3 * v + 3] for v in used if codes.known.get(v, IGNORE) != IGNORE}
    distinct = {v: packed(c) for v, c in triples.items() if len(c) == 3}
    # palettes that repeat a colour say nothing
    return distinct if len(set(distinct.values())) == len(distinct) else {}


def summary(name: str, pairs: list[Pair], sizes: list[tuple[int, int]], canvas: Canvas) -> str:
    """A sentence on the data set: counts of images, and how they are fitted to the canvas."""
    kinds = {"train": "with masks to learn from", "test": "to test on", "pool": "without"}
    numbers = {split: sum(p.split == split for p in pairs) for split in kinds}
    counts = ", ".join(f"{n:,} {kinds[split]}" for split, n in numbers.items() if n)
    ways = {"crop": "cropped in the middle", "stretch": "stretched", "letterbox": "with a margin"}
    low, high = ("x".join(map(str, size)) for size in (min(sizes), max(sizes)))
    span = low if low == high else f"{low} to {high}"
    size = f"{canvas.image[2]}x{canvas.image[1]}"
    return f"{name}: images {counts}; {span} pixels, {ways[canvas.fit]} to {size}."
