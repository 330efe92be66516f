"""LP-FT: linear probing, then full fine-tuning at a smaller rate. Kumar et al., arXiv:2202.10054,
section 3.4.

Fine-tuning distorts the features less if the head already fits them. `task.head=probe`, the
default, starts every strategy from such a head, solved in closed form. This strategy trains the
head by gradient in the first steps, as the paper does, whatever its start.
"""

from dataclasses import dataclass

from sft_exp.core.strategy import Strategy
from sft_exp.errors import require


@dataclass
class LPFT(Strategy):
    probe: float = 0.5  # share of the steps in which only the head is trained
    rate: float = 0.1  # learning rate of the encoder afterwards, relative to the head's

    def __post_init__(self):
        require(0 < self.probe < 1, "probe", self.probe, "between 0 and 1")
        require(self.rate > 0, "rate", self.rate, "above 0")

    def phases(self, layers):
        return [
            (self.probe, {}),
            (1 - self.probe, {name: self.rate for names in layers.values() for name in names}),
        ]
