"""No compression: the model is unchanged."""

from dataclasses import dataclass

from sft_exp.core.deploy import Compressor


@dataclass
class Unchanged(Compressor):
    def variants(self, name):
        return {}
