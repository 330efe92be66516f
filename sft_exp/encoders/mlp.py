"""Fully connected layers on the flattened image."""

from dataclasses import dataclass, field
from math import prod

from torch import nn

from sft_exp.core import Backbone, Encoder
from sft_exp.errors import require
from sft_exp.nets import perceptron


@dataclass
class MLP(Encoder):
    hidden: list[int] = field(default_factory=lambda: [400, 100])  # widths of the layers; the last is the code

    def __post_init__(self):
        require(bool(self.hidden) and min(self.hidden) > 0, "hidden", self.hidden, "a list of widths above 0")

    def build(self, image):
        return Perceptron(image, list(self.hidden))


class Perceptron(Backbone):
    """Maps `layer1`, `layer2`, ...: [B, D], each after its ReLU."""

    def __init__(self, image: tuple[int, int, int], hidden: list[int]):
        super().__init__()
        self.image, self.hidden, self.width = image, hidden, hidden[-1]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in zip([prod(image), *hidden], hidden, strict=False))

    def maps(self, x_BCHW):
        h_BD = x_BCHW.flatten(1)
        for n, layer in enumerate(self.layers, start=1):
            h_BD = layer(h_BD).relu()
            yield f"layer{n}", h_BD

    def mirror(self, width):
        return nn.Sequential(perceptron(width, *self.hidden[-2::-1], prod(self.image)), nn.Unflatten(1, self.image))
