"""Freeze the encoder and train the head: a linear probe. The features are computed once."""

from dataclasses import dataclass
from typing import ClassVar

from sft_exp.core.strategy import Strategy


@dataclass
class Linear(Strategy):
    frozen: ClassVar[bool] = True

    def phases(self, layers):
        return [(1.0, {})]
