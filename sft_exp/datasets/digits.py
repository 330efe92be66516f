"""scikit-learn's 1,797 handwritten digits of 8x8 pixels (UCI, Alpaydin & Kaynak 1998); no download.

The file is ordered by writer, so the test images are its last block. A random split would put the
same writers on both sides and be several points optimistic.
"""

from dataclasses import dataclass

import torch

from sft_exp.data.corpus import Corpus, Dataset, fingerprint
from sft_exp.data.images import Images
from sft_exp.errors import require


@dataclass
class Digits(Dataset):
    test: int = 500  # number of test images, taken from the end of the file

    def __post_init__(self):
        require(0 < self.test < 1797, "test", self.test, "1 to 1796, of 1,797 images")

    def load(self):
        from sklearn.datasets import load_digits

        bunch = load_digits()
        x = torch.from_numpy(bunch.images * 255 / 16).round().to(torch.uint8).unsqueeze(1)
        y = torch.from_numpy(bunch.target).long()
        ids = [f"{n:04d}" for n in range(len(y))]
        first = len(y) - self.test
        train = Images(x[:first], y[:first], ids[:first])
        test = Images(x[first:], y[first:], ids[first:])
        names = tuple(str(c) for c in bunch.target_names)
        return Corpus(
            "digits",
            names,
            train,
            test,
            image=(1, 8, 8),
            fingerprint=fingerprint(train),
            test_fingerprint=fingerprint(test),
        )
