"""Augmented views of a whole batch, on its device. Every number is drawn from the step's stream before any pixel moves.

A view is one affine resampling (crop, flip, rotation, shear, shift), one linear map of the colours (brightness, contrast,
saturation, hue, grey), one blur and one cutout, with numbers of its own for each image. The operations and their ranges are
SimCLR's (Chen et al., arXiv:2002.05709, appendix A) with three simplifications that let a batch be done at once: colours
change in a fixed order, hue is turned in YIQ, and values are clipped to [0, 1] once, at the end.
"""

from math import log, pi, sqrt

import torch
import torch.nn.functional as F
from torch import Tensor

from sft_exp.config.schema import AugmentConfig
from sft_exp.core.rng import Stream
from sft_exp.data import boxes

# drawn for each image, whether used or not, so that one switch changes no other operation's numbers
NUMBERS = 20
COLOUR_CHANCE = 0.8
OUTSIDE = 255  # value of a mask where nothing is known
# share of the image that a cutout takes; most of its width to its height
CUT, CUT_RATIO = ([0.05, 0.33], 2.0)
TO_YIQ = torch.tensor(
    [[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]],
    dtype=torch.float64,
)
FROM_YIQ = torch.linalg.inv(TO_YIQ)


def view(x_BCHW: Tensor, how: AugmentConfig, rng: Stream) -> Tensor:
    """Another view of each image of [0, 1], in its size."""
    u = drawn(x_BCHW, rng)
    return repainted(resample(x_BCHW, how, u[:7]), how, u)


def view_with_mask(
    x_BCHW: Tensor, mask_BHW: Tensor, how: AugmentConfig, rng: Stream
) -> tuple[Tensor, Tensor]:
    """The same, and the masks [B, H, W] or [B, M, H, W], whole numbers from 0 on, as they are seen there: the nearest pixel's
    value, OUTSIDE where the view leaves the image."""
    u = drawn(x_BCHW, rng)
    grid_BHW2 = places(x_BCHW.shape, how, u[:7])
    if grid_BHW2 is None:
        return repainted(x_BCHW, how, u), mask_BHW
    mask_BMHW = mask_BHW if mask_BHW.dim() == 4 else mask_BHW[:, None]
    moved_BMHW = (
        F.grid_sample(mask_BMHW + 1.0, grid_BHW2, mode="nearest", align_corners=False).long() - 1
    )
    moved_BMHW = moved_BMHW.where(moved_BMHW >= 0, OUTSIDE)
    return repainted(sampled(x_BCHW, grid_BHW2), how, u), moved_BMHW.view_as(mask_BHW)


def view_with_boxes(
    x_BCHW: Tensor, boxes_BM4: Tensor, labels_BM: Tensor, how: AugmentConfig, rng: Stream
) -> tuple[Tensor, Tensor, Tensor]:
    """The same, and the boxes [B, M, 4] as they are seen there, with their labels [B, M]: 0 for one that is gone."""
    u = drawn(x_BCHW, rng)
    window_B23 = window(x_BCHW.shape, how, u[:7])
    if window_B23 is None:
        return repainted(x_BCHW, how, u), boxes_BM4, labels_BM
    boxes_BM4, labels_BM = boxes.moved(
        boxes_BM4, labels_BM, window_B23, (x_BCHW.shape[2], x_BCHW.shape[3])
    )
    return repainted(resample(x_BCHW, how, u[:7]), how, u), boxes_BM4, labels_BM


def drawn(x_BCHW: Tensor, rng: Stream) -> tuple[Tensor, ...]:
    return rng.rand(len(x_BCHW), NUMBERS).unbind(1)


def repainted(x_BCHW: Tensor, how: AugmentConfig, u: tuple[Tensor, ...]) -> Tensor:
    """All that moves no pixel."""
    x_BCHW = recolour(x_BCHW, how, u[7:13])
    x_BCHW = blur(x_BCHW, how, u[13:15])
    return cut_out(x_BCHW, how, u[15:20])


def within(pair: list[float], u_B: Tensor) -> Tensor:
    """From the first of the pair to the second, as u goes from 0 to 1."""
    return pair[0] + (pair[1] - pair[0]) * u_B


def either(most: float, u_B: Tensor) -> Tensor:
    """From -most to most, as u goes from 0 to 1."""
    return most * (2 * u_B - 1)


def resample(x_BCHW: Tensor, how: AugmentConfig, u: tuple[Tensor, ...]) -> Tensor:
    """The window's pixels, turned and sheared, in the image's size; bilinear, and black outside of the image."""
    grid_BHW2 = places(x_BCHW.shape, how, u)
    return x_BCHW if grid_BHW2 is None else sampled(x_BCHW, grid_BHW2)


def sampled(x_BCHW: Tensor, grid_BHW2: Tensor) -> Tensor:
    return F.grid_sample(
        x_BCHW, grid_BHW2, mode="bilinear", padding_mode="zeros", align_corners=False
    )


def places(shape: torch.Size, how: AugmentConfig, u: tuple[Tensor, ...]) -> Tensor | None:
    """Where in the image each pixel of the view is looked up, (x, y) in [-1, 1] [B, H, W, 2]; None where it stays."""
    window_B23 = window(shape, how, u)
    if window_B23 is None:
        return None
    # As F.affine_grid, which multiplies matrices of three columns and takes 6 to 25 times as long.
    x_W, y_H = (
        ((2 * torch.arange(n, device=window_B23.device) + 1) / n - 1) for n in (shape[3], shape[2])
    )
    rows_B2H = window_B23[:, :, 1, None] * y_H + window_B23[:, :, 2, None]
    return (window_B23[:, :, 0, None, None] * x_W + rows_B2H[..., None]).permute(0, 2, 3, 1)


def window(shape: torch.Size, how: AugmentConfig, u: tuple[Tensor, ...]) -> Tensor | None:
    """The affine map from places in the view to places in the image, either in [-1, 1] across each side [B, 2, 3]; or None."""
    if (
        how.crop == [1, 1]
        and how.ratio == 1
        and not (how.flip or how.rotate or how.shear or how.shift)
    ):
        return None
    height, width = shape[2:]
    area_B, ratio_B = within(how.crop, u[0]), (either(log(how.ratio), u[1]) / 2).exp()
    most = max(1.0, sqrt(how.crop[1]))
    w_B, h_B = (area_B.sqrt() * ratio_B).clamp(max=most), (area_B.sqrt() / ratio_B).clamp(max=most)
    x0_B = either(1, u[2]) * ((1 - w_B).abs() + 2 * how.shift)
    y0_B = either(1, u[3]) * ((1 - h_B).abs() + 2 * how.shift)
    w_B = torch.where(u[4] < how.flip, -w_B, w_B)
    turn_B = either(how.rotate * pi / 180, u[5])
    slant_B = either(how.shear * pi / 180, u[6]).tan()
    cos_B, sin_B = turn_B.cos(), turn_B.sin()
    # Across either side of the image it is -1 to 1, so a turn of pixels needs the image's proportions.
    top_B3 = torch.stack([cos_B * w_B, (cos_B * slant_B - sin_B) * h_B * height / width, x0_B], 1)
    bottom_B3 = torch.stack(
        [sin_B * w_B * width / height, (sin_B * slant_B + cos_B) * h_B, y0_B], 1
    )
    return torch.stack([top_B3, bottom_B3], 1)


def recolour(x_BCHW: Tensor, how: AugmentConfig, u: tuple[Tensor, ...]) -> Tensor:
    """Brightness, contrast, saturation, hue and grey as one affine map of each pixel's channels, clipped to [0, 1]."""
    colours = x_BCHW.shape[1] == 3
    if not how.jitter and not (how.grey and colours):
        return x_BCHW
    strength_B = how.jitter * (u[0] < COLOUR_CHANCE)
    bright_B, contrast_B, saturation_B = (1 + 0.8 * strength_B * either(1, v) for v in u[1:4])
    if colours:
        saturation_B = saturation_B * (u[5] >= how.grey)
        hue_B = 0.4 * pi * strength_B * either(1, u[4])
        cos_B, sin_B, zero_B = (
            saturation_B * hue_B.cos(),
            saturation_B * hue_B.sin(),
            torch.zeros_like(hue_B),
        )
        yiq_B33 = torch.stack(
            [zero_B + 1, zero_B, zero_B, zero_B, cos_B, -sin_B, zero_B, sin_B, cos_B], 1
        ).unflatten(1, (3, 3))
        colours_BCC, luma_C = (
            FROM_YIQ.to(x_BCHW) @ yiq_B33 @ TO_YIQ.to(x_BCHW),
            TO_YIQ[0].to(x_BCHW),
        )
    else:
        channels = x_BCHW.shape[1]
        colours_BCC = torch.eye(channels).to(x_BCHW).expand(len(x_BCHW), -1, -1)
        luma_C = x_BCHW.new_full((channels,), 1 / channels)
    mean_B = (colours_BCC @ x_BCHW.mean((2, 3))[..., None])[..., 0] @ luma_C
    gain_B, offset_B = bright_B * contrast_B, bright_B * (1 - contrast_B) * mean_B
    map_BCC = gain_B[:, None, None] * colours_BCC
    return (
        torch.baddbmm(offset_B[:, None, None], map_BCC, x_BCHW.flatten(2))
        .clamp_(0, 1)
        .view_as(x_BCHW)
    )


def blur(x_BCHW: Tensor, how: AugmentConfig, u: tuple[Tensor, ...]) -> Tensor:
    """Gaussian blur of rows, then columns, each a product with a matrix of weights that sum to 1 up to the border."""
    if not how.blur:
        return x_BCHW
    # so narrow that it changes nothing
    sigma_B = within(how.sigma, u[1]).where(u[0] < how.blur, 1e-3)

    def weights_BSS(size: int) -> Tensor:
        at_S = torch.arange(size, device=x_BCHW.device)
        return (-((at_S[:, None] - at_S) ** 2) / (2 * sigma_B[:, None, None] ** 2)).softmax(2)

    rows_B1HH, columns_B1WW = (
        weights_BSS(x_BCHW.shape[2])[:, None],
        weights_BSS(x_BCHW.shape[3])[:, None],
    )
    return rows_B1HH @ x_BCHW @ columns_B1WW.mT


def cut_out(x_BCHW: Tensor, how: AugmentConfig, u: tuple[Tensor, ...]) -> Tensor:
    """A black rectangle inside the image. DeVries & Taylor, arXiv:1708.04552; sizes of Zhong et al., arXiv:1708.04896."""
    if not how.cutout:
        return x_BCHW
    area_B, ratio_B = within(CUT, u[1]), (either(log(CUT_RATIO), u[2]) / 2).exp()

    def inside_BS(size: int, share_B: Tensor, u_B: Tensor) -> Tensor:
        at_S, start_B = (torch.arange(size, device=x_BCHW.device) + 0.5) / size, u_B * (1 - share_B)
        return (at_S >= start_B[:, None]) & (at_S < (start_B + share_B)[:, None])

    rows_BH = inside_BS(x_BCHW.shape[2], area_B.sqrt() / ratio_B, u[3])
    columns_BW = inside_BS(x_BCHW.shape[3], area_B.sqrt() * ratio_B, u[4])
    gone_BHW = rows_BH[:, :, None] & columns_BW[:, None, :] & (u[0] < how.cutout)[:, None, None]
    return x_BCHW.masked_fill(gone_BHW[:, None], 0.0)
