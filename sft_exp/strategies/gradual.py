"""Gradual unfreezing: from the top map of the encoder to the lowest.

Howard & Ruder, arXiv:1801.06146, section 3.3.
"""

from dataclasses import dataclass

from sft_exp.core.strategy import Strategy
from sft_exp.core.types import Rates
from sft_exp.errors import require


@dataclass
class Gradual(Strategy):
    # share of the steps after which all maps are trainable; at first only the head is
    unfreezing: float = 0.5

    def __post_init__(self):
        require(0 < self.unfreezing < 1, "unfreezing", self.unfreezing, "between 0 and 1")

    def phases(self, layers):
        top_down = [names for names in reversed(layers.values()) if names]
        rates: Rates = {}
        phases = []
        for names in top_down:
            phases.append((self.unfreezing / len(top_down), rates))
            rates = rates | dict.fromkeys(names, 1.0)
        return [*phases, (1 - sum(share for share, _ in phases), rates)]
