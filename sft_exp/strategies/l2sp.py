"""L2-SP: full fine-tuning with an L2 penalty on the distance from the encoder's initial weights.

Li et al., arXiv:1802.01483, equation 3. The loss has the additional terms alpha / 2 |w - w0|^2 for
the encoder's parameters and beta / 2 |w|^2 for the head's. From scratch, w0 is the random
initialisation.
"""

from dataclasses import dataclass

from sft_exp.core.strategy import Strategy
from sft_exp.errors import require


@dataclass
class L2SP(Strategy):
    alpha: float = 0.1  # weight of the encoder's penalty
    beta: float = 0.01  # weight of the head's penalty

    def __post_init__(self):
        require(self.alpha >= 0, "alpha", self.alpha, "0 or more")
        require(self.beta >= 0, "beta", self.beta, "0 or more")

    def phases(self, layers):
        return [(1.0, {name: 1.0 for names in layers.values() for name in names})]

    def penalty(self, now, start):
        encoder = {name: p for name, p in now.items() if name in start}
        head = [p for name, p in now.items() if name not in start]
        distances = [
            self.alpha / 2 * (p - start[name]).square().sum() for name, p in encoder.items()
        ]
        return sum(distances) + sum(self.beta / 2 * p.square().sum() for p in head)
