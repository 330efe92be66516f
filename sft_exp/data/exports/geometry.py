"""Upright boxes around the shapes of annotations, in pixels: (left, top, right, bottom)."""

import math
from collections.abc import Iterable
from typing import Any

from sft_exp.errors import DataError

Corners = tuple[float, float, float, float]
NOWHERE: Corners = (math.nan,) * 4  # of an annotation without a box; the reader of boxes reports it


def number(value: Any, where: str) -> float:
    """The value as a finite float. DataError if it is none."""
    try:
        result = float(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise DataError(f"{where}: {value!r} is no number") from error
    if not math.isfinite(result):
        raise DataError(f"{where}: {value!r} is no finite number")
    return result


def around(points: Iterable[Any], where: str) -> Corners:
    """The box around a polygon x, y, x, y, ... DataError if it has fewer than two points."""
    values = [number(v, where) for v in points]
    if len(values) < 4 or len(values) % 2:
        raise DataError(f"{where}: {len(values)} numbers make no polygon of pairs x, y")
    return min(values[::2]), min(values[1::2]), max(values[::2]), max(values[1::2])


def rotated(corners: Corners, degrees: float, centre: tuple[float, float]) -> Corners:
    """The box around a box that is rotated clockwise on the screen (y points down) about a
    point."""
    if not degrees:
        return corners
    x0, y0, x1, y1 = corners
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    cx, cy = centre
    offsets = [(x - cx, y - cy) for x in (x0, x1) for y in (y0, y1)]
    return around([v for x, y in offsets for v in (cx + c * x - s * y, cy + s * x + c * y)], "")


def ellipse(x: float, y: float, rx: float, ry: float, degrees: float = 0.0) -> Corners:
    """The box around an ellipse that is rotated by this angle."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    wide, high = math.hypot(rx * c, ry * s), math.hypot(rx * s, ry * c)
    return x - wide, y - high, x + wide, y + high


def flat(pairs: Any, where: str) -> list[Any]:
    """[[x, y], ...] as [x, y, ...]. DataError for other values."""
    if not isinstance(pairs, list) or not all(isinstance(pair, list) for pair in pairs):
        raise DataError(f"{where}: the points are no list of pairs x, y")
    return [v for pair in pairs for v in pair]
