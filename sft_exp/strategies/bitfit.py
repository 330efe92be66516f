"""Train the encoder's biases alone. Ben Zaken et al., arXiv:2106.10199.

BatchNorm's shift is trained; its scale and its running statistics stay as they are.
"""

from dataclasses import dataclass

from sft_exp.core.strategy import Strategy


@dataclass
class BitFit(Strategy):
    def phases(self, layers):
        every = [name for names in layers.values() for name in names]
        return [(1.0, {name: 1.0 for name in every if name.rpartition(".")[2] == "bias"})]
