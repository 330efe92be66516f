"""An ONNX file for any batch size; its metadata has the classes and the scaling of the input."""

from dataclasses import dataclass
from typing import ClassVar

from sft_exp.core.deploy import Exporter
from sft_exp.models import graphs
from sft_exp.store import atomic_io


@dataclass
class Onnx(Exporter):
    file: ClassVar[str] = "model.onnx"
    loader: ClassVar[str] = graphs.loader("model.onnx")

    # put the scaling into the graph, which then takes decoded images: uint8 [batch, H, W, C]
    preprocess: bool = False

    def write(self, model, folder):
        graph = model.graph or graphs.export_onnx(model.network, model.spec)
        if self.preprocess:
            graph = graphs.with_uint8_input(graph)
        metadata = {**graphs.metadata(model), "preprocess": self.preprocess}
        atomic_io.write(folder / self.file, graphs.with_metadata(graph, metadata))

    def input(self, x_BCHW):
        if self.preprocess:
            return x_BCHW.permute(0, 2, 3, 1).contiguous()
        return super().input(x_BCHW)
