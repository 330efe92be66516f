"""Train the parameters whose names match a pattern, and freeze the others."""

import re
from dataclasses import dataclass

from sft_exp.core.strategy import Strategy
from sft_exp.errors import ConfigError


@dataclass
class Partial(Strategy):
    # regular expression, searched for in the encoder's parameter names, e.g. "^code|norm"
    trainable: str = ".*"

    def __post_init__(self):
        try:
            self.pattern = re.compile(self.trainable)
        except re.error as error:
            raise ConfigError(
                "trainable", self.trainable, f"must be a regular expression ({error})"
            ) from error

    def phases(self, layers):
        every = [name for names in layers.values() for name in names]
        rates = {name: 1.0 for name in every if self.pattern.search(name)}
        if every and not rates:
            raise ConfigError(
                "trainable",
                self.trainable,
                f"must match some of the encoder's parameters: {', '.join(every)}",
            )
        return [(1.0, rates)]
