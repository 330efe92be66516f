"""Random augmentation of a whole batch, on the batch's device.

A view is one affine resampling (crop, flip, rotation, shear, shift), one linear map of the colours
(brightness, contrast, saturation, hue, grey), one blur and one cutout, with random numbers per
image. All numbers are drawn from the step's stream first. The operations and their ranges are
SimCLR's (Chen et al., arXiv:2002.05709, appendix A) with three simplifications that make them
batchable: colours change in a fixed order, hue is rotated in YIQ, and values are clipped to [0, 1]
once, at the end.
"""

from math import log, pi, sqrt

import torch
import torch.nn.functional as F
from torch import Tensor

from sft_exp.config.schema import AugmentConfig
from sft_exp.core.device import to_device
from sft_exp.core.rng import Stream
from sft_exp.data import boxes, library_transforms
from sft_exp.data.library_transforms import OUTSIDE

# Uniform numbers per image. All are drawn even if unused, so that switching one operation on or
# off does not change the numbers of the others.
NUMBERS = 20
COLOUR_CHANCE = 0.8
# range of the cutout's share of the image's area; largest aspect ratio
CUT, CUT_RATIO = ([0.05, 0.33], 2.0)
TO_YIQ = torch.tensor(
    [[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]],
    dtype=torch.float64,
)
FROM_YIQ = torch.linalg.inv(TO_YIQ)


def view(x_BCHW: Tensor, config: AugmentConfig, rng: Stream) -> Tensor:
    """An augmented view of each image, in the same size; values are in [0, 1]."""
    u = draw_numbers(x_BCHW, rng)
    x_BCHW = change_pixels(resample(x_BCHW, config, u[:7]), config, u)
    if config.transforms:
        x_BCHW, *_ = library_transforms.transformed(x_BCHW, config.transforms, rng)
    return x_BCHW


def view_with_mask(
    x_BCHW: Tensor, mask_BHW: Tensor, config: AugmentConfig, rng: Stream
) -> tuple[Tensor, Tensor]:
    """A view of images and of their integer masks [B, H, W] or [B, M, H, W], values from 0 on.

    Masks are resampled by nearest neighbour, and are OUTSIDE where the view leaves the image.
    """
    u = draw_numbers(x_BCHW, rng)
    mask_BMHW = mask_BHW if mask_BHW.dim() == 4 else mask_BHW[:, None]
    grid_BHW2 = sampling_grid(x_BCHW.shape, config, u[:7])
    if grid_BHW2 is not None:
        # shifted by 1, because grid_sample fills in 0 outside of the image
        sampled_BMHW = F.grid_sample(
            mask_BMHW + 1.0, grid_BHW2, mode="nearest", align_corners=False
        )
        mask_BMHW = sampled_BMHW.long() - 1
        mask_BMHW = mask_BMHW.where(mask_BMHW >= 0, OUTSIDE)
        x_BCHW = sample_bilinear(x_BCHW, grid_BHW2)
    x_BCHW = change_pixels(x_BCHW, config, u)
    if config.transforms:
        x_BCHW, moved_BMHW, *_ = library_transforms.transformed(
            x_BCHW, config.transforms, rng, mask_BMHW
        )
        assert moved_BMHW is not None
        mask_BMHW = moved_BMHW
    return x_BCHW, mask_BMHW.view_as(mask_BHW)


def view_with_boxes(
    x_BCHW: Tensor, boxes_BM4: Tensor, labels_BM: Tensor, config: AugmentConfig, rng: Stream
) -> tuple[Tensor, Tensor, Tensor]:
    """A view of images, boxes [B, M, 4] and labels [B, M]; a box that left the view has label 0."""
    u = draw_numbers(x_BCHW, rng)
    affine_B23 = affine_map(x_BCHW.shape, config, u[:7])
    if affine_B23 is not None:
        boxes_BM4, labels_BM = boxes.moved(
            boxes_BM4, labels_BM, affine_B23, (x_BCHW.shape[2], x_BCHW.shape[3])
        )
        x_BCHW = resample(x_BCHW, config, u[:7])
    x_BCHW = change_pixels(x_BCHW, config, u)
    if config.transforms:
        x_BCHW, _, moved_BM4, moved_BM = library_transforms.transformed(
            x_BCHW, config.transforms, rng, None, boxes_BM4, labels_BM
        )
        assert moved_BM4 is not None
        assert moved_BM is not None
        boxes_BM4, labels_BM = moved_BM4, moved_BM
    return x_BCHW, boxes_BM4, labels_BM


def draw_numbers(x_BCHW: Tensor, rng: Stream) -> tuple[Tensor, ...]:
    """NUMBERS uniform numbers in [0, 1) for each image, each [B]."""
    return rng.rand(len(x_BCHW), NUMBERS).unbind(1)


def change_pixels(x_BCHW: Tensor, config: AugmentConfig, u: tuple[Tensor, ...]) -> Tensor:
    """Apply the operations that keep every pixel in its place: colour, blur and cutout."""
    x_BCHW = recolour(x_BCHW, config, u[7:13])
    x_BCHW = blur(x_BCHW, config, u[13:15])
    return cut_out(x_BCHW, config, u[15:20])


def scale_to(bounds: list[float], u_B: Tensor) -> Tensor:
    """Map u in [0, 1] linearly to the range [bounds[0], bounds[1]]."""
    return bounds[0] + (bounds[1] - bounds[0]) * u_B


def scale_around_zero(limit: float, u_B: Tensor) -> Tensor:
    """Map u in [0, 1] linearly to the range [-limit, limit]."""
    return limit * (2 * u_B - 1)


def resample(x_BCHW: Tensor, config: AugmentConfig, u: tuple[Tensor, ...]) -> Tensor:
    """The image resampled by its random affine map: bilinear, black outside, size unchanged."""
    grid_BHW2 = sampling_grid(x_BCHW.shape, config, u)
    return x_BCHW if grid_BHW2 is None else sample_bilinear(x_BCHW, grid_BHW2)


def sample_bilinear(x_BCHW: Tensor, grid_BHW2: Tensor) -> Tensor:
    return F.grid_sample(
        x_BCHW, grid_BHW2, mode="bilinear", padding_mode="zeros", align_corners=False
    )


def sampling_grid(shape: torch.Size, config: AugmentConfig, u: tuple[Tensor, ...]) -> Tensor | None:
    """The grid [B, H, W, 2] for `F.grid_sample`, (x, y) in [-1, 1]; None for the identity."""
    affine_B23 = affine_map(shape, config, u)
    if affine_B23 is None:
        return None
    # Equal to F.affine_grid, whose products with three-column matrices take 6 to 25 times as long
    x_W, y_H = (
        ((2 * torch.arange(n, device=affine_B23.device) + 1) / n - 1) for n in (shape[3], shape[2])
    )
    rows_B2H = affine_B23[:, :, 1, None] * y_H + affine_B23[:, :, 2, None]
    return (affine_B23[:, :, 0, None, None] * x_W + rows_B2H[..., None]).permute(0, 2, 3, 1)


def affine_map(shape: torch.Size, config: AugmentConfig, u: tuple[Tensor, ...]) -> Tensor | None:
    """The affine map [B, 2, 3] from positions in the view to positions in the image; or None.

    Positions are in [-1, 1] across each side. None stands for the identity.
    """
    cropped = config.crop != [1, 1] or config.ratio != 1
    if not (cropped or config.flip or config.rotate or config.shear or config.shift):
        return None
    height, width = shape[2:]
    area_B = scale_to(config.crop, u[0])
    ratio_B = (scale_around_zero(log(config.ratio), u[1]) / 2).exp()
    limit = max(1.0, sqrt(config.crop[1]))
    w_B = (area_B.sqrt() * ratio_B).clamp(max=limit)
    h_B = (area_B.sqrt() / ratio_B).clamp(max=limit)
    x0_B = scale_around_zero(1, u[2]) * ((1 - w_B).abs() + 2 * config.shift)
    y0_B = scale_around_zero(1, u[3]) * ((1 - h_B).abs() + 2 * config.shift)
    w_B = torch.where(u[4] < config.flip, -w_B, w_B)
    angle_B = scale_around_zero(config.rotate * pi / 180, u[5])
    shear_B = scale_around_zero(config.shear * pi / 180, u[6]).tan()
    cos_B, sin_B = angle_B.cos(), angle_B.sin()
    # Positions are scaled to [-1, 1] per side, so a rotation in pixels depends on the aspect ratio
    top_B3 = torch.stack([cos_B * w_B, (cos_B * shear_B - sin_B) * h_B * height / width, x0_B], 1)
    bottom_B3 = torch.stack(
        [sin_B * w_B * width / height, (sin_B * shear_B + cos_B) * h_B, y0_B], 1
    )
    return torch.stack([top_B3, bottom_B3], 1)


def recolour(x_BCHW: Tensor, config: AugmentConfig, u: tuple[Tensor, ...]) -> Tensor:
    """Change brightness, contrast, saturation, hue and grey.

    This is one affine map of a pixel's channels, with the result clipped to [0, 1].
    """
    colours = x_BCHW.shape[1] == 3
    if not config.jitter and not (config.grey and colours):
        return x_BCHW
    strength_B = config.jitter * (u[0] < COLOUR_CHANCE)
    bright_B, contrast_B, saturation_B = (
        1 + 0.8 * strength_B * scale_around_zero(1, v) for v in u[1:4]
    )
    if colours:
        saturation_B = saturation_B * (u[5] >= config.grey)
        hue_B = 0.4 * pi * strength_B * scale_around_zero(1, u[4])
        cos_B, sin_B = saturation_B * hue_B.cos(), saturation_B * hue_B.sin()
        zero_B = torch.zeros_like(hue_B)
        yiq_B33 = torch.stack(
            [zero_B + 1, zero_B, zero_B, zero_B, cos_B, -sin_B, zero_B, sin_B, cos_B], 1
        ).unflatten(1, (3, 3))
        to_yiq_33, from_yiq_33 = (
            to_device(m_33.to(x_BCHW.dtype), x_BCHW.device) for m_33 in (TO_YIQ, FROM_YIQ)
        )
        colours_BCC = from_yiq_33 @ yiq_B33 @ to_yiq_33
        luma_C = to_yiq_33[0]
    else:
        channels = x_BCHW.shape[1]
        eye_CC = torch.eye(channels, dtype=x_BCHW.dtype, device=x_BCHW.device)
        colours_BCC = eye_CC.expand(len(x_BCHW), -1, -1)
        luma_C = x_BCHW.new_full((channels,), 1 / channels)
    mean_B = (colours_BCC @ x_BCHW.mean((2, 3))[..., None])[..., 0] @ luma_C
    gain_B, offset_B = bright_B * contrast_B, bright_B * (1 - contrast_B) * mean_B
    map_BCC = gain_B[:, None, None] * colours_BCC
    return (
        torch.baddbmm(offset_B[:, None, None], map_BCC, x_BCHW.flatten(2))
        .clamp_(0, 1)
        .view_as(x_BCHW)
    )


def blur(x_BCHW: Tensor, config: AugmentConfig, u: tuple[Tensor, ...]) -> Tensor:
    """Gaussian blur as matrix products over rows and columns; weights sum to 1 at borders, too."""
    if not config.blur:
        return x_BCHW
    sigma_B, blurred_B = scale_to(config.sigma, u[1]), u[0] < config.blur
    if x_BCHW.device.type == "cpu":  # elsewhere the host would wait to learn how many these are
        some = blurred_B.nonzero()[:, 0]
        return x_BCHW.index_copy(0, some, smoothed(x_BCHW[some], sigma_B[some]))
    # images that are not blurred get a kernel so narrow that it changes nothing
    return smoothed(x_BCHW, sigma_B.where(blurred_B, 1e-3))


def smoothed(x_BCHW: Tensor, sigma_B: Tensor) -> Tensor:
    """Each image convolved with a Gaussian of its own width."""

    def weights_BSS(size: int) -> Tensor:
        at_S = torch.arange(size, device=x_BCHW.device)
        return (-((at_S[:, None] - at_S) ** 2) / (2 * sigma_B[:, None, None] ** 2)).softmax(2)

    # One product an image for all its channels: `@` would copy the kernels for each of them.
    rows_BCUW = torch.einsum("buh,bchw->bcuw", weights_BSS(x_BCHW.shape[2]), x_BCHW)
    return torch.einsum("bcuw,bvw->bcuv", rows_BCUW, weights_BSS(x_BCHW.shape[3]))


def cut_out(x_BCHW: Tensor, config: AugmentConfig, u: tuple[Tensor, ...]) -> Tensor:
    """Blacken a rectangle of the image (cutout).

    DeVries & Taylor, arXiv:1708.04552, with the sizes of Zhong et al., arXiv:1708.04896.
    """
    if not config.cutout:
        return x_BCHW
    area_B = scale_to(CUT, u[1])
    ratio_B = (scale_around_zero(log(CUT_RATIO), u[2]) / 2).exp()

    def inside_BS(size: int, share_B: Tensor, u_B: Tensor) -> Tensor:
        at_S = (torch.arange(size, device=x_BCHW.device) + 0.5) / size
        start_B = u_B * (1 - share_B)
        return (at_S >= start_B[:, None]) & (at_S < (start_B + share_B)[:, None])

    rows_BH = inside_BS(x_BCHW.shape[2], area_B.sqrt() / ratio_B, u[3])
    columns_BW = inside_BS(x_BCHW.shape[3], area_B.sqrt() * ratio_B, u[4])
    cut_BHW = rows_BH[:, :, None] & columns_BW[:, None, :] & (u[0] < config.cutout)[:, None, None]
    return x_BCHW.masked_fill(cut_BHW[:, None], 0.0)
