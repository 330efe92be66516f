"""Prediction of large images in overlapping windows of the model's size, blended with weights."""

from collections.abc import Callable
from math import ceil

import torch
import torch.nn.functional as F
from torch import Tensor

OVERLAP = 0.25  # minimum share of a window's side
AT_ONCE = 8  # windows in a batch


def tiled(predict: Callable[[Tensor], Tensor], x_CHW: Tensor, window: tuple[int, int]) -> Tensor:
    """Predictions [Y, H, W] for an image of any size.

    `predict` maps [B, C, *window] -> [B, Y, *window]. A smaller image is padded by replicating its
    border.
    """
    height, width = x_CHW.shape[1:]
    missing = (max(0, window[0] - height), max(0, window[1] - width))
    x_CHW = F.pad(x_CHW[None], (0, missing[1], 0, missing[0]), mode="replicate")[0]
    slices = [
        (slice(top, top + window[0]), slice(left, left + window[1]))
        for top in starts(x_CHW.shape[1], window[0])
        for left in starts(x_CHW.shape[2], window[1])
    ]
    weight_HW = ramp(window[0])[:, None] * ramp(window[1])
    total, weights = torch.zeros(()), torch.zeros(x_CHW.shape[1:])
    for first in range(0, len(slices), AT_ONCE):
        batch = slices[first : first + AT_ONCE]
        y_BYHW = predict(torch.stack([x_CHW[:, rows, columns] for rows, columns in batch]))
        if not total.dim():
            total = torch.zeros(y_BYHW.shape[1], *x_CHW.shape[1:])
        for (rows, columns), y_YHW in zip(batch, y_BYHW, strict=True):
            total[:, rows, columns] += y_YHW * weight_HW
            weights[rows, columns] += weight_HW
    return (total / weights)[:, :height, :width]


def starts(length: int, window: int) -> list[int]:
    """Evenly spaced starts of windows, from the image's beginning to its end."""
    if length <= window:
        return [0]
    count = ceil((length - window) / (window * (1 - OVERLAP))) + 1
    return [round(n * (length - window) / (count - 1)) for n in range(count)]


def ramp(size: int) -> Tensor:
    """Weights [size] that rise from near 0 at the ends to 1 in the middle, never 0."""
    position = (torch.arange(size) + 0.5) / size
    return (1 - (2 * position - 1).abs()).clamp(min=1e-3)
