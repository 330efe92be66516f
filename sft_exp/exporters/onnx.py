"""An ONNX file, for any batch size; classes and scaling are in its metadata."""

from dataclasses import dataclass
from typing import ClassVar

from sft_exp.core.deploy import Exporter
from sft_exp.models import graphs
from sft_exp.store import atomic_io


@dataclass
class Onnx(Exporter):
    file: ClassVar[str] = "model.onnx"
    loader: ClassVar[str] = graphs.loader("model.onnx")

    # scaling inside the graph: it takes uint8 [batch, H, W, C], as image files are decoded
    preprocess: bool = False

    def write(self, model, folder):
        graph = model.graph or graphs.from_network(model.network, model.spec)
        about = {**graphs.facts(model), "preprocess": self.preprocess}
        graph = graphs.with_pixels(graph) if self.preprocess else graph
        atomic_io.write(folder / self.file, graphs.with_about(graph, about))

    def input(self, x_BCHW):
        return (
            x_BCHW.permute(0, 2, 3, 1).contiguous() if self.preprocess else x_BCHW.float().div(255)
        )
