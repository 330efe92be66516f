"""Linear probe: train a linear head by gradient on cached features of the frozen encoder."""

from dataclasses import dataclass
from typing import ClassVar

from sft_exp.core.strategy import Strategy


@dataclass
class Linear(Strategy):
    frozen: ClassVar[bool] = True

    def phases(self, layers):
        return [(1.0, {})]
