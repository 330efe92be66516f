"""The common size of all images of a data set, and the options that set it."""

from dataclasses import dataclass
from typing import Any

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


def canvas_of(options: Any) -> Canvas:
    """The canvas of a data set with these options. ConfigError unless they are valid, with those by
    which files are decoded."""
    require_decoding(options)
    require(options.memory >= 0, "memory", options.memory, "0 or more")
    return Canvas.of(options.size, options.channels, options.fit)
