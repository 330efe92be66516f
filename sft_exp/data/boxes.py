"""Boxes of an image on its canvas: [M, 4], x0 y0 x1 y1 in pixels from the left and upper edge; padded, label 0 is no box.

A canvas is the one size that all images of a data set have. An image keeps its proportions on it (a letterbox): it is resized
until it touches two edges, and lies in the middle.
"""

from typing import NamedTuple

import torch
from torch import Tensor

SEEN = 0.25  # share of a box that must still be in the picture for it to be one


class Letterbox(NamedTuple):
    """Where an image lies on its canvas: at (left, top), `width` x `height` pixels there, of `of` pixels (width, height)."""

    left: int
    top: int
    width: int
    height: int
    of: tuple[int, int]

    @staticmethod
    def fit(size: tuple[int, int], canvas: tuple[int, int]) -> "Letterbox":
        """`size` = (width, height) of the image, `canvas` = (rows, columns); as Pillow's ImageOps.pad does it."""
        (width, height), (rows, columns) = size, canvas
        wide = width / height > columns / rows
        w = columns if wide or width / height == columns / rows else round(width / height * rows)
        h = round(height / width * columns) if wide else rows
        return Letterbox(round((columns - w) / 2), round((rows - h) / 2), w, h, size)

    def place(self, boxes_M4: Tensor) -> Tensor:
        """Boxes of the image, on the canvas."""
        return boxes_M4 * self._scale() + self._offset()

    def back(self, boxes_M4: Tensor) -> Tensor:
        """Boxes on the canvas, in pixels of the image, inside of it."""
        width, height = self.of
        most = torch.tensor([width, height, width, height])
        return ((boxes_M4 - self._offset()) / self._scale()).clamp_min(0).minimum(most)

    def _scale(self) -> Tensor:
        return torch.tensor([self.width / self.of[0], self.height / self.of[1]]).repeat(2)

    def _offset(self) -> Tensor:
        return torch.tensor([self.left, self.top]).repeat(2)


def pad(
    boxes: list[Tensor], labels: list[Tensor], most: int | None = None
) -> tuple[Tensor, Tensor]:
    """Boxes [M, 4] and labels [M] of several images as ([N, M, 4], [N, M]), M that of the image with most (or `most`)."""
    most = max([1, *map(len, labels)]) if most is None else most
    boxes_NM4, labels_NM = (
        torch.zeros(len(boxes), most, 4),
        torch.zeros(len(boxes), most, dtype=torch.long),
    )
    for n, (b, l) in enumerate(zip(boxes, labels, strict=True)):
        boxes_NM4[n, : len(b)], labels_NM[n, : len(l)] = b, l
    return boxes_NM4, labels_NM


def moved(
    boxes_BM4: Tensor, labels_BM: Tensor, window_B23: Tensor, size: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """The boxes after `F.affine_grid(window)` has resampled the images: the upright box around the moved corners, as much of it
    as is in the picture. One of which less than a quarter is left, or less than a pixel, is none any more: label 0.

    `window` says for each place in the new image, in [-1, 1] across either side, where in the old one it was; `size` = (rows,
    columns).
    """
    height, width = size
    side = torch.tensor([width, height], device=boxes_BM4.device)
    linear_B22, shift_B2 = window_B23[:, :, :2], window_B23[:, :, 2]
    x0_BM, y0_BM, x1_BM, y1_BM = boxes_BM4.unbind(2)
    corners_BM42 = torch.stack(
        [x0_BM, y0_BM, x1_BM, y0_BM, x0_BM, y1_BM, x1_BM, y1_BM], 2
    ).unflatten(2, (4, 2))
    old_BM42 = 2 * corners_BM42 / side - 1 - shift_B2[:, None, None]
    new_BM42 = (
        (torch.linalg.solve(linear_B22, old_BM42.flatten(1, 2).mT).mT.view_as(old_BM42) + 1)
        / 2
        * side
    )
    whole_BM4 = torch.cat([new_BM42.amin(2), new_BM42.amax(2)], 2)
    left_BM4 = whole_BM4.clamp_min(0).minimum(side.repeat(2))
    gone_BM = (area(left_BM4) < SEEN * area(whole_BM4)) | (
        (left_BM4[..., 2:] - left_BM4[..., :2]).amin(2) < 1
    )
    labels_BM = labels_BM.masked_fill(gone_BM, 0)
    return left_BM4 * (labels_BM > 0)[..., None], labels_BM


def area(boxes: Tensor) -> Tensor:
    """[..., 4] -> [...]"""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])
