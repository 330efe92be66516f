"""Pictures for tests that read files."""

import numpy as np
from PIL import Image


def noise(number, size=(16, 16), mode="RGB"):
    """A picture that no other number gives."""
    pixels = np.random.default_rng(number).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def save(path, picture, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, **options)
    return path
