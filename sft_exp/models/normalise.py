"""Images normalised as the weights were trained: a wrapper of the backbone, so that every use of it has it."""

from collections.abc import Iterator
from math import inf, isfinite

import torch
from torch import Tensor, nn

from sft_exp.core.encoder import Backbone, Encoder
from sft_exp.errors import require


class Normalise(nn.Module):
    """(x - mean) / std, channel by channel: [B, C, H, W] -> [B, K, H, W] for K means. A grey image (C = 1) is repeated."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: list[float], std: list[float]):
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return (x_BCHW - self.mean) / self.std


class Grey(nn.Module):
    """The mean of all channels: [B, K, H, W] -> [B, 1, H, W]."""

    def forward(self, x_BKHW: Tensor) -> Tensor:
        return x_BKHW.mean(1, keepdim=True)


class Normalised(Backbone):
    """An encoder behind the normalisation of its images. Part of the network, so that whatever uses the network applies it:
    training, evaluation, export, serving."""

    def __init__(self, body: Backbone, normalise: Normalise, image: tuple[int, int, int]):
        super().__init__()
        self.normalise, self.body, self.image, self.width = normalise, body, image, body.width

    def maps(self, x_BCHW: Tensor) -> Iterator[tuple[str, Tensor]]:
        return self.body.maps(self.normalise(x_BCHW))

    def decoder(self, width: int) -> nn.Module:
        decoder = self.body.decoder(width)
        return (
            nn.Sequential(decoder, Grey()) if len(self.normalise.mean) > self.image[0] else decoder
        )


def backbone(encoder: Encoder, image: tuple[int, int, int]) -> Backbone:
    """The encoder's network for images in [0, 1], with its normalisation if it has one. ConfigError if it does not fit them."""
    mean, std = encoder.mean, encoder.std
    if mean is None and std is None:
        return encoder.build(image)
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
    channels = max(image[0], len(mean))
    fits = len(mean) in (1, image[0]) or image[0] == 1
    require(fits, "mean", mean, f"one number, or one for each of the images' {image[0]} channels")
    return Normalised(encoder.build((channels, *image[1:])), Normalise(mean, std), image)
