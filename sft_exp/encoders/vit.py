"""Vision transformer for small images. Dosovitskiy et al., arXiv:2010.11929.

It is the plain form of Beyer et al., arXiv:2205.01580: fixed sine-cosine position embeddings, and
the mean over all patches instead of a class token.
"""

from dataclasses import dataclass
from math import ceil

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sft_exp.core.encoder import Backbone, Encoder
from sft_exp.errors import require
from sft_exp.models.layers import upsampler


@dataclass
class ViT(Encoder):
    patch: int = 4  # height and width of a patch in pixels; the image is padded with black
    width: int = 64  # D, of the embeddings
    depth: int = 4  # number of blocks
    heads: int = 4  # attention heads of each block

    def __post_init__(self):
        require(self.patch > 0, "patch", self.patch, "above 0")
        require(self.depth > 0, "depth", self.depth, "above 0")
        require(self.width > 0 and self.width % 4 == 0, "width", self.width, "a multiple of 4")
        divides = self.heads > 0 and self.width % self.heads == 0
        require(divides, "heads", self.heads, f"a divisor of width={self.width}")

    def build(self, image):
        return Transformer(image, self.patch, self.width, self.depth, self.heads)


class Transformer(Backbone):
    """Yields `block1`, `block2`, ... [B, D, H / patch, W / patch], each after its block, then
    `code` [B, D], the mean over all patches after the last LayerNorm."""

    positions_ND: Tensor

    def __init__(self, image: tuple[int, int, int], patch: int, width: int, depth: int, heads: int):
        super().__init__()
        self.image, self.patch, self.width = image, patch, width
        # number of patches down and across; N is their product
        self.grid = (ceil(image[1] / patch), ceil(image[2] / patch))
        self.embed = nn.Conv2d(image[0], width, patch, stride=patch)
        self.register_buffer("positions_ND", positions(*self.grid, width), persistent=False)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width, heads, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True
            )
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width)

    def patches(self, x_BCHW: Tensor) -> Tensor:
        """The patches' embeddings plus those of their positions, row by row [B, N, D]."""
        down, across = (
            n * self.patch - size for n, size in zip(self.grid, self.image[1:], strict=True)
        )
        return self.embed(F.pad(x_BCHW, (0, across, 0, down))).flatten(2).mT + self.positions_ND

    def tokens(self, x_BCHW: Tensor, keep_BK: Tensor | None = None) -> Tensor:
        """Tokens of the patches at positions `keep_BK` (0 to N - 1, row by row; None = all) [B, K,
        D].

        The other patches are not computed at all, which is what makes a masked autoencoder cheap
        (arXiv:2111.06377, section 3).
        """
        h_BKD = self.patches(x_BCHW)
        if keep_BK is not None:
            h_BKD = h_BKD.gather(1, keep_BK[:, :, None].expand(-1, -1, self.width))
        for block in self.blocks:
            h_BKD = block(h_BKD)
        return self.norm(h_BKD)

    def maps(self, x_BCHW):
        h_BND = self.patches(x_BCHW)
        for n, block in enumerate(self.blocks, start=1):
            h_BND = block(h_BND)
            yield f"block{n}", h_BND.mT.unflatten(2, self.grid)
        yield "code", self.norm(h_BND).mean(1)

    def decoder(self, width):
        channels, sizes = [self.image[0], self.width], [self.image[1:], self.grid]
        while max(sizes[-2]) > 2 * max(self.grid):
            sizes.insert(-1, (ceil(sizes[-2][0] / 2), ceil(sizes[-2][1] / 2)))
            channels.insert(-1, max(16, self.width // 2 ** (len(sizes) - 2)))
        return upsampler(width, channels, sizes)


def positions(down: int, across: int, width: int) -> Tensor:
    """Sines and cosines of row and column, a quarter of the width each [down * across, width]."""
    rates = 10_000 ** -(torch.arange(width // 4) / max(1, width // 4 - 1))
    rows, columns = torch.meshgrid(torch.arange(down), torch.arange(across), indexing="ij")
    angles = [position.flatten()[:, None] * rates for position in (rows, columns)]
    return torch.cat([f(a) for a in angles for f in (torch.sin, torch.cos)], dim=1)
