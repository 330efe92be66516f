"""Quantisation-aware training: fine-tuning with simulated 8-bit rounding, then quantisation as
int8.

Weights and activations are rounded to the grid that they will have as 8-bit integers (Jacob et al.,
arXiv:1712.05877, section 3). A weight's grid is symmetric and per output channel. It scales with
its channel, so folding BatchNorm into the convolution afterwards does not change the trained
rounding.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from sft_exp.core.deploy import Compressor
from sft_exp.errors import require
from sft_exp.models import graphs

ROUNDED = (nn.Conv2d, nn.Linear)  # layers whose weights and inputs become integers


@dataclass
class Qat(Compressor):
    graph: ClassVar[bool] = True
    needs: ClassVar[tuple[str, ...]] = ("torchao",)
    unhashed: ClassVar[tuple[str, ...]] = ("tolerance",)

    tolerance: float | None = None  # largest loss of accuracy (a fraction); more fails the run
    steps: int = 500  # number of fine-tuning steps
    lr: float = 1e-4  # learning rate of Adam, which falls to 0 along half a cosine
    batch_size: int = 64

    def __post_init__(self):
        require(self.steps > 0, "steps", self.steps, "above 0")
        require(self.lr > 0, "lr", self.lr, "above 0")
        require(self.batch_size > 0, "batch_size", self.batch_size, "above 0")

    def alter(self, network, x_BCHW):
        for layer in at_work(network, x_BCHW):
            if isinstance(layer, ROUNDED):
                layer.register_module("rounding", activations())
                layer.register_forward_pre_hook(round_input)
                parametrize.register_parametrization(layer, "weight", weights())

    def training(self):
        return self.steps, self.lr, self.batch_size

    def restore(self, network):
        for layer in network.modules():
            if parametrize.is_parametrized(layer, "weight"):
                parametrize.remove_parametrizations(layer, "weight", leave_parametrized=False)
                layer._forward_pre_hooks.clear()
                del layer.rounding

    def quantise(self, source, target, calibration):
        graphs.quantise_static(source, target, calibration, "minmax")
        return True


@torch.no_grad()
def at_work(network: nn.Module, x_BCHW: Tensor) -> list[nn.Module]:
    """The layers that a forward pass reaches; those above the features in use are not."""
    reached: list[nn.Module] = []
    hooks = [
        layer.register_forward_pre_hook(lambda layer, _: reached.append(layer))
        for layer in network.modules()
    ]
    network.eval()(x_BCHW)
    for hook in hooks:
        hook.remove()
    return list(dict.fromkeys(reached))


def weights() -> nn.Module:
    """The rounding of a layer's weight: signed, symmetric, per output channel."""
    from torchao.quantization.pt2e import FakeQuantize, PerChannelMinMaxObserver

    grid = {"qscheme": torch.per_channel_symmetric, "ch_axis": 0, "dtype": torch.qint8}
    return FakeQuantize(PerChannelMinMaxObserver, quant_min=-127, quant_max=127, **grid)


def activations() -> nn.Module:
    """The rounding of a layer's input: unsigned, with a moving average of the range."""
    from torchao.quantization.pt2e import FakeQuantize, MovingAverageMinMaxObserver

    return FakeQuantize(MovingAverageMinMaxObserver, quant_min=0, quant_max=255, dtype=torch.quint8)


def round_input(layer: nn.Module, inputs: tuple) -> tuple:
    """Forward pre-hook: round the layer's first input."""
    rounding: nn.Module = layer.rounding  # type: ignore[assignment]
    return (rounding(inputs[0]),)
