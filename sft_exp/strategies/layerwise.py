"""Layer-wise learning-rate decay: lower maps of the encoder get smaller learning rates.

Bao et al. (BEiT), arXiv:2106.08254, appendix; earlier Howard & Ruder, arXiv:1801.06146, section
3.2, with a factor of 1 / 2.6 per layer.
"""

from dataclasses import dataclass

from sft_exp.core.strategy import Strategy
from sft_exp.core.types import Rates
from sft_exp.errors import require


@dataclass
class Layerwise(Strategy):
    # learning rate of each map relative to the one above it; the head has the optimizer's
    decay: float = 0.75

    def __post_init__(self):
        require(0 < self.decay <= 1, "decay", self.decay, "above 0, at most 1")

    def phases(self, layers):
        top_down = [names for names in reversed(layers.values()) if names]
        rates: Rates = {}
        for depth, names in enumerate(top_down, start=1):
            rates |= dict.fromkeys(names, self.decay**depth)
        return [(1.0, rates)]
