"""Two handwritten digits on one canvas, made of scikit-learn's 1,797: a data set with four targets.

The targets are `left` and `right` (the digit there), `mask` (the ink) and `value` (the sum).
Training and test images are made of digits of different writers.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch

from sft_exp.core.rng import stream
from sft_exp.data.corpus import Corpus, Dataset, fingerprint
from sft_exp.data.images import Images
from sft_exp.errors import require

LAST = 500  # digits at the end of the file, from which test images are made
INK = 96  # lowest grey level of ink


@dataclass
class DigitPairs(Dataset):
    gives: ClassVar[tuple[str, ...]] = ("left", "right", "mask", "value")

    train: int = 2_000  # number of training images
    test: int = 500  # number of test images
    high: int = 10  # height of the canvas in pixels; the digits have 8 x 8
    wide: int = 20  # width of the canvas

    def __post_init__(self):
        require(self.train > 0, "train", self.train, "above 0")
        require(self.test > 0, "test", self.test, "above 0")
        require(self.high >= 8, "high", self.high, "8 or more, which a digit takes")
        require(self.wide >= 16, "wide", self.wide, "16 or more, which two digits take")

    def load(self):
        from sklearn.datasets import load_digits

        bunch = load_digits()
        x_N88 = torch.from_numpy(bunch.images * 255 / 16).round().to(torch.uint8)
        y_N = torch.from_numpy(bunch.target).long()
        train = self.combine(x_N88[:-LAST], y_N[:-LAST], self.train, "train")
        test = self.combine(x_N88[-LAST:], y_N[-LAST:], self.test, "test")
        names = tuple(str(c) for c in bunch.target_names)
        return Corpus(
            "digit pairs",
            names,
            train,
            test,
            image=(1, self.high, self.wide),
            fingerprint=fingerprint(train),
            test_fingerprint=fingerprint(test),
            strata=("image",),
            named={"left": names, "right": names, "mask": ("paper", "ink"), "value": ("sum",)},
        )

    def combine(self, x_N88: torch.Tensor, y_N: torch.Tensor, count: int, name: str) -> Images:
        """`count` images of two random digits at random positions in the left and right half."""
        rng = stream("digit pairs", name)
        x_NHW = torch.zeros(count, self.high, self.wide, dtype=torch.uint8)
        which_N2 = torch.randint(len(y_N), (count, 2), generator=rng)
        half = self.wide // 2
        top_N2 = torch.randint(self.high - 7, (count, 2), generator=rng)
        left_N2 = torch.randint(half - 7, (count, 2), generator=rng) + torch.tensor([0, half])
        for n in range(count):
            for which, top, left in zip(
                which_N2[n].tolist(), top_N2[n].tolist(), left_N2[n].tolist(), strict=True
            ):
                x_NHW[n, top : top + 8, left : left + 8] = x_N88[which]
        digit_N2 = y_N[which_N2]
        targets = {
            "left": digit_N2[:, 0],
            "right": digit_N2[:, 1],
            "mask": (x_NHW >= INK).to(torch.uint8),
            "value": digit_N2.sum(1, keepdim=True).float(),
        }
        zeros = torch.zeros(count, dtype=torch.long)
        return Images(
            x_NHW[:, None], zeros, [f"{name}/{n:05d}" for n in range(count)], targets=targets
        )
