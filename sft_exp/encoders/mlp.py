"""Fully connected layers on the flattened image."""

from collections.abc import Callable
from dataclasses import dataclass, field
from math import prod

from torch import nn

from sft_exp.core.encoder import Backbone, Encoder
from sft_exp.errors import require
from sft_exp.models.layers import perceptron


class LeakyReLU(nn.LeakyReLU):
    """Leaky ReLU with DCGAN's slope, 0.2."""

    def __init__(self):
        super().__init__(0.2)


ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": LeakyReLU,
    "tanh": nn.Tanh,
}
NORMS: dict[str, Callable[[int], nn.Module] | None] = {"none": None, "batch": nn.BatchNorm1d}


@dataclass
class MLP(Encoder):
    # widths of the layers; the last is that of the code
    hidden: list[int] = field(default_factory=lambda: [400, 100])
    activation: str = "relu"  # relu, leaky_relu (slope 0.2) or tanh
    norm: str = "none"  # none, or batch (before each activation)

    def __post_init__(self):
        require(
            bool(self.hidden) and min(self.hidden) > 0,
            "hidden",
            self.hidden,
            "a list of widths above 0",
        )
        require(
            self.activation in ACTIVATIONS, "activation", self.activation, " or ".join(ACTIVATIONS)
        )
        require(self.norm in NORMS, "norm", self.norm, " or ".join(NORMS))

    def build(self, image):
        return Perceptron(image, list(self.hidden), ACTIVATIONS[self.activation], NORMS[self.norm])


class Perceptron(Backbone):
    """Yields `layer1`, `layer2`, ... [B, D], each after its activation."""

    def __init__(
        self,
        image: tuple[int, int, int],
        hidden: list[int],
        activation: type[nn.Module],
        norm: Callable[[int], nn.Module] | None = None,
    ):
        super().__init__()
        self.activation, self.norm = activation(), norm
        self.image, self.hidden, self.width = image, hidden, hidden[-1]
        self.layers = nn.ModuleList(
            nn.Linear(a, b) for a, b in zip([prod(image), *hidden], hidden, strict=False)
        )
        if norm:
            self.norms = nn.ModuleList(map(norm, hidden))

    def maps(self, x_BCHW):
        h_BD = x_BCHW.flatten(1)
        for n, layer in enumerate(self.layers):
            h_BD = self.norms[n](layer(h_BD)) if self.norm else layer(h_BD)
            h_BD = self.activation(h_BD)
            yield f"layer{n + 1}", h_BD

    def decoder(self, width):
        layers = perceptron(
            width,
            *self.hidden[-2::-1],
            prod(self.image),
            activation=type(self.activation),
            norm=self.norm,
        )
        return nn.Sequential(layers, nn.Unflatten(1, self.image))
