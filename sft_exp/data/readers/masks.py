"""Images with masks, from files to a corpus: each file is read and decoded once, so that what is missing, broken or out of range
is said before any use, by file and reason. Image and mask are brought to the canvas together."""

import hashlib
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sft_exp.data.corpus import Corpus, Dataset
from sft_exp.data.decode import FITS, fitting, unpacked
from sft_exp.data.images import Held
from sft_exp.data.readers import findings
from sft_exp.data.readers.files import File, part, survey
from sft_exp.errors import ConfigError, DataError, listing, require
from sft_exp.progress import bar, console

IGNORE = 255  # in a mask that is read: nothing is annotated here
FEW_VALUES = 32  # a mask with more different values was made smooth, and holds no classes
# kinds of files that keep a pixel's value as it is
MASKS = (".png", ".bmp", ".tif", ".tiff", ".gif")


@dataclass(frozen=True)
class Canvas:
    """What all images become: their size, and how."""

    image: tuple[int, int, int]  # C, H, W
    # crop the middle to the proportions, stretch, or letterbox (black around, and nothing annotated
    # there)
    fit: str = "crop"

    @staticmethod
    def of(size: Any, channels: int, fit: str) -> "Canvas":
        """`size` is a number of pixels, or [rows, columns]. ConfigError."""
        sides = size if isinstance(size, list) else [size, size]
        if not (
            len(sides) == 2
            and all(isinstance(s, int) and not isinstance(s, bool) and s > 0 for s in sides)
        ):
            raise ConfigError(
                "size", size, "must be a number of pixels above 0, or [rows, columns]"
            )
        if channels not in (1, 3):
            raise ConfigError("channels", channels, "must be 1 (grey) or 3 (colour)")
        if fit not in FITS:
            raise ConfigError("fit", fit, f"must be {', '.join(FITS)}")
        return Canvas((channels, sides[0], sides[1]), fit)


class Pair(NamedTuple):
    """An image and its mask."""

    id: str
    split: str  # train, test, or pool (without a mask)
    image: Path
    mask: Path | None = None
    stratum: int = 0
    group: str | None = None


@dataclass(frozen=True)
class Codes:
    """What a mask's pixel values, or its colours, mean."""

    known: dict[int, int]  # value, or colour as 0xRRGGBB -> class, or IGNORE
    classes: int
    coloured: bool = False
    keys: bool = False  # whether dataset.values and dataset.colours can say what other values mean

    @staticmethod
    def plain(
        classes: int, ignore: int | None, values: Sequence[int] = (), keys: bool = False
    ) -> "Codes":
        """Class n is the n-th of `values`; without them, n."""
        told = {value: n for n, value in enumerate(values or range(classes))}
        return Codes({**({} if ignore is None else {ignore: IGNORE}), **told}, classes, keys=keys)

    @staticmethod
    def colours(colours: Sequence[Sequence[int]], ignore: Sequence[int] | None) -> "Codes":
        """Class n is the n-th of `colours` (red, green, blue)."""
        known = {packed(colour): n for n, colour in enumerate(colours)}
        return Codes(
            {**({} if ignore is None else {packed(ignore): IGNORE}), **known},
            len(colours),
            True,
            True,
        )

    def read(self, content: bytes, most: int | None = None) -> np.ndarray:
        """The classes of all pixels, uint8 [H, W]. DataError says what is wrong.

        Three channels that are equal everywhere, and no transparency, are one grey channel.
        """
        from PIL import UnidentifiedImageError

        try:
            with unpacked(content, most) as file:
                mode, value_HW = (
                    file.mode,
                    np.asarray(file.convert("RGB") if self.coloured else file),
                )
        except DataError:
            raise
        except UnidentifiedImageError as error:
            raise DataError("is no image that Pillow reads" if content else "is empty") from error
        except Exception as error:  # Pillow's readers raise whatever a broken file leads them to
            raise DataError(f"cannot be decoded: {str(error) or type(error).__name__}") from error
        if value_HW.ndim == 3 and self.coloured:
            value_HW = value_HW.astype(np.int64) @ (1 << 16, 1 << 8, 1)
        elif value_HW.ndim == 3 and mode in ("RGB", "RGBA", "LA"):
            value_HW = self.grey(value_HW, mode)
        if value_HW.ndim != 2 or value_HW.dtype.kind not in "bui":
            raise DataError(
                f"has the mode {mode}; a mask has one whole number a pixel (modes 1, L, P, I)"
            )
        value_HW = value_HW.astype(np.int64)
        values = np.array(sorted(self.known))
        place_HW = np.searchsorted(values, value_HW).clip(max=len(values) - 1)
        wrong = values[place_HW] != value_HW
        if wrong.any():
            row, column = np.argwhere(wrong)[0]
            what = (
                f"{'colour' if self.coloured else 'value'} {self.name(int(value_HW[row, column]))}"
            )
            raise DataError(
                f"holds the {what} in row {row}, column {column}; valid are {self.valid()}{self.hint(value_HW)}"
            )
        return np.array([self.known[v] for v in values.tolist()], np.uint8)[place_HW]

    def grey(self, value_HWC: np.ndarray, mode: str) -> np.ndarray:
        """The one channel of a mask with several equal ones. DataError where they differ."""
        colour_HWC = value_HWC[..., : 1 if mode == "LA" else 3]
        if (colour_HWC != colour_HWC[..., :1]).any():
            many = np.unique(colour_HWC.reshape(-1, 3), axis=0)
            few = ", ".join(map(str, many[: findings.FEW].tolist()))
            more = f" and {len(many) - findings.FEW} more" if len(many) > findings.FEW else ""
            out = (
                "; dataset.colours={background: [0,0,0], ...} says which class is which"
                if self.keys
                else ""
            )
            raise DataError(
                f"has the mode {mode} and the colours {few}{more}; a mask has one whole number a pixel (modes 1, L, P, I){out}"
            )
        if mode != "RGB" and (value_HWC[..., -1] != 255).any():
            raise DataError(
                f"has the mode {mode} and transparent parts; a mask has one whole number a pixel (modes 1, L, P, I)"
            )
        return colour_HWC[..., 0]

    def hint(self, value_HW: np.ndarray) -> str:
        """The way out of a mask with unknown values."""
        there = np.unique(value_HW).tolist()
        if not self.keys or self.coloured:
            return ""
        if len(there) > FEW_VALUES:
            return f". It holds {len(there)} different values: was it resized smoothly, or saved as JPEG before?"
        listed = ",".join(map(str, there))
        return f". It holds {listed.replace(',', ', ')}: dataset.values=[{listed}] if these are the classes, in their order"

    def name(self, value: int) -> str:
        """A value, or a colour's three, as the user writes them."""
        return f"[{value >> 16},{value >> 8 & 255},{value & 255}]" if self.coloured else str(value)

    def valid(self) -> str:
        told = sorted(v for v, c in self.known.items() if c != IGNORE)
        together = told == list(range(told[0], told[-1] + 1)) and not self.coloured
        ignored = sorted(v for v, c in self.known.items() if c == IGNORE)
        ends = f"{told[0]} to {told[-1]}" if together else ", ".join(map(self.name, told))
        return ends + (
            f", and {', '.join(map(self.name, ignored[:3]))} where nothing is annotated"
            if ignored
            else ""
        )


def packed(colour: Sequence[int]) -> int:
    """Red, green, blue as 0xRRGGBB."""
    red, green, blue = colour
    return red << 16 | green << 8 | blue


class MaskDecoder:
    """row -> uint8 [H, W], as long as the row's file is what it was when the run began; else DataError."""

    def __init__(
        self,
        files: list[Path],
        sha256: list[str],
        codes: Codes,
        canvas: Canvas,
        most: int | None = None,
    ):
        self.files, self.sha256, self.codes, self.canvas, self.most = (
            files,
            sha256,
            codes,
            canvas,
            most,
        )

    def __call__(self, row: int) -> Tensor:
        content = read(self.files[row])
        if hashlib.sha256(content).hexdigest() != self.sha256[row]:
            raise DataError(f"{self.files[row]}: changed while the run used it; start again")
        return placed(self.codes.read(content, self.most), self.canvas)


def read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from error


def placed(mask_HW: np.ndarray, canvas: Canvas) -> Tensor:
    """A mask on the canvas, as its image is: uint8 [H, W]."""
    from PIL import Image

    _, height, width = canvas.image
    picture = fitting(
        Image.fromarray(mask_HW), (width, height), canvas.fit, Image.Resampling.NEAREST, IGNORE
    )
    return torch.from_numpy(np.array(picture))


class MaskSet(Dataset):
    """Images with masks from files. The fields that all of these have, whatever else they have."""

    unhashed: ClassVar[tuple[str, ...]] = ("root", "most_pixels", "memory", "workers")
    gives: ClassVar[tuple[str, ...]] = ("mask",)

    root: str | None  # folder of the data set
    size: Any  # pixels, or [rows, columns], of all images
    channels: int  # 3 = colour, 1 = grey
    fit: str  # how an image becomes that size
    most_pixels: int | None  # of an image that is decoded
    memory: float  # GB of images and masks held; a larger set is decoded as it is used
    workers: int  # processes that decode it

    def __post_init__(self):
        require(
            self.most_pixels is None or self.most_pixels > 0,
            "most_pixels",
            self.most_pixels,
            "above 0, or null",
        )
        self.canvas = Canvas.of(self.size, self.channels, self.fit)

    def folder(self, what: str) -> Path:
        """The folder that root names. ConfigError says what it must be."""
        if not self.root:
            raise ConfigError("dataset.root", self.root, f"must name {what}")
        return Path(self.root).expanduser()


def corpus(
    source: MaskSet,
    name: str,
    classes: tuple[str, ...],
    pairs: list[Pair],
    codes: Codes,
    strata: tuple[str, ...] = ("image",),
    named: dict[str, tuple[str, ...]] | None = None,
) -> Corpus:
    """The corpus that these files are: masks as the target `mask`. DataError names every file that cannot be used, and why."""
    canvas, workers = source.canvas, source.workers
    bare = [
        f"{p.id}: there is no mask {p.mask}"
        for p in pairs
        if p.mask is not None and not p.mask.is_file()
    ]
    if bare:
        raise DataError(f"{len(bare)} images have no mask:{listing(bare)}")
    hold = len(pairs) * prod(canvas.image[1:]) * (canvas.image[0] + 1) <= source.memory * 1e9
    files = [File(p.id, p.image) for p in pairs]
    learnt = [p.split != "test" for p in pairs]
    x, seen, levels = survey(
        files, canvas.image, hold, max(1, workers), canvas.fit, learnt, source.most_pixels
    )
    masked = [n for n, p in enumerate(pairs) if p.mask is not None]
    paths = [m for p in pairs if (m := p.mask) is not None]
    masks, hashes, counts, faults = surveyed(
        paths, [seen[n].size for n in masked], codes, canvas, hold, workers, source.most_pixels
    )
    faults += [f"{p.image}: {s.fault}" for p, s in zip(pairs, seen, strict=True) if s.fault]
    if faults:
        raise DataError(
            f"{len(faults)} files of {name} cannot be used:{listing(faults)}\nRepair or remove them"
        )
    place = dict(zip(masked, range(len(masked)), strict=True))  # row of an image -> of its mask
    target: Held = (
        masks[torch.tensor([place.get(n, 0) for n in range(len(pairs))])]
        if isinstance(masks, Tensor)
        else _at(masks, place)
    )

    def fingerprint(*splits: str) -> str:
        told = [(p.id, p.split, p.stratum, p.group, s.sha256, hashes[place[n]] if n in place else "")
                for n, (p, s) in enumerate(zip(pairs, seen, strict=True)) if p.split in splits]  # fmt: skip
        text = json.dumps([canvas.image, canvas.fit, classes, sorted(codes.known.items()), told])
        return hashlib.sha256(text.encode()).hexdigest()

    train, test, pool = (
        part(which, pairs, x, {"mask": target}, workers) for which in ("train", "test", "pool")
    )
    if train is None:
        raise DataError(f"{name}: no image with a mask to learn from")
    console.message(told(name, pairs, [s.size for s in seen], canvas))
    of: dict[str, tuple[str, ...]] = named or {}
    pixels, tested = of.get("mask", classes), [pairs[n].split == "test" for n in masked]
    learnt_MY, test_MY = counts[~np.array(tested)], counts[tested]
    unknown = sorted(v for v, c in codes.known.items() if c == IGNORE)
    ignored = list(map(codes.name, unknown)) if codes.coloured else unknown
    values = [min(v for v, c in codes.known.items() if c == n) for n in range(codes.classes)]
    values = [] if codes.coloured else values
    warnings = [
        *findings.class_names(pixels),
        *findings.masks(pixels, learnt_MY, test_MY if test is not None else None, ignored, values),
        *findings.images(seen, levels, "masks"),
    ]
    where = {p.id: p.image for p in pairs}
    return Corpus(
        name, classes, train, test, pool, canvas.image, findings.said(name, warnings),
        fingerprint("train", "pool"), fingerprint("test"), where, strata=strata, named=of, levels=levels,
    )  # fmt: skip


def _at(decoder: Callable[[int], Tensor], place: dict[int, int]) -> Callable[[int], Tensor]:
    return lambda row: decoder(place[row])


def surveyed(
    files: list[Path],
    sizes: list[tuple[int, int]],
    codes: Codes,
    canvas: Canvas,
    hold: bool,
    workers: int,
    most: int | None,
) -> tuple[Tensor | MaskDecoder, list[str], np.ndarray, list[str]]:
    """Read each mask once: (all masks uint8 [N, H, W], or what decodes one; hashes of the files; pixels of each class in each
    file, and of those ignored, [N, Y + 1]; what is wrong with which). `sizes` are those of their images, (width, height)."""
    count_MY = np.zeros((len(files), codes.classes + 1), np.int64)
    held_NHW = torch.zeros(len(files) if hold else 0, *canvas.image[1:], dtype=torch.uint8)

    def look(row: int) -> tuple[str, str]:
        try:
            content = read(files[row])
            mask_HW = codes.read(content, most)
        except DataError as error:
            return "", str(error) if str(error).startswith(
                str(files[row])
            ) else f"{files[row]}: {error}"
        if sizes[row] != (0, 0) and mask_HW.shape[::-1] != sizes[row]:
            high, wide = mask_HW.shape
            return (
                "",
                f"{files[row]}: is {wide} x {high}, its image {sizes[row][0]} x {sizes[row][1]}",
            )
        each = np.bincount(mask_HW.ravel(), minlength=IGNORE + 1)
        count_MY[row] = [*each[: codes.classes], each[IGNORE]]
        if hold:
            held_NHW[row] = placed(mask_HW, canvas)
        return hashlib.sha256(content).hexdigest(), ""

    with ThreadPoolExecutor(max(1, workers)) as pool, bar("reading masks", len(files)) as advance:
        found = []
        for n, one in enumerate(pool.map(look, range(len(files))), start=1):
            found.append(one)
            advance(n, "")
    hashes = [sha for sha, _ in found]
    faults = [fault for _, fault in found if fault]
    return (
        held_NHW if hold else MaskDecoder(files, hashes, codes, canvas, most),
        hashes,
        count_MY,
        faults,
    )


def told(name: str, pairs: list[Pair], sizes: list[tuple[int, int]], canvas: Canvas) -> str:
    """The data set in a sentence."""
    kinds = {"train": "with masks to learn from", "test": "to test on", "pool": "without"}
    counts = [
        f"{n:,} {what}"
        for split, what in kinds.items()
        if (n := sum(p.split == split for p in pairs))
    ]
    (low, *_, high) = sorted(sizes) if len(sizes) > 1 else (*sizes, *sizes)
    how = {"crop": "cropped in the middle", "stretch": "stretched", "letterbox": "with a margin"}[
        canvas.fit
    ]
    span = "x".join(map(str, low)) + ("" if low == high else f" to {'x'.join(map(str, high))}")
    return f"{name}: images {', '.join(counts)}; {span} pixels, {how} to {canvas.image[2]}x{canvas.image[1]}."
