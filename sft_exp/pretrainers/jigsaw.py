"""Jigsaw: predict the order in which an image's tiles were shuffled.

Noroozi and Favaro, arXiv:1603.09246. The orders (permutations) are few and far from each other:
each next one has the largest Hamming distance from all before it (their algorithm 1). Four tiles
have only 24 orders, and all are used. The shuffled tiles form an image again, as in Carlucci et
al., arXiv:1903.06864, so that any encoder can be used. Of each tile, only a window at a random
place is visible (64 of 75 pixels in the paper); otherwise edges that fit would give the order away.
Loss: cross-entropy over the orders.

Fine-tuning starts from the maps below the code, pooled to a grid, as for rotation. The method
assumes that the parts of an image have fixed places, which is not true of textures.
"""

from dataclasses import dataclass
from functools import cache
from itertools import permutations
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sft_exp.core.device import to_device
from sft_exp.core.pretrainer import Pretrainer
from sft_exp.errors import require

# side -> largest number of orders; nine tiles have 362,880, of which the paper used up to 1,000
MOST = {2: 24, 3: 1000}


@dataclass
class Jigsaw(Pretrainer):
    features: ClassVar[tuple[int, ...]] = (-4, -3, -2)
    pool: ClassVar[str] = "max"
    grid: ClassVar[int] = 4

    side: int = 2  # number of tiles along each side of the image, 2 or 3
    orders: int = 24  # P, number of classes
    gap: float = 0.15  # share of a tile's side that is hidden

    def __post_init__(self):
        require(self.side in MOST, "side", self.side, "2 or 3")
        require(
            2 <= self.orders <= MOST[self.side],
            "orders",
            self.orders,
            f"2 to {MOST[self.side]} for side={self.side}",
        )
        require(0 <= self.gap < 1, "gap", self.gap, "at least 0 and below 1")

    def networks(self, encoder, spec):
        return nn.ModuleDict({"encoder": encoder, "head": nn.Linear(encoder.width, self.orders)})

    def draw(self, batch, rng, progress):
        x_BCHW = batch["pool"]["x"]
        order_B = (self.orders * rng.rand(len(x_BCHW))).long()
        orders_PT = torch.tensor(far_apart(self.side**2, self.orders))
        place_BT2 = rng.rand(len(x_BCHW), self.side**2, 2)
        order_BT = to_device(orders_PT, x_BCHW.device)[order_B]
        return shuffled(x_BCHW, order_BT, place_BT2, self.side, self.gap), order_B

    def loss(self, nets, x_BCHW, order_B):
        logits_BP = nets["head"](nets["encoder"](x_BCHW))
        accuracy = (logits_BP.argmax(1) == order_B).float().mean()
        return F.cross_entropy(logits_BP, order_B), {"accuracy": accuracy}

    def show(self, nets, x_BCHW, rng):
        return {"input": x_BCHW, "shuffled": self.draw({"pool": {"x": x_BCHW}}, rng, 0.0)[0]}


@cache
def far_apart(tiles: int, count: int) -> list[tuple[int, ...]]:
    """Orders of the tiles: first the identity, then each time the one with the largest total
    Hamming distance from those before it."""
    orders = list(permutations(range(tiles)))
    orders_NT = torch.tensor(orders, dtype=torch.int8)
    distance_N = torch.zeros(len(orders), dtype=torch.int64)
    chosen = [0]
    while len(chosen) < count:
        distance_N += (orders_NT != orders_NT[chosen[-1]]).sum(1)
        distance_N[chosen[-1]] = torch.iinfo(torch.int64).min // 2  # never chosen again
        chosen.append(int(distance_N.argmax()))
    return [orders[n] for n in chosen]


def shuffled(x_BCHW: Tensor, order_BT: Tensor, place_BT2: Tensor, side: int, gap: float) -> Tensor:
    """The images with tile order_BT[:, t] at position t, row by row [B, C, H, W].

    Only a window of each tile is visible, centred in a black frame; place_BT2 says where in the
    tile the window lies, from (0, 0) for top left to (1, 1) for bottom right. Where the image's
    height or width is no multiple of `side`, the remainder is black too.
    """
    count, _, height, width = x_BCHW.shape
    h, w = height // side, width // side
    whole = x_BCHW[:, :, : side * h, : side * w].unflatten(3, (side, w)).unflatten(2, (side, h))
    tiles_BTCHW = whole.permute(0, 2, 4, 1, 3, 5).flatten(1, 2)

    def window(size: int, place_BT: Tensor) -> tuple[Tensor, int]:
        """Indices of the visible pixels along one side [B, T, visible], and the number hidden."""
        hidden = int(gap * size)
        start_BT = ((hidden + 1) * place_BT).long()
        return start_BT[..., None] + torch.arange(size - hidden, device=x_BCHW.device), hidden

    rows_BTH, hidden_rows = window(h, place_BT2[..., 0])
    columns_BTW, hidden_columns = window(w, place_BT2[..., 1])
    image_B = torch.arange(count, device=x_BCHW.device)[:, None, None, None]
    visible_BTHWC = tiles_BTCHW[
        image_B, order_BT[:, :, None, None], :, rows_BTH[..., None], columns_BTW[:, :, None]
    ]
    left, top = hidden_columns // 2, hidden_rows // 2
    frame = (left, hidden_columns - left, top, hidden_rows - top)
    framed = F.pad(visible_BTHWC.permute(0, 1, 4, 2, 3), frame).unflatten(1, (side, side))
    image_BCHW = framed.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)
    return F.pad(image_BCHW, (0, width - side * w, 0, height - side * h))
