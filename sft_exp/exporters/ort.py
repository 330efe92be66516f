"""ONNX Runtime's own file format, for its builds for phones and small devices.

The graph is optimised, but for no particular processor.
"""

from dataclasses import dataclass
from typing import ClassVar

from sft_exp.core.deploy import Exporter
from sft_exp.models import graphs


@dataclass
class Ort(Exporter):
    file: ClassVar[str] = "model.ort"
    loader: ClassVar[str] = graphs.loader("model.ort")

    def write(self, model, folder):
        graph = model.graph or graphs.export_onnx(model.network, model.spec)
        graphs.write_ort(graphs.with_metadata(graph, graphs.metadata(model)), folder / self.file)
