"""Move the biases alone. Ben Zaken et al., arXiv:2106.10199. BatchNorm keeps its scale and statistics, and moves its shift."""

from dataclasses import dataclass

from sft_exp.core.strategy import Strategy


@dataclass
class BitFit(Strategy):
    def phases(self, layers):
        return [
            (
                1.0,
                {
                    name: 1.0
                    for names in layers.values()
                    for name in names
                    if name.rpartition(".")[2] == "bias"
                },
            )
        ]
