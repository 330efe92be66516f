"""A .pt2 file of torch.export: graph and weights, for any batch size, without this package's code."""

import io
import json
from dataclasses import dataclass
from typing import ClassVar

import torch

from sft_exp.core.deploy import Exporter
from sft_exp.models import graphs
from sft_exp.store import atomic_io

LOADER = """
import json

import torch

extra = {"about.json": ""}
network = torch.export.load("model.pt2", extra_files=extra).module()
classes = json.loads(extra["about.json"])["classes"]


@torch.no_grad()
def predict(images):
    return network(torch.from_numpy(images)).numpy()
"""


@dataclass
class TorchExport(Exporter):
    file: ClassVar[str] = "model.pt2"
    loader: ClassVar[str] = LOADER
    network: ClassVar[bool] = True

    def write(self, model, folder):
        assert model.network is not None, "checked before anything ran"
        x_BCHW = torch.zeros(2, *model.spec.image)
        program = torch.export.export(
            model.network.eval(), (x_BCHW,), dynamic_shapes=({0: torch.export.Dim("batch")},)
        )
        buffer = io.BytesIO()
        torch.export.save(
            program, buffer, extra_files={"about.json": json.dumps(graphs.metadata(model))}
        )
        atomic_io.write(folder / self.file, buffer.getvalue())
