"""No export: the model is in the run's folder and the store."""

from dataclasses import dataclass

from sft_exp.core.deploy import Exporter


@dataclass
class Nowhere(Exporter):
    def write(self, model, folder):
        return
