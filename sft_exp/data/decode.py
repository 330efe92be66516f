"""Image files to uint8 tensors of one size: opened, oriented, fitted, and refused where they hold no picture."""

import io
from contextlib import suppress
from functools import cache
from importlib import import_module
from threading import Lock
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sft_exp.errors import DataError

ROWS = 256  # of an image that are scaled at once
FITS = ("crop", "stretch", "letterbox")


def fitting(picture: Any, size: tuple[int, int], fit: str, how: Any, margin: int = 0) -> Any:
    """A Pillow image of this (width, height): cropped at the centre to the proportions and resized; or stretched; or whole,
    between margins of that value."""
    from PIL import ImageOps

    if fit == "stretch":
        return picture.resize(size, how)
    if fit == "letterbox":
        return ImageOps.pad(
            picture, size, how, color=(margin,) * 3 if picture.mode == "RGB" else margin
        )
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
        """Whole numbers (an array [H, W]) as uint8; those outside of the levels are black or white.

        A few rows at a time: in float64 a whole image is eight times as large as the file's."""
        import numpy as np

        result = np.empty(values.shape, np.uint8)
        for start in range(0, len(values), ROWS):
            some = values[start : start + ROWS].astype(np.float64)
            share = (some - self.low) / (self.high - self.low + 1)
            result[start : start + ROWS] = (share * 256).clip(0, 255)
        return result


class Traits(NamedTuple):
    """What an image file holds that decoding cannot keep, or must scale."""

    # of more than 8 bits in grey: lowest, 99.9th percentile, highest value
    span: tuple[int, int, int] | None = None
    deep: bool = False  # 16 bits in each of several channels, of which Pillow keeps the upper 8
    # transparent: parts are, and their colours are taken; drawn: the picture was alpha's, now on a
    # ground
    alpha: str = ""
    frames: int = 1  # or pages, of which the first is taken
    cmyk: bool = False
    turned: bool = False  # by its Exif orientation
    format: str = ""  # Pillow's name of the file's format
    cut: bool = False  # a JPEG whose end is filled with grey
    bands: int = 0  # of a TIFF file with more than its colours and alpha, else 0
    kept: int = 0  # of these bands, the colours


def decode(
    content: bytes,
    image: tuple[int, int, int],
    fit: str = "crop",
    levels: tuple[int, int] | None = None,
    most: int | None = None,
) -> Tensor:
    """An image file's content as uint8 [C, H, W]: upright, cropped at the centre to the wanted proportions, then resized; or
    fitted otherwise.

    `levels` scale files of more than 8 bits a pixel; `most` pixels are decoded, by default as many as Pillow allows. DataError
    says what is wrong with it: no image, cut off, or so many pixels that it may be a decompression bomb.
    """
    return look(content, image, fit, levels, most)[0]


def look(
    content: bytes,
    image: tuple[int, int, int],
    fit: str = "crop",
    levels: tuple[int, int] | None = None,
    most: int | None = None,
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
PHOTOMETRIC = 262  # TIFF's tag: 0 = white is zero
SIDES = (256, 257)  # TIFF's tags: columns and rows as they are stored
SAMPLES = 277  # TIFF's tag: the number of bands
EXTRA = 338  # TIFF's tag: what each band beyond the colours is; 1 and 2 = alpha
COLOURS = {0: 1, 1: 1, 2: 3, 3: 1, 5: 4, 6: 3, 8: 3}  # photometric interpretation -> bands
# formats whose further images are frames or pages, and no previews
ANIMATED = ("GIF", "PNG", "TIFF", "WEBP")


def opened(
    content: bytes,
    channels: int,
    least: int | None,
    levels: tuple[int, int] | None,
    most: int | None = None,
) -> tuple[Any, Traits]:
    """The Pillow image, upright, in grey or colour; of a JPEG perhaps one whose sides are smaller, but `least` pixels or more.

    `levels` scale files of more than 8 bits a pixel; without them each is scaled by its own values.
    """
    import numpy as np
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with open_undecoded(content, most) as file:
            traits = Traits(
                deep=";16" in str(file.tile) and not file.mode.startswith("I"),
                frames=getattr(file, "n_frames", 1) if file.format in ANIMATED else 1,
                cmyk=file.mode == "CMYK",
                turned=file.getexif().get(ORIENTATION, 1) != 1,
                format=file.format or "",
            )
            # Pillow inverts such files of 8 bits alone
            white_is_zero = file.format == "TIFF" and file.tag_v2.get(PHOTOMETRIC) == 0
            bands, kept = further_bands(file)
            traits = traits._replace(bands=bands, kept=kept)
            if least:
                # a large JPEG is decoded at a fraction of its size: 10 times faster
                file.draft(None, (least, least))
            picture = ImageOps.exif_transpose(file) if traits.turned else file
            # more than 8 bits a pixel, which Pillow would clip to 255 and not scale
            if picture.mode.startswith("I"):
                values = np.asarray(picture)
                if white_is_zero and ";16" in picture.mode:
                    values = 65535 - values
                low, high = int(values.min()), int(values.max())
                traits = traits._replace(span=(low, int(np.percentile(values, 99.9)), high))
                picture = Image.fromarray(
                    (Levels(*levels) if levels else Levels.spanning(low, high)).bytes(values)
                )
            elif picture.mode == "F":
                raise DataError(
                    "holds floating-point pixels, which have no known range; save it with 8 or 16 bits a pixel"
                )
            traits = traits._replace(cut=traits.format == "JPEG" and filled_up(file))
            # Pillow takes a band of no stated meaning for alpha
            if bands and EXTRA not in file.tag_v2 and picture.mode == "RGBA":
                picture = picture.convert("RGB")
            picture, alpha = without_alpha(picture)
            return picture.convert("L" if channels == 1 else "RGB"), traits._replace(alpha=alpha)
    except DataError:
        raise
    except UnidentifiedImageError as error:
        raise DataError(instead(content)) from error
    except Exception as error:  # Pillow's readers raise whatever a broken file leads them to
        raise DataError(f"cannot be decoded: {str(error) or type(error).__name__}") from error


def further_bands(file: Any) -> tuple[int, int]:
    """(bands, those that are colours) of a TIFF file with bands that are neither colour nor alpha, such
    as infrared, which Pillow drops; else (0, 0)."""
    if file.format != "TIFF":
        return 0, 0
    bands, colours = file.tag_v2.get(SAMPLES, 1), COLOURS.get(file.tag_v2.get(PHOTOMETRIC), 0)
    meanings = file.tag_v2.get(EXTRA, ())
    alpha = any(meaning in (1, 2) for meaning in meanings)
    return (bands, colours) if colours and bands > colours + alpha else (0, 0)


def filled_up(picture: Any) -> bool:
    """Whether the last row of a decoded JPEG has the grey of absent data, and the first one has not.

    libjpeg takes a file that was cut off and closed by an end marker for whole, and leaves the blocks that are missing at
    coefficients of zero: the middle of the range. Bars that somebody drew are at both edges.
    """
    width, height = picture.size
    first, last = (picture.crop((0, y, width, y + 1)).getextrema() for y in (0, height - 1))
    absent = ((127, 127), (128, 128))  # CMYK is stored inverted
    return all(e in absent for e in bands(last)) and not all(e in absent for e in bands(first))


def bands(extremes: Any) -> tuple[tuple[int, int], ...]:
    """Pillow's extremes of each channel; of one channel it gives them alone."""
    return extremes if isinstance(extremes[0], tuple) else (extremes,)


def instead(content: bytes) -> str:
    """What a file holds that is no image, for a message."""
    start = content[:200].lstrip().lower()
    if not content:
        return "is empty"
    if not content.strip(b"\0"):
        return "holds zeros alone, as an interrupted copy does"
    if start.startswith(b"version https://git-lfs"):
        return "is a pointer of Git LFS and not the image: `git lfs pull` fetches it"
    if start.startswith((b"<!doctype html", b"<html")):
        return "is a web page, perhaps of a failed download"
    if content.startswith((b"II*\0", b"MM\0*")):
        return (
            "is a TIFF file whose bands, bits or numbers Pillow does not read; "
            "save it as grey or colour with 8 bits"
        )
    return "is no image that Pillow reads"


class TooLarge(DataError):
    """An image of more pixels than may be decoded. Readers of data sets have a key for that, `most_pixels`."""


_opening = Lock()


def open_undecoded(content: bytes, most: int | None = None) -> Any:
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


def upright_size(file: Any) -> tuple[int, int]:
    """(width, height) of an image of `open_undecoded` after it is turned upright by its Exif orientation."""
    # new releases of Pillow open a TIFF with its upright size, old ones with the stored size
    stored = tuple(map(file.tag_v2.get, SIDES)) if file.format == "TIFF" else file.size
    return stored[::-1] if file.getexif().get(ORIENTATION, 1) >= 5 else stored


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
    return tuple(
        name for name in Image.OPEN if name not in ("BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF")
    )
