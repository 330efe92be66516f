"""No export: the run's folder and the store are where the model is."""

from dataclasses import dataclass

from sft_exp.core.deploy import Exporter


@dataclass
class Nowhere(Exporter):
    def write(self, model, folder):
        return
