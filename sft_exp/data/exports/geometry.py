"""Upright boxes around the shapes of annotations, in pixels: (left, top, right, bottom)."""

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

from sft_exp.errors import DataError

Corners = tuple[float, float, float, float]
Outline = tuple[float, ...]  # x, y, x, y, ... of a closed polygon
ELLIPSE_CORNERS = 180  # corners of the polygon that approximates an ellipse
NOWHERE: Corners = (math.nan,) * 4  # an annotation without a box, which the reader of boxes reports


class Shape(NamedTuple):
    """A shape: the upright box around it, and its outlines; none where they are unknown."""

    corners: Corners
    outlines: tuple[Outline, ...] = ()


def polygon(points: Iterable[Any], where: str) -> Shape:
    """A polygon, from its corners x, y, x, y, ... DataError if it has fewer than two points."""
    values = list(points)
    corners = bounds(values, where)
    return Shape(corners, (tuple(map(float, values)),))


def box(corners: Corners, degrees: float = 0.0, centre: tuple[float, float] = (0.0, 0.0)) -> Shape:
    """A box that is rotated clockwise on the screen (y points down) about a point."""
    x0, y0, x1, y1 = corners
    outline = rotated_points(((x0, y0), (x1, y0), (x1, y1), (x0, y1)), degrees, centre)
    return Shape(rotated_bounds(corners, degrees, centre), (outline,))


def ellipse(x: float, y: float, rx: float, ry: float, degrees: float = 0.0) -> Shape:
    """An ellipse of these half-axes, rotated clockwise on the screen about its centre (x, y)."""
    angles = [2 * math.pi * n / ELLIPSE_CORNERS for n in range(ELLIPSE_CORNERS)]
    points = [(x + rx * math.cos(a), y + ry * math.sin(a)) for a in angles]
    return Shape(ellipse_bounds(x, y, rx, ry, degrees), (rotated_points(points, degrees, (x, y)),))


def rotated_points(
    points: Iterable[tuple[float, float]], degrees: float, centre: tuple[float, float]
) -> Outline:
    """Points rotated clockwise on the screen (y points down) about a point."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    cx, cy = centre
    offsets = [(x - cx, y - cy) for x, y in points]
    return tuple(v for x, y in offsets for v in (cx + c * x - s * y, cy + s * x + c * y))


def number(value: Any, where: str) -> float:
    """The value as a finite float. DataError if it is none."""
    try:
        result = float(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise DataError(f"{where}: {value!r} is no number") from error
    if not math.isfinite(result):
        raise DataError(f"{where}: {value!r} is no finite number")
    return result


def stated_size(width: Any, height: Any) -> tuple[int, int] | None:
    """The (width, height) of an image; programs write 64 also as "64" and 64.0. None for values
    that are no sides of an image, such as 0 or an empty text."""
    try:
        sides = float(width), float(height)
    except (TypeError, ValueError, OverflowError):
        return None
    whole = all(side.is_integer() and side > 0 for side in sides)
    return (int(sides[0]), int(sides[1])) if whole else None


def flag(value: Any) -> bool:
    """Whether a value means yes: 1, true, "1", "true"; all other text means no, as "0" does."""
    text = str(value).strip().casefold()
    try:
        return float(text) != 0
    except ValueError:
        return text in ("true", "yes")


def bounds(points: Iterable[Any], where: str) -> Corners:
    """The box around a polygon x, y, x, y, ... DataError if it has fewer than two points."""
    values = [number(v, where) for v in points]
    if len(values) < 4 or len(values) % 2:
        raise DataError(f"{where}: {len(values)} numbers make no polygon of pairs x, y")
    return min(values[::2]), min(values[1::2]), max(values[::2]), max(values[1::2])


def rotated_bounds(corners: Corners, degrees: float, centre: tuple[float, float]) -> Corners:
    """The box around a box that is rotated clockwise on the screen (y points down) about a
    point."""
    if not degrees:
        return corners
    x0, y0, x1, y1 = corners
    points = [(x, y) for x in (x0, x1) for y in (y0, y1)]
    return bounds(rotated_points(points, degrees, centre), "")


def ellipse_bounds(x: float, y: float, rx: float, ry: float, degrees: float = 0.0) -> Corners:
    """The box around the same ellipse."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    half_width, half_height = math.hypot(rx * c, ry * s), math.hypot(rx * s, ry * c)
    return x - half_width, y - half_height, x + half_width, y + half_height


def flattened(pairs: Any, where: str) -> list[Any]:
    """[[x, y], ...] as [x, y, ...]. DataError for other values."""
    if not isinstance(pairs, list) or not all(isinstance(pair, list) for pair in pairs):
        raise DataError(f"{where}: the points are no list of pairs x, y")
    return [v for pair in pairs for v in pair]
