"""Backbones that are fitted in closed form: a linear map and whitened patches."""

from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sft_exp.core.encoder import Backbone
from sft_exp.errors import ConfigError


class LinearMap(Backbone):
    """One map `projection`: [B, D]."""

    def __init__(self, image: tuple[int, int, int], width: int):
        super().__init__()
        self.image, self.width = image, width
        self.linear = nn.Linear(prod(image), width)

    def maps(self, x_BCHW):
        yield "projection", self.linear(x_BCHW.flatten(1))

    def decoder(self, width):
        return nn.Sequential(nn.Linear(width, prod(self.image)), nn.Unflatten(1, self.image))


class PatchNet(Backbone):
    """Single-layer features of Coates, Lee & Ng (AISTATS 2011): patches' similarity to K centroids.

    A patch p is normalised, (p - mean) / sqrt(var + 10 / 255^2), and whitened; feature k is
    max(0, mean distance - distance to centroid k), their "triangle" activation (section 3.2.2).
    Maps: `triangle` [B, K, H, W], and `quadrants` [B, 4K], its means over the image's quarters
    (sums in the paper).
    """

    shift: Tensor
    whitening: Tensor

    def __init__(self, image: tuple[int, int, int], patch: int, count: int, stride: int):
        super().__init__()
        self.patch, self.stride, width = patch, stride, image[0] * patch**2
        self.grid = (
            min(2, (image[1] - patch) // stride + 1),
            min(2, (image[2] - patch) // stride + 1),
        )
        self.width = count * prod(self.grid)
        self.register_buffer("shift", torch.zeros(width))
        self.register_buffer("whitening", torch.eye(width))
        self.centroids = nn.Parameter(torch.randn(count, width))

    def patches(self, x_BCHW: Tensor) -> Tensor:
        """All patches [B, L, C * patch^2], each normalised for brightness and contrast."""
        p_BLP = F.unfold(x_BCHW, self.patch, stride=self.stride).transpose(1, 2)
        return (p_BLP - p_BLP.mean(2, keepdim=True)) / (
            p_BLP.var(2, keepdim=True) + 10 / 255**2
        ).sqrt()

    def whiten(self, p_BLP: Tensor) -> Tensor:
        return (p_BLP - self.shift) @ self.whitening

    def maps(self, x_BCHW):
        p_BLP = self.whiten(self.patches(x_BCHW))
        distance_BLK = torch.cdist(p_BLP, self.centroids)
        triangle_BLK = (distance_BLK.mean(2, keepdim=True) - distance_BLK).relu()
        rows = (x_BCHW.shape[2] - self.patch) // self.stride + 1
        triangle_BKHW = triangle_BLK.transpose(1, 2).unflatten(2, (rows, -1))
        yield "triangle", triangle_BKHW
        yield "quadrants", F.adaptive_avg_pool2d(triangle_BKHW, self.grid).flatten(1)

    def decoder(self, width):
        raise ConfigError(
            "encoder",
            "patches",
            "has no decoder; take another encoder, or pretrainer=kmeans or rotation",
        )
