"""Fully connected layers on the flattened image."""

from dataclasses import dataclass, field
from math import prod

from torch import nn

from sft_exp.core import Backbone, Encoder
from sft_exp.errors import require
from sft_exp.nets import perceptron

ACTIVATIONS = {"relu": nn.ReLU, "tanh": nn.Tanh}


@dataclass
class MLP(Encoder):
    hidden: list[int] = field(default_factory=lambda: [400, 100])  # widths of the layers; the last is the code
    activation: str = "relu"  # relu or tanh

    def __post_init__(self):
        require(bool(self.hidden) and min(self.hidden) > 0, "hidden", self.hidden, "a list of widths above 0")
        require(self.activation in ACTIVATIONS, "activation", self.activation, " or ".join(ACTIVATIONS))

    def build(self, image):
        return Perceptron(image, list(self.hidden), ACTIVATIONS[self.activation])


class Perceptron(Backbone):
    """Maps `layer1`, `layer2`, ...: [B, D], each after its activation."""

    def __init__(self, image: tuple[int, int, int], hidden: list[int], activation: type[nn.Module]):
        super().__init__()
        self.activation = activation()
        self.image, self.hidden, self.width = image, hidden, hidden[-1]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in zip([prod(image), *hidden], hidden, strict=False))

    def maps(self, x_BCHW):
        h_BD = x_BCHW.flatten(1)
        for n, layer in enumerate(self.layers, start=1):
            h_BD = self.activation(layer(h_BD))
            yield f"layer{n}", h_BD

    def mirror(self, width):
        layers = perceptron(width, *self.hidden[-2::-1], prod(self.image), activation=type(self.activation))
        return nn.Sequential(layers, nn.Unflatten(1, self.image))
