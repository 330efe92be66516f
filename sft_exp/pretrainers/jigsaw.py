"""Put the tiles back. Noroozi and Favaro, arXiv:1603.09246: an image cut into tiles, these in another order; which one?

The orders are few and far from each other: each next one differs in the most places from all before it (their algorithm 1);
of four tiles there are only 24, and all are taken. The tiles are put together again, as in Carlucci et al., arXiv:1903.06864,
so that any encoder serves. Of each, what is seen is smaller than its place and lies anywhere in it (64 of 75 pixels in the
paper), or edges that fit would give the order away. Loss: cross-entropy over the orders. Kept: the maps below the code, where
they were in the image, as of rotation.
It assumes that the parts of an image have their places; those of a texture have none.
"""

from dataclasses import dataclass
from functools import cache
from itertools import permutations
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sft_exp.core.pretrainer import Pretrainer
from sft_exp.errors import require

# side -> orders that can be told apart; there are 362,880 of nine tiles, the paper took up to 1,000
MOST = {2: 24, 3: 1000}


@dataclass
class Jigsaw(Pretrainer):
    features: ClassVar[tuple[int, ...]] = (-4, -3, -2)
    pool: ClassVar[str] = "max"
    grid: ClassVar[int] = 4

    side: int = 2  # tiles along either side of the image, 2 or 3
    orders: int = 24  # P, how many are told apart
    gap: float = 0.15  # share of a tile's side that is not seen

    def __post_init__(self):
        require(self.side in MOST, "side", self.side, "2 or 3")
        require(
            2 <= self.orders <= MOST[self.side],
            "orders",
            self.orders,
            f"2 to {MOST[self.side]} where side is {self.side}",
        )
        require(0 <= self.gap < 1, "gap", self.gap, "at least 0 and below 1")

    def networks(self, encoder, spec):
        return nn.ModuleDict({"encoder": encoder, "head": nn.Linear(encoder.width, self.orders)})

    def draw(self, batch, rng, progress):
        x_BCHW = batch["pool"]["x"]
        order_B = (self.orders * rng.rand(len(x_BCHW))).long()
        orders_PT = torch.tensor(far_apart(self.side**2, self.orders), device=x_BCHW.device)
        place_BT2 = rng.rand(len(x_BCHW), self.side**2, 2)
        return shuffled(x_BCHW, orders_PT[order_B], place_BT2, self.side, self.gap), order_B

    def loss(self, nets, x_BCHW, order_B):
        logits_BP = nets["head"](nets["encoder"](x_BCHW))
        return F.cross_entropy(logits_BP, order_B), {
            "accuracy": (logits_BP.argmax(1) == order_B).float().mean()
        }

    def show(self, nets, x_BCHW, rng):
        return {"input": x_BCHW, "shuffled": self.draw({"pool": {"x": x_BCHW}}, rng, 0.0)[0]}


@cache
def far_apart(tiles: int, count: int) -> list[tuple[int, ...]]:
    """Orders of the tiles, the first as they are, each next one with the most places in which it differs from those before."""
    every = list(permutations(range(tiles)))
    every_NT, far_N = (
        torch.tensor(every, dtype=torch.int8),
        torch.zeros(len(every), dtype=torch.int64),
    )
    chosen = [0]
    while len(chosen) < count:
        far_N += (every_NT != every_NT[chosen[-1]]).sum(1)
        far_N[chosen[-1]] = torch.iinfo(torch.int64).min // 2  # never again
        chosen.append(int(far_N.argmax()))
    return [every[n] for n in chosen]


def shuffled(x_BCHW: Tensor, order_BT: Tensor, place_BT2: Tensor, side: int, gap: float) -> Tensor:
    """The images with tile order_BT[:, t] in place t, row by row. Of each is seen what lies at its place, from 0, above and
    left, up to 1, below and right, in a frame of nothing; so is what is left where side is no divisor [B, C, H, W]"""
    b, _, height, width = x_BCHW.shape
    h, w = height // side, width // side
    whole = x_BCHW[:, :, : side * h, : side * w].unflatten(3, (side, w)).unflatten(2, (side, h))
    tiles_BTCHW = whole.permute(0, 2, 4, 1, 3, 5).flatten(1, 2)

    def seen(size: int, place_BT: Tensor) -> tuple[Tensor, int]:
        hidden = int(gap * size)
        start_BT = ((hidden + 1) * place_BT).long()
        return start_BT[..., None] + torch.arange(size - hidden, device=x_BCHW.device), hidden

    (rows_BTH, rows), (columns_BTW, columns) = (
        seen(h, place_BT2[..., 0]),
        seen(w, place_BT2[..., 1]),
    )
    image_B = torch.arange(b, device=x_BCHW.device)[:, None, None, None]
    seen_BTHWC = tiles_BTCHW[
        image_B, order_BT[:, :, None, None], :, rows_BTH[..., None], columns_BTW[:, :, None]
    ]
    frame = (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2)
    framed = F.pad(seen_BTHWC.permute(0, 1, 4, 2, 3), frame).unflatten(1, (side, side))
    return F.pad(
        framed.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3),
        (0, width - side * w, 0, height - side * h),
    )
