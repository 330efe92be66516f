"""The weights as a safetensors file; model.json describes the matching parts of this package."""

from dataclasses import dataclass
from typing import ClassVar

from sft_exp.core.deploy import Exporter
from sft_exp.models import transfer
from sft_exp.store import atomic_io

LOADER = """
import torch

import sft_exp

model = sft_exp.load_model(".")
classes = model.spec.classes


def predict(images):
    return model.predict(torch.from_numpy(images)).numpy()
"""


@dataclass
class Safetensors(Exporter):
    file: ClassVar[str] = "model.safetensors"
    loader: ClassVar[str] = LOADER
    network: ClassVar[bool] = True
    alone: ClassVar[bool] = False

    def write(self, model, folder):
        assert model.network is not None, "checked before anything ran"
        atomic_io.write(folder / self.file, transfer.own_content(model.network.nets))
        atomic_io.write(folder / "model.json", model.description)
