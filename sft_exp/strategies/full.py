"""Train all of the encoder's parameters, at the optimizer's learning rate."""

from dataclasses import dataclass

from sft_exp.core.strategy import Strategy


@dataclass
class Full(Strategy):
    def phases(self, layers):
        return [(1.0, {name: 1.0 for names in layers.values() for name in names})]
