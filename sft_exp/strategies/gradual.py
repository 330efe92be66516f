"""Unfreeze the encoder map by map, from the top. Howard & Ruder, arXiv:1801.06146, section 3.3."""

from dataclasses import dataclass

from sft_exp.core.strategy import Strategy
from sft_exp.core.types import Rates
from sft_exp.errors import require


@dataclass
class Gradual(Strategy):
    # share of the steps after which the lowest map moves too; the head moves alone first
    unfreezing: float = 0.5

    def __post_init__(self):
        require(0 < self.unfreezing < 1, "unfreezing", self.unfreezing, "between 0 and 1")

    def phases(self, layers):
        top_down = [names for names in reversed(layers.values()) if names]
        moving: Rates = {}
        phases = []
        for names in top_down:
            phases.append((self.unfreezing / len(top_down), moving))
            moving = moving | dict.fromkeys(names, 1.0)
        return [*phases, (1 - sum(share for share, _ in phases), moving)]
