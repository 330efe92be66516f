"""Draw the sample of the tutorial: 240 small pictures of leaves of five kinds, as JPEG files.

    python examples/draw_leaves.py leaves

makes leaves/labelled/<kind>/*.jpg (12 of each kind) and leaves/more/*.jpg (180 without a label), the same on every machine.
The kinds differ in outline alone: colour, size, direction, light and ground are drawn at random for every picture.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

Floats = NDArray[np.float64]
SIZE = 64  # pixels, height and width
OUTLINES: dict[str, Callable[[Floats], Floats]] = {  # angle -> radius, the tip at 0
    "birch": lambda a: (0.62 + 0.28 * np.cos(a)) * (1 + 0.06 * np.sign(np.sin(26 * a))),
    "ginkgo": lambda a: np.where(np.abs(a) < 1.1, 0.9 - 0.35 * np.exp(-((a / 0.12) ** 2)), 0.16),
    "maple": lambda a: 0.36 + 0.52 * np.abs(np.cos(2.5 * a)) ** 1.5 * (np.abs(a) < 2.6),
    "oak": lambda a: (0.58 + 0.24 * np.cos(a) ** 2) * (1 + 0.2 * np.cos(9 * a)),
    "willow": lambda a: 0.17 / np.sqrt(1 - 0.964 * np.cos(a) ** 2),
}


def leaf(kind: str, rng: np.random.Generator) -> Image.Image:
    """One picture of a leaf on a ground, at twice the size and scaled down."""
    wide = 2 * SIZE
    angle = np.linspace(-np.pi, np.pi, 360)
    radius = OUTLINES[kind](angle) * rng.normal(1, 0.02, len(angle))
    radius *= rng.uniform(0.62, 0.95) * wide / 2 / radius.max()
    turn, squeeze = rng.uniform(-np.pi, np.pi), rng.uniform(0.75, 1.0)
    x, y = radius * np.cos(angle), radius * np.sin(angle) * squeeze
    centre = wide / 2 + rng.uniform(-0.1, 0.1, 2) * wide
    points = np.stack([x * np.cos(turn) - y * np.sin(turn), x * np.sin(turn) + y * np.cos(turn)], 1)
    picture = ground(wide, rng)
    draw = ImageDraw.Draw(picture)
    colour = rng.uniform([90, 70, 10], [230, 190, 70])
    draw.polygon([tuple(p) for p in points + centre + 5], fill=(25, 22, 20))  # its shadow
    draw.polygon([tuple(p) for p in points + centre], fill=tuple(map(int, colour)))
    vein = np.array([[-0.9, 0], [0.85, 0]]) * radius.max()
    vein = vein @ np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]]) + centre
    draw.line([tuple(p) for p in vein], fill=tuple(map(int, colour * 0.6)), width=3)
    picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(0.5, 2.0)))
    light = np.linspace(rng.uniform(0.6, 1.1), rng.uniform(0.6, 1.1), wide)[:, None, None]
    pixels = np.asarray(picture) * light + rng.normal(0, 6, (wide, wide, 1))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).resize((SIZE, SIZE))


def ground(wide: int, rng: np.random.Generator) -> Image.Image:
    """A blotched surface in a random dull colour."""
    blotches = Image.fromarray(rng.integers(0, 255, (9, 9), np.uint8)).resize((wide, wide))
    grey = np.asarray(blotches, float)[..., None] / 255 - 0.5
    colour = rng.uniform([60, 60, 50], [170, 150, 140])
    return Image.fromarray((colour + 60 * grey).clip(0, 255).astype(np.uint8))


def main(folder: Path) -> None:
    kinds = sorted(OUTLINES)
    for n in range(240):
        kind, rng = kinds[n % len(kinds)], np.random.default_rng(n)
        place = folder / "labelled" / kind if n < 60 else folder / "more"
        place.mkdir(parents=True, exist_ok=True)
        leaf(kind, rng).save(place / f"{n:03}.jpg", quality=85)
    print(f"{folder}: 60 labelled pictures of {', '.join(kinds)}, 180 without a label")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "leaves"))
