"""Move every number of the encoder, at the optimizer's learning rate."""

from dataclasses import dataclass

from sft_exp.core import Strategy


@dataclass
class Full(Strategy):
    def phases(self, encoder):
        return [(1.0, {name: 1.0 for name, _ in encoder.named_parameters()})]
