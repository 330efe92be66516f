"""The common size of all images of a data set, and the options that set it."""

from dataclasses import dataclass
from typing import Any

from sft_exp.data.corpus import Dataset
from sft_exp.data.decode import FITS
from sft_exp.data.readers.files import require_decoding
from sft_exp.errors import require


@dataclass(frozen=True)
class Canvas:
    """The common size of all images, and how images are fitted to it."""

    image: tuple[int, int, int]  # C, H, W
    # crop the centre to the aspect ratio, stretch, or letterbox (with a black margin without
    # annotation)
    fit: str = "crop"

    @staticmethod
    def of(size: Any, channels: int, fit: str) -> "Canvas":
        """A canvas; `size` is a number of pixels, or [rows, columns]. ConfigError for invalid
        values."""
        sides = size if isinstance(size, list) else [size, size]
        whole = all(isinstance(s, int) and not isinstance(s, bool) and s > 0 for s in sides)
        valid = "a number of pixels above 0, or [rows, columns]"
        require(len(sides) == 2 and whole, "size", size, valid)
        require(fit in FITS, "fit", fit, ", ".join(FITS))
        return Canvas((channels, sides[0], sides[1]), fit)


class CanvasSet(Dataset):
    """The common fields of data sets whose images are fitted to a canvas."""

    root: str | None  # folder of the files
    size: Any  # pixels, or [rows, columns], of all images
    channels: int  # 3 = colour, 1 = grey
    fit: str  # how an image is brought to that size: crop (centre), stretch, letterbox
    most_pixels: int | None  # limit of the pixels of a decoded image
    memory: float  # GB of images and masks kept in memory; a larger set is decoded per batch
    workers: int  # worker processes that decode images

    def __post_init__(self):
        require_decoding(self)
        require(self.memory >= 0, "memory", self.memory, "0 or more")
        self.canvas = Canvas.of(self.size, self.channels, self.fit)
