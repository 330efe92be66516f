"""Masks that are drawn from the outlines of an export when they are read."""

import io
from dataclasses import dataclass

from sft_exp.data.decode import open_undecoded, upright_size
from sft_exp.data.exports.annotated import AnnotatedImage
from sft_exp.data.exports.geometry import Outline
from sft_exp.data.readers.files import content_of
from sft_exp.errors import DataError


@dataclass(frozen=True)
class Drawn:
    """A mask that is drawn when it is read, in place of a file."""

    image: AnnotatedImage
    filled: tuple[tuple[int, Outline], ...]  # (value, outline) in the order of drawing
    most_pixels: int | None

    def __str__(self) -> str:
        return f"{self.image.source} of {self.image.path}"

    def is_file(self) -> bool:
        return True

    def read_bytes(self) -> bytes:
        """The mask as the content of a PNG file."""
        from PIL import Image, ImageDraw

        size, stated = self.upright(), self.image.size
        if stated not in (None, size):
            problem = "pixels, and its image as it is shown"
            raise DataError(
                f"{self}: is of {stated[0]} x {stated[1]} {problem} {size[0]} x {size[1]}"
            )
        picture = Image.new("L", size)
        draw = ImageDraw.Draw(picture)
        for value, outline in self.filled:
            draw.polygon(list(zip(outline[::2], outline[1::2], strict=True)), fill=value)
        content = io.BytesIO()
        picture.save(content, "PNG", compress_level=1)
        return content.getvalue()

    def upright(self) -> tuple[int, int]:
        """(width, height) of the image as it is shown."""
        with open_undecoded(content_of(self.image.path), self.most_pixels) as picture:
            return upright_size(picture)
