"""A network and a data set of your own in a whole run: pretrained, fine-tuned on few labels, and compared with its controls.

    python examples/my_model.py

Classes are found by their import, by `sft_exp predict` as well. That is why the end of this file imports it.
"""

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import Dataset

import sft_exp


class Network(nn.Module):
    """Maps images [B, 1, 8, 8] to features [B, 64]."""

    def __init__(self, width: int = 32):
        super().__init__()
        self.first = nn.Conv2d(1, width, 3, padding=1)
        self.second = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
        self.code = nn.Linear(2 * width * 4 * 4, 64)

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(self.first(x).relu()).relu()
        return self.code(x.flatten(1)).relu()


class Digits(Dataset):
    """Items (image, label): here a float tensor [1, 8, 8] in [0, 1] and a number; Pillow images do as well."""

    def __init__(self, part: slice):
        digits = load_digits()
        self.images = torch.from_numpy(digits.images[part] / 16).float().unsqueeze(1)
        self.labels = digits.target[part]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, n: int) -> tuple[Tensor, int]:
        return self.images[n], int(self.labels[n])


def main(overrides: list[str]) -> dict:
    torch.manual_seed(0)
    parts = {"train": Digits(slice(0, 1300)), "test": Digits(slice(1300, None))}
    return sft_exp.run(overrides, encoder=Network(), dataset=parts, metrics=["top_k"])


if __name__ == "__main__":
    from my_model import main as main_of_module  # the same file, as a module that others can import

    result = main_of_module(["pretrainer=ae", "labels=5", "pretrain.epochs=30"])
    print(result["verdict"]["text"])
    model = sft_exp.load(result.folder)
    print(model.predict(Digits(slice(1300, 1303)).images).shape, model.classes)
