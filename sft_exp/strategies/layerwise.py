"""Layer-wise learning-rate decay: the lower a map, the slower it moves. Bao et al. (BEiT), arXiv:2106.08254, appendix;
before them Howard & Ruder, arXiv:1801.06146, section 3.2 (there a factor of 1 / 2.6 a layer).
"""

from dataclasses import dataclass

from sft_exp.core.strategy import Strategy
from sft_exp.errors import require


@dataclass
class Layerwise(Strategy):
    # learning rate of each map as a share of the one above it; the head, on top, has the
    # optimizer's
    decay: float = 0.75

    def __post_init__(self):
        require(0 < self.decay <= 1, "decay", self.decay, "above 0, at most 1")

    def phases(self, layers):
        top_down = [names for names in reversed(layers.values()) if names]
        return [
            (
                1.0,
                {
                    name: self.decay**depth
                    for depth, names in enumerate(top_down, start=1)
                    for name in names
                },
            )
        ]
