"""Large images, predicted in overlapping windows of the size that a model knows, whose predictions fade into each other."""

from collections.abc import Callable
from math import ceil

import torch
import torch.nn.functional as F
from torch import Tensor

OVERLAP = 0.25  # of a window's side, at least
AT_ONCE = 8  # windows


def tiled(predict: Callable[[Tensor], Tensor], x_CHW: Tensor, window: tuple[int, int]) -> Tensor:
    """Predictions [Y, H, W] for an image of any size, of a function [B, C, *window] -> [B, Y, *window]. An image that is smaller
    is continued by its border."""
    high, wide = x_CHW.shape[1:]
    short = (max(0, window[0] - high), max(0, window[1] - wide))
    x_CHW = F.pad(x_CHW[None], (0, short[1], 0, short[0]), mode="replicate")[0]
    tops, lefts = starts(x_CHW.shape[1], window[0]), starts(x_CHW.shape[2], window[1])
    places = [(top, left) for top in tops for left in lefts]
    weight_HW = ramp(window[0])[:, None] * ramp(window[1])
    total, weights = torch.zeros(()), torch.zeros(x_CHW.shape[1:])
    for first in range(0, len(places), AT_ONCE):
        some = places[first : first + AT_ONCE]
        found = predict(
            torch.stack([x_CHW[:, t : t + window[0], left : left + window[1]] for t, left in some])
        )
        if not total.dim():
            total = torch.zeros(found.shape[1], *x_CHW.shape[1:])
        for (top, left), y_YHW in zip(some, found, strict=True):
            rows, columns = slice(top, top + window[0]), slice(left, left + window[1])
            total[:, rows, columns] += y_YHW * weight_HW
            weights[rows, columns] += weight_HW
    return (total / weights)[:, :high, :wide]


def starts(length: int, window: int) -> list[int]:
    """Where windows begin, evenly spaced, so that the first and the last end with the image."""
    if length <= window:
        return [0]
    count = ceil((length - window) / (window * (1 - OVERLAP))) + 1
    return [round(n * (length - window) / (count - 1)) for n in range(count)]


def ramp(size: int) -> Tensor:
    """From little at the ends to 1 in the middle, never 0."""
    at = (torch.arange(size) + 0.5) / size
    return (1 - (2 * at - 1).abs()).clamp(min=1e-3)
