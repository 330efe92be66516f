"""Boxes on an image's canvas: [M, 4] as x0 y0 x1 y1, in pixels from the left and upper edge.

Padded boxes have label 0. The canvas is the one size that all images of a data set have. An image
keeps its aspect ratio on it (a letterbox): it is resized until it touches two edges, and centred.
"""

from typing import NamedTuple

import torch
from torch import Tensor

SEEN = 0.25  # share of a box that must remain in the image for the box to be kept


class Letterbox(NamedTuple):
    """The position and size of an image on its canvas; `of` is the image's own (width, height)."""

    left: int
    top: int
    width: int
    height: int
    of: tuple[int, int]

    @staticmethod
    def fit(size: tuple[int, int], canvas: tuple[int, int]) -> "Letterbox":
        """Fit an image of `size` = (width, height) into `canvas` = (rows, columns).

        The rounding is that of Pillow's ImageOps.pad.
        """
        (width, height), (rows, columns) = size, canvas
        ratio, canvas_ratio = width / height, columns / rows
        w = columns if ratio >= canvas_ratio else round(ratio * rows)
        h = round(height / width * columns) if ratio > canvas_ratio else rows
        return Letterbox(round((columns - w) / 2), round((rows - h) / 2), w, h, size)

    def place(self, boxes_M4: Tensor) -> Tensor:
        """Map boxes in pixels of the image to pixels of the canvas."""
        return boxes_M4 * self._scale() + self._offset()

    def back(self, boxes_M4: Tensor) -> Tensor:
        """Map boxes in pixels of the canvas to pixels of the image, and clip them to the image."""
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
    """Pad boxes [M, 4] and labels [M] of several images to ([N, M, 4], [N, M]).

    M is `most`, or the largest number of boxes of an image.
    """
    most = max([1, *map(len, labels)]) if most is None else most
    boxes_NM4 = torch.zeros(len(boxes), most, 4)
    labels_NM = torch.zeros(len(boxes), most, dtype=torch.long)
    for n, (boxes_M4, labels_M) in enumerate(zip(boxes, labels, strict=True)):
        boxes_NM4[n, : len(boxes_M4)] = boxes_M4
        labels_NM[n, : len(labels_M)] = labels_M
    return boxes_NM4, labels_NM


def moved(
    boxes_BM4: Tensor, labels_BM: Tensor, window_B23: Tensor, size: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Transform boxes like images that are resampled by an affine map.

    The result is the upright box around the transformed corners, clipped to the image. A box of
    which less than a quarter or less than a pixel remains gets label 0. `window_B23` maps positions
    in the new image to positions in the old one, both in [-1, 1] across each side, as for
    `F.affine_grid`; `size` is (rows, columns).
    """
    height, width = size
    side = torch.tensor([width, height], device=boxes_BM4.device)
    linear_B22, shift_B2 = window_B23[:, :, :2], window_B23[:, :, 2]
    x0_BM, y0_BM, x1_BM, y1_BM = boxes_BM4.unbind(2)
    corners_BM42 = torch.stack(
        [x0_BM, y0_BM, x1_BM, y0_BM, x0_BM, y1_BM, x1_BM, y1_BM], 2
    ).unflatten(2, (4, 2))
    old_BM42 = 2 * corners_BM42 / side - 1 - shift_B2[:, None, None]
    new_BM42 = torch.linalg.solve(linear_B22, old_BM42.flatten(1, 2).mT).mT.view_as(old_BM42)
    new_BM42 = (new_BM42 + 1) / 2 * side
    whole_BM4 = torch.cat([new_BM42.amin(2), new_BM42.amax(2)], 2)
    clipped_BM4 = whole_BM4.clamp_min(0).minimum(side.repeat(2))
    too_thin_BM = (clipped_BM4[..., 2:] - clipped_BM4[..., :2]).amin(2) < 1
    lost_BM = (area(clipped_BM4) < SEEN * area(whole_BM4)) | too_thin_BM
    labels_BM = labels_BM.masked_fill(lost_BM, 0)
    return clipped_BM4 * (labels_BM > 0)[..., None], labels_BM


def area(boxes: Tensor) -> Tensor:
    """Areas [...] of boxes [..., 4]."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])
