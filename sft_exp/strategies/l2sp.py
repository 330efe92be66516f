"""Full fine-tuning with a pull back to where the encoder started. Li et al. (L2-SP), arXiv:1802.01483, equation 3.

Loss: + alpha / 2 |w - w0|^2 of the encoder's parameters + beta / 2 |w|^2 of the head's. From scratch, w0 is the random start.
"""

from dataclasses import dataclass

from sft_exp.core.strategy import Strategy
from sft_exp.errors import require


@dataclass
class L2SP(Strategy):
    alpha: float = 0.1  # pull of the encoder to its start
    beta: float = 0.01  # pull of the head to zero

    def __post_init__(self):
        require(self.alpha >= 0, "alpha", self.alpha, "0 or more")
        require(self.beta >= 0, "beta", self.beta, "0 or more")

    def phases(self, layers):
        return [(1.0, {name: 1.0 for names in layers.values() for name in names})]

    def penalty(self, now, start):
        pulled = [
            self.alpha / 2 * (p - start[name]).square().sum()
            for name, p in now.items()
            if name in start
        ]
        return sum(pulled) + sum(
            self.beta / 2 * p.square().sum() for name, p in now.items() if name not in start
        )
