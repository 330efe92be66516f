"""Preparation of images as those that pretrained weights were trained on: size, mean and deviation.

It is part of the network, so that training, evaluation, export and serving all apply it.
"""

from collections.abc import Iterator
from math import floor, inf, isfinite

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sft_exp.core.encoder import Backbone, Encoder
from sft_exp.errors import require


class Normalise(nn.Module):
    """(x - mean) / std, channel by channel: [B, C, H, W] -> [B, K, H, W] for K means.

    A grey image (C = 1) is repeated for each mean.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: list[float], std: list[float]):
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return (x_BCHW - self.mean) / self.std


class Resize(nn.Module):
    """Resizes images and crops their centre: [B, C, H, W] -> [B, C, *size].

    The result is that of torchvision's antialiased resize to size / crop, followed by its centre
    crop. Both are linear in the rows and in the columns, so they are computed as two matrix
    products, which give the same numbers in PyTorch, in ONNX and on any device. Nothing is learned,
    so nothing is saved.
    """

    down: Tensor
    across: Tensor

    def __init__(
        self, image: tuple[int, int], size: tuple[int, int], crop: float, interpolation: str
    ):
        super().__init__()
        for name, pixels, target in zip(("down", "across"), image, size, strict=True):
            matrix = weights_1d(pixels, target, crop, interpolation)
            self.register_buffer(name, matrix, persistent=False)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return self.down @ x_BCHW @ self.across.T


def weights_1d(pixels: int, target: int, crop: float, interpolation: str) -> Tensor:
    """The weight of each input pixel in each output pixel along one axis: [target, pixels]."""
    # timm rounds down; torchvision states both sizes, whose ratio may be a little below a whole number
    resized_size = max(target, floor(target / crop + 1e-6))
    eye_11PP = torch.eye(pixels)[None, None]
    resized = F.interpolate(eye_11PP, (resized_size, pixels), mode=interpolation, antialias=True)
    first = round((resized_size - target) / 2)
    return resized[0, 0, first : first + target].contiguous()


class Grey(nn.Module):
    """The mean of all channels: [B, K, H, W] -> [B, 1, H, W]."""

    def forward(self, x_BKHW: Tensor) -> Tensor:
        return x_BKHW.mean(1, keepdim=True)


class Normalised(Backbone):
    """An encoder whose images are first resized and normalised."""

    def __init__(
        self,
        body: Backbone,
        normalise: Normalise,
        image: tuple[int, int, int],
        resize: Resize | None = None,
    ):
        super().__init__()
        self.normalise, self.body, self.image, self.width = normalise, body, image, body.width
        self.resize = resize

    def maps(self, x_BCHW: Tensor) -> Iterator[tuple[str, Tensor]]:
        x_BCHW = x_BCHW if self.resize is None else self.resize(x_BCHW)
        return self.body.maps(self.normalise(x_BCHW))

    def decoder(self, width: int) -> nn.Module:
        steps = [self.body.decoder(width)]
        if len(self.normalise.mean) > self.image[0]:
            steps.append(Grey())
        if self.resize is not None:
            size = len(self.resize.down), len(self.resize.across)
            steps.append(Resize(size, self.image[1:], 1.0, "bilinear"))
        return nn.Sequential(*steps) if len(steps) > 1 else steps[0]


def backbone(encoder: Encoder, image: tuple[int, int, int]) -> Backbone:
    """Build the encoder's network for images [B, *image] in [0, 1], with their preparation, if any.

    Raises:
        ConfigError: the preparation is incomplete or does not fit the images.
    """
    mean, std = encoder.mean, encoder.std
    resize = resizing(encoder, image)
    if mean is None and std is None:
        if resize is None:
            return encoder.build(image)
        mean, std = [0.0], [1.0]
    require(
        mean is not None and std is not None,
        "mean" if std else "std",
        None,
        "given: mean and std go together",
    )
    assert mean is not None
    assert std is not None
    require(len(mean) == len(std), "std", std, f"as many numbers as mean={mean}")
    require(all(isfinite(m) for m in mean), "mean", mean, "finite numbers")
    require(all(0 < s < inf for s in std), "std", std, "numbers above 0")
    scaled = "of images in [0, 1]: those for images in [0, 255] are divided by 255"
    require(max(mean, default=0) <= 1, "mean", mean, scaled)
    channels = max(image[0], len(mean))
    fits = len(mean) in (1, image[0]) or image[0] == 1
    require(fits, "mean", mean, f"one number, or one for each of the images' {image[0]} channels")
    size = image[1:] if encoder.size is None else (encoder.size, encoder.size)
    return Normalised(encoder.build((channels, *size)), Normalise(mean, std), image, resize)


def resizing(encoder: Encoder, image: tuple[int, int, int]) -> Resize | None:
    """The layer that resizes images [B, *image] to the size that the encoder states, or None.

    Raises:
        ConfigError: size, crop or interpolation is invalid.
    """
    size, crop, interpolation = encoder.size, encoder.crop, encoder.interpolation
    ok = interpolation in (None, "bilinear", "bicubic")
    require(ok, "interpolation", interpolation, "bilinear or bicubic, or null")
    require(crop is None or 0 < crop <= 1, "crop", crop, "above 0, at most 1, or null")
    if size is None:
        for name in ("crop", "interpolation"):
            value = getattr(encoder, name)
            require(value is None, name, value, "null where encoder.size is null")
        return None
    require(size > 0, "size", size, "above 0, or null")
    return Resize(image[1:], (size, size), crop or 1.0, interpolation or "bilinear")
