"""Images as batches, and batch t as a function of t: computable without batches 0..t-1, so resuming is starting at t.

Images that fit are uint8 tensors on the device, gathered and scaled there; others are decoded by a DataLoader's workers
in the same order. Either way a batch holds the same numbers.
"""

import hashlib
import io
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cache, lru_cache
from importlib import import_module
from itertools import repeat, tee
from pathlib import Path
from threading import Lock
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from sft_exp.core import Spec, Tensors, stream
from sft_exp.errors import DataError

Held = Tensor | Callable[[int], Tensor]  # of each image: in memory [N, ...], or row -> the one's, read as it is asked for


@dataclass(eq=False)
class Images:
    """Some images of one size, in memory (`x` is a tensor) or on disk (`x` decodes one)."""

    x: Held  # uint8 [N, C, H, W], or row -> uint8 [C, H, W]; or features, float [N, D]
    y: Tensor  # int64 [N]: the class, or where an image has none, the stratum it is drawn from; -1 where nothing is annotated
    ids: list[str]  # one name an image, unique within the data set
    groups: list[str] | None = None  # patient, writer, video: never split
    workers: int = 0  # processes that decode; 0 = this one
    rows: Tensor | None = None  # positions in `x` and `targets` of the N images; None = all, in order
    targets: Mapping[str, Held] = field(default_factory=dict)  # what else is annotated, by name: masks, boxes, numbers

    def __len__(self) -> int:
        return len(self.y)

    def at(self, rows: Tensor) -> "Images":
        """The images at these rows, without copying any."""
        base = rows if self.rows is None else self.rows[rows]
        groups = None if self.groups is None else [self.groups[r] for r in rows.tolist()]
        return Images(self.x, self.y[rows], [self.ids[r] for r in rows.tolist()], groups, self.workers, base, self.targets)

    def to(self, device: torch.device) -> "Images":
        if not isinstance(self.x, Tensor):
            return self
        x = self.x if self.rows is None else self.x[self.rows]
        return self.having(x.to(device))

    def having(self, x: Tensor) -> "Images":
        """The same images, annotations and all, as `x` [N, ...] shows them: e.g. their features."""
        targets = {name: held if self.rows is None else _at(held, self.rows) for name, held in self.targets.items()}
        return Images(x, self.y, self.ids, self.groups, self.workers, targets=targets)

    def target(self, name: str) -> Tensor:
        """One kind of annotation of all the images, [N, ...]."""
        held, rows = self.targets[name], torch.arange(len(self)) if self.rows is None else self.rows
        return held[rows] if isinstance(held, Tensor) else torch.stack([held(r) for r in rows.tolist()])

    def batches(self, rows: Iterable[Tensor], device: torch.device) -> Iterator[Tensors]:
        """One {"x": float [B, C, H, W] in [0, 1], "y": [B], "row": [B]} for each tensor of rows, in that order; and the targets
        by name, whole numbers as int64."""
        asked, loaded = tee(rows)
        for r, found in zip(asked, self._raw(loaded, {"x": self.x, **self.targets}), strict=True):
            moved = {name: value.to(device, non_blocking=True) for name, value in found.items()}
            x_BCHW = moved.pop("x")
            yield {
                "x": x_BCHW.float().div_(255) if x_BCHW.dtype == torch.uint8 else x_BCHW,
                "y": self.y[r].to(device, non_blocking=True),
                "row": r,
                **{name: value if value.is_floating_point() else value.long() for name, value in moved.items()},
            }

    def _raw(self, rows: Iterable[Tensor], held: dict[str, Held]) -> Iterator[Tensors]:
        """Of each batch what is held under these names; what must be decoded, by the workers."""
        here = {name: of for name, of in held.items() if isinstance(of, Tensor)}
        decode = {name: of for name, of in held.items() if not isinstance(of, Tensor)}
        first, second = tee(r if self.rows is None else self.rows[r] for r in rows)
        for r, decoded in zip(first, self._decoded(second, decode) if decode else repeat({}), strict=False):
            yield {**{name: of[r.to(of.device)] for name, of in here.items()}, **decoded}

    def _decoded(self, rows: Iterable[Tensor], decode: dict[str, Callable[[int], Tensor]]) -> Iterator[Tensors]:
        for found in torch.utils.data.DataLoader(
            _Decoded(decode),
            batch_sampler=(r.tolist() for r in rows),
            num_workers=self.workers,
            collate_fn=_as_it_is,
            worker_init_fn=_deaf,
            generator=stream("workers"),
        ):
            if isinstance(found, DataError):
                raise found
            yield found

    def raw(self, row: int) -> Tensor:
        """One image as it is held, uint8 [C, H, W]."""
        r = row if self.rows is None else int(self.rows[row])
        return self.x[r] if isinstance(self.x, Tensor) else self.x(r)

    def held(self) -> Iterator[Tensor]:
        """All images as they are held, in order, on the CPU: uint8 [B, C, H, W]."""
        yield from (found["x"].cpu() for found in self._raw(torch.arange(len(self)).split(1024), {"x": self.x}))

    def floats(self, rows: Tensor, device: torch.device) -> Tensor:
        """These images as one tensor, float [N, C, H, W] in [0, 1]."""
        parts = [b["x"] for b in replace(self, targets={}).batches(rows.split(1024), device)]
        return torch.cat(parts)


def _at(held: Held, rows: Tensor) -> Held:
    """What is held of these rows alone."""
    return held[rows] if isinstance(held, Tensor) else lambda row: held(int(rows[row]))


def fitted(images: Images, image: tuple[int, int, int]) -> Images:
    """The images with these channels, rows and columns: grey or colour, and resized, if they are of another size."""
    if not len(images) or tuple(images.raw(0).shape) == tuple(image):
        return images
    targets = images.targets if tuple(images.raw(0).shape[1:]) == tuple(image[1:]) else {}  # masks and boxes would not fit
    if isinstance(images.x, Tensor):
        rows = torch.arange(len(images)) if images.rows is None else images.rows
        x = torch.cat([_fit(images.x[r.to(images.x.device)], image) for r in rows.split(1024)])
        return replace(images, targets=targets).having(x)
    decode = images.x
    return replace(images, x=lambda row: _fit(decode(row).unsqueeze(0), image)[0], targets=targets)


def _fit(x_BCHW: Tensor, image: tuple[int, int, int]) -> Tensor:
    """uint8 [B, C, H, W] -> uint8 [B, *image]; grey is the luminance of ITU-R 601, as in Pillow."""
    channels, height, width = image
    x = x_BCHW.float()
    if channels == 1 and x.shape[1] == 3:
        x = (x * torch.tensor([0.299, 0.587, 0.114], device=x.device).view(1, 3, 1, 1)).sum(1, keepdim=True)
    x = F.interpolate(x.expand(-1, channels, -1, -1), (height, width), mode="bilinear", antialias=True)
    return x.round().clamp(0, 255).to(torch.uint8)


class _Decoded(torch.utils.data.Dataset):
    def __init__(self, decode: dict[str, Callable[[int], Tensor]]):
        self.decode = decode

    def __getitems__(self, rows: list[int]) -> Tensors | DataError:
        """A batch, or what is wrong with a file: raised in a worker, it would arrive wrapped in the worker's traceback."""
        try:
            return {name: torch.stack([decode(r) for r in rows]) for name, decode in self.decode.items()}
        except DataError as error:
            return error


def _as_it_is(batch: Any) -> Any:
    return batch


def _deaf(worker: int) -> None:
    """Signals reach whole process groups: the workers must outlive them until the trainer has finished its step and saved."""
    for name in ("SIGTERM", "SIGINT", "SIGUSR1", "SIGUSR2"):
        signal.signal(getattr(signal, name), signal.SIG_IGN)


@dataclass(eq=False)
class Corpus:
    """A data set as its module reads it, before any split of ours."""

    name: str
    classes: tuple[str, ...]  # names of what is told apart: classes of images, of pixels, of boxes; none for numbers
    train: Images  # with labels; how many of them may be used is the experiment's affair
    test: Images | None = None  # None: folds of `train` serve as test
    extra: Images | None = None  # without labels, for pretraining only
    image: tuple[int, int, int] = (0, 0, 0)  # C, H, W
    report: dict = field(default_factory=dict)  # what was found on disk: sizes, broken files, duplicates
    fingerprint: str = ""  # SHA-256 of the content of `train` and `extra`
    test_fingerprint: str = ""  # and of `test`, which nothing before the evaluation may depend on
    files: dict[str, Path] = field(default_factory=dict)  # image -> its file, where it has one of its own
    leaks: list[tuple[str, str]] = field(default_factory=list)  # (in `extra`, in `test`) with equal files, as the reader saw it
    strata: tuple[str, ...] = ()  # names of the values of `y`, which label draws keep in proportion; none = the classes
    named: dict[str, tuple[str, ...]] = field(default_factory=dict)  # target -> its classes, where there are several such
    levels: tuple[int, int] | None = None  # of files with more than 8 bits a pixel, which all images are scaled by

    def __post_init__(self) -> None:
        self.strata = self.strata or self.classes

    @property
    def labelled(self) -> bool:
        """Whether `y` holds a class of each image, and not only the stratum that it is drawn from."""
        return self.strata == self.classes

    @property
    def tested(self) -> Images:
        """Whatever is tested in some draw."""
        return self.train if self.test is None else self.test

    @property
    def spec(self) -> Spec:
        return Spec(self.image, self.classes, self.named, self.levels)


def rows_of_step(n: int, size: int, step: int, *name: int | str) -> Tensor:
    """Rows of batch `step` of an endless shuffled walk over n rows; all n, in order, if `size` is as large."""
    if size >= n:
        return torch.arange(n)
    epoch, i = divmod(step, n // size)
    return order(n, *name, epoch)[i * size : (i + 1) * size]


@lru_cache(maxsize=8)
def order(n: int, *name: int | str) -> Tensor:
    return torch.randperm(n, generator=stream(*name, "order"))


FITS = ("crop", "stretch", "letterbox")


def fitting(picture: Any, size: tuple[int, int], fit: str, how: Any, margin: int = 0) -> Any:
    """A Pillow image of this (width, height): cropped at the centre to the proportions and resized; or stretched; or whole,
    between margins of that value."""
    from PIL import ImageOps

    if fit == "stretch":
        return picture.resize(size, how)
    if fit == "letterbox":
        return ImageOps.pad(picture, size, how, color=(margin,) * 3 if picture.mode == "RGB" else margin)
    return ImageOps.fit(picture, size, how)


class Levels(NamedTuple):
    """The values, of files with more than 8 bits a pixel, that become black (0) and white (255)."""

    low: int
    high: int

    @staticmethod
    def spanning(low: int, high: int) -> "Levels":
        """The scale of images whose values lie between `low` and `high`: all values of the least number
        of bits that holds them (8 or more), or where they fill less than an eighth of these, or are
        negative, no more than `low` to `high`."""
        full = 2 ** max(8, high.bit_length()) - 1
        narrow = low < 0 or (full > 255 and low < high and high - low < full // 8)
        return Levels(low, high) if narrow else Levels(0, full)

    def bytes(self, values: Any) -> Any:
        """Whole numbers (an array) as uint8; those outside of the levels are black or white."""
        import numpy as np

        share = (values.astype(np.float64) - self.low) / (self.high - self.low + 1)
        return (share * 256).clip(0, 255).astype(np.uint8)


class Traits(NamedTuple):
    """What an image file holds that decoding cannot keep, or must scale."""

    span: tuple[int, int, int] | None = None  # of more than 8 bits in grey: lowest, 99.9th percentile, highest value
    deep: bool = False  # 16 bits in each of several channels, of which Pillow keeps the upper 8
    alpha: str = ""  # transparent: parts are, and their colours are taken; drawn: the picture was alpha's, now on a ground
    frames: int = 1  # or pages, of which the first is taken
    cmyk: bool = False
    turned: bool = False  # by its Exif orientation


def decode(
    content: bytes, image: tuple[int, int, int], fit: str = "crop", levels: tuple[int, int] | None = None, most: int | None = None
) -> Tensor:
    """An image file's content as uint8 [C, H, W]: upright, cropped at the centre to the wanted proportions, then resized; or
    fitted otherwise.

    `levels` scale files of more than 8 bits a pixel; `most` pixels are decoded, by default as many as Pillow allows. DataError
    says what is wrong with it: no image, cut off, or so many pixels that it may be a decompression bomb.
    """
    return look(content, image, fit, levels, most)[0]


def look(
    content: bytes, image: tuple[int, int, int], fit: str = "crop", levels: tuple[int, int] | None = None, most: int | None = None
) -> tuple[Tensor, Traits]:
    """(what `decode` gives, what decoding had to leave out or scale)."""
    import numpy as np
    from PIL import Image

    _, height, width = image
    picture, traits = opened(content, image[0], 2 * max(height, width), levels, most)
    picture = fitting(picture, (width, height), fit, Image.Resampling.BILINEAR)
    x_CHW = torch.from_numpy(np.array(picture)).reshape(height, width, image[0]).permute(2, 0, 1)
    return x_CHW, traits


def whole(content: bytes, channels: int, levels: tuple[int, int] | None = None) -> Tensor:
    """An image file's content in its own size, float [C, H, W] in [0, 1]. DataError as for `decode`."""
    import numpy as np

    picture, _ = opened(content, channels, None, levels)
    held = torch.from_numpy(np.array(picture)).reshape(picture.height, picture.width, channels)
    return held.permute(2, 0, 1).float().div(255)


ORIENTATION = 0x0112  # Exif's tag: 1 = upright
ANIMATED = ("GIF", "PNG", "TIFF", "WEBP")  # formats whose further images are frames or pages, and no previews


def opened(
    content: bytes, channels: int, least: int | None, levels: tuple[int, int] | None, most: int | None = None
) -> tuple[Any, Traits]:
    """The Pillow image, upright, in grey or colour; of a JPEG perhaps one whose sides are smaller, but `least` pixels or more.

    `levels` scale files of more than 8 bits a pixel; without them each is scaled by its own values.
    """
    import numpy as np
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with unpacked(content, most) as file:
            traits = Traits(
                deep=";16" in str(file.tile) and not file.mode.startswith("I"),
                frames=getattr(file, "n_frames", 1) if file.format in ANIMATED else 1,
                cmyk=file.mode == "CMYK",
                turned=file.getexif().get(ORIENTATION, 1) != 1,
            )
            if least:
                file.draft(None, (least, least))  # a large JPEG is decoded at a fraction of its size: 10 times faster
            picture = ImageOps.exif_transpose(file)
            if picture.mode.startswith("I"):  # more than 8 bits a pixel, which Pillow would clip to 255 and not scale
                values = np.asarray(picture)
                low, high = int(values.min()), int(values.max())
                traits = traits._replace(span=(low, int(np.percentile(values, 99.9)), high))
                picture = Image.fromarray((Levels(*levels) if levels else Levels.spanning(low, high)).bytes(values))
            elif picture.mode == "F":
                raise DataError("holds floating-point pixels, which have no known range; save it with 8 or 16 bits a pixel")
            picture, alpha = without_alpha(picture)
            return picture.convert("L" if channels == 1 else "RGB"), traits._replace(alpha=alpha)
    except DataError:
        raise
    except UnidentifiedImageError as error:
        raise DataError("is no image that Pillow reads" if content else "is empty") from error
    except Exception as error:  # Pillow's readers raise whatever a broken file leads them to
        raise DataError(f"cannot be decoded: {str(error) or type(error).__name__}") from error


class TooLarge(DataError):
    """An image of more pixels than may be decoded. Readers of data sets have a key for that, `most_pixels`."""


_opening = Lock()


def unpacked(content: bytes, most: int | None = None) -> Any:
    """The image file, none of whose pixels are decoded yet. DataError where it has more than `most` of them; null = Pillow's
    limit, which Pillow itself only warns of."""
    from PIL import Image

    with _opening:  # the limit is Pillow's own global, and other threads read it
        usual = Image.MAX_IMAGE_PIXELS
        Image.MAX_IMAGE_PIXELS = None
        try:
            file = Image.open(io.BytesIO(content), formats=formats())
        finally:
            Image.MAX_IMAGE_PIXELS = usual
    limit = most or usual
    if limit and file.width * file.height > limit:
        file.close()
        raise TooLarge(
            f"has {file.width} x {file.height} pixels, more than the limit of {limit:,}: it may be a decompression bomb"
        )
    return file


def without_alpha(picture: Any) -> tuple[Any, str]:
    """(the picture, `Traits.alpha`). Colours below transparent parts are taken as they are, unless there is
    one colour alone: then alpha is the picture, and is laid on white, or below a light colour on black."""
    from PIL import Image

    if "A" not in picture.getbands() and "transparency" not in picture.info:
        return picture, ""
    both = picture.convert("RGBA")
    low, high = both.getchannel("A").getextrema()
    if low == 255:
        return picture, ""
    colour = both.convert("RGB").getextrema()
    if low == high or any(least != most for least, most in colour):
        return picture, "transparent"
    light = sum(most for _, most in colour) > 3 * 127
    ground = Image.new("RGBA", picture.size, "black" if light else "white")
    ground.alpha_composite(both)
    return ground, "drawn"


@cache
def formats() -> tuple[str, ...]:
    """Pillow's formats, but for those that it knows and leaves to another program (EPS would start Ghostscript)."""
    from PIL import Image

    with suppress(ImportError):  # Apple's photographs: an extra that Pillow does not bring
        import_module("pillow_heif").register_heif_opener()
    Image.init()
    return tuple(name for name in Image.OPEN if name not in ("BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"))


@dataclass
class Dataset:
    """Where images and labels come from."""

    gives: ClassVar[tuple[str, ...]] = ("y",)  # what may be annotated: y, a class for each image; and targets by name
    unhashed: ClassVar[tuple[str, ...]] = (
        "root",
        "download",
        "workers",
    )  # fields that cannot change a result: the content is hashed

    def load(self) -> Corpus:
        """Reads everything once; DataError names the file and what would be right."""
        raise NotImplementedError


def fingerprint(*splits: Images | None) -> str:
    """SHA-256 of the pixels, labels and groups of splits in memory."""
    digest = hashlib.sha256()
    for images in splits:
        digest.update(b"split")
        if images is not None:
            x: Tensor = images.x if images.rows is None else images.x[images.rows]  # type: ignore[assignment,index]
            digest.update(repr((tuple(x.shape), images.groups)).encode())
            digest.update(x.contiguous().numpy().data)
            digest.update(images.y.numpy().data)
    return digest.hexdigest()
