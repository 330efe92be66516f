"""ONNX graphs: export, inference and quantisation. The libraries are imported where used."""

import json
import logging
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sft_exp.core.deploy import Finished
from sft_exp.core.types import Spec
from sft_exp.errors import ConfigError

NEEDED = ("onnx", "onnxscript", "onnxruntime")  # the extra `export`
INPUT, OUTPUT = "image", "logits"  # names in every graph
# our name of a calibration method -> ONNX Runtime's
RANGES = {"minmax": "MinMax", "entropy": "Entropy", "percentile": "Percentile"}
ABOUT = "sft_exp"  # key of the metadata
LOADER = """
import json

import onnxruntime

session = onnxruntime.InferenceSession("FILE", providers=["CPUExecutionProvider"])
classes = json.loads(session.get_modelmeta().custom_metadata_map["classes"])


def predict(images):
    return session.run(["logits"], {"image": images})[0]
"""


def loader(file: str) -> str:
    """Python code that loads such a file without this package."""
    return LOADER.replace("FILE", file)


def require_onnx(key: str, value: object, others: Iterable[str] = ()) -> None:
    """ConfigError unless the libraries of ONNX and `others` are installed; imports none of them."""
    if missing := [name for name in dict.fromkeys([*NEEDED, *others]) if find_spec(name) is None]:
        raise ConfigError(key, value, f"needs {', '.join(missing)}: pip install 'sft_exp[export]'")


def from_network(network: nn.Module, spec: Spec) -> bytes:
    """The network as an ONNX graph: `image`, float [batch, C, H, W] in [0, 1] -> `logits`."""
    x_BCHW = torch.zeros(2, *spec.image)
    with quiet():
        program: Any = torch.onnx.export(
            network.eval().cpu(),
            (x_BCHW,),
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            input_names=[INPUT],
            output_names=[OUTPUT],
            verbose=False,
        )
    for node in program.model_proto.graph.node:
        del node.metadata_props[:]  # stack traces of our source
        node.doc_string = ""
    return program.model_proto.SerializeToString()


def quantise_static(source: Path, target: Path, calibration: Iterable[Tensor], ranges: str) -> None:
    """Quantise to QDQ form with signed weights per channel and unsigned activations.

    `calibration` yields batches [B, C, H, W] in [0, 1].
    """
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    class Reader(CalibrationDataReader):
        def __init__(self):
            self.batches = iter(calibration)

        def get_next(self):
            batch = next(self.batches, None)
            return None if batch is None else {INPUT: batch.numpy()}

    with preprocessed(source, target) as ready, quiet():
        quantize_static(
            ready,
            target,
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod[RANGES[ranges]],
        )


def quantise_dynamic(source: Path, target: Path) -> None:
    """Quantise the weights; activations are quantised at inference."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with preprocessed(source, target) as ready, quiet():
        # ONNX Runtime's integer convolution needs unsigned weights
        quantize_dynamic(ready, target, weight_type=QuantType.QUInt8)


@contextmanager
def preprocessed(source: Path, target: Path) -> Iterator[Path]:
    """A temporary file of the graph with inferred shapes and folded BatchNorms, to be quantised."""
    from onnxruntime.quantization.shape_inference import quant_pre_process

    from sft_exp.store import atomic_io

    ready = target.with_name(f"{target.stem}.ready.onnx")
    with quiet():
        quant_pre_process(source, ready, skip_symbolic_shape=True)
    try:
        yield ready
    finally:
        atomic_io.remove(ready)


def session(graph: bytes | Path) -> Any:
    """ONNX Runtime's session of a graph on the CPU with one thread."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    model = graph if isinstance(graph, bytes) else str(graph)
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def run(opened: Any, x: Tensor) -> Tensor:
    """The logits [B, Y] of a session for an input of its graph."""
    return torch.from_numpy(opened.run([OUTPUT], {INPUT: x.numpy()})[0])


def with_pixels(graph: bytes) -> bytes:
    """The graph with preprocessing: `image` is uint8 [batch, H, W, C], as decoders return it."""
    import onnx
    from onnx import TensorProto, compose, helper, numpy_helper

    model = onnx.load_from_string(graph)
    (image,) = model.graph.input
    batch, channels, height, width = (
        d.dim_param or d.dim_value for d in image.type.tensor_type.shape.dim
    )
    preprocessing = helper.make_graph(
        [
            helper.make_node("Cast", ["pixels"], ["float"], to=TensorProto.FLOAT),
            helper.make_node("Div", ["float", "most"], ["scaled"]),
            helper.make_node("Transpose", ["scaled"], ["planes"], perm=[0, 3, 1, 2]),
        ],
        "pixels",
        [
            helper.make_tensor_value_info(
                "pixels", TensorProto.UINT8, [batch, height, width, channels]
            )
        ],
        [
            helper.make_tensor_value_info(
                "planes", TensorProto.FLOAT, [batch, channels, height, width]
            )
        ],
        [numpy_helper.from_array(torch.tensor(255.0).numpy(), "most")],
    )
    opsets = [o for o in model.opset_import if o.domain == ""]
    first = helper.make_model(preprocessing, opset_imports=opsets, ir_version=model.ir_version)
    whole = compose.merge_models(
        compose.add_prefix(first, "pixels/"), model, [("pixels/planes", INPUT)]
    )
    for node in whole.graph.node:
        node.input[:] = [INPUT if name == "pixels/pixels" else name for name in node.input]
    whole.graph.input[0].name = INPUT
    return whole.SerializeToString()


def facts(model: Finished) -> dict[str, Any]:
    """Facts needed to use the file. Images are divided by `scale` first, unless `preprocess`."""
    predicts = model.network.task.predicts if model.network else "classes"
    about = {
        "classes": model.spec.classes,
        "image": model.spec.image,
        "predicts": predicts,
        "preprocess": False,
        "scale": 255,
    }
    if model.spec.fit != "crop":
        about["fit"] = model.spec.fit
    # the range of files with more than 8 bits that becomes 0 to 255
    return {**about, "levels": model.spec.levels} if model.spec.levels else about


def with_about(graph: bytes, about: dict[str, Any]) -> bytes:
    """The graph with these facts in its metadata."""
    import onnx

    model = onnx.load_from_string(graph)
    onnx.helper.set_model_props(
        model, {ABOUT: json.dumps(about), "classes": json.dumps(about["classes"])}
    )
    return model.SerializeToString()


def about(opened: Any) -> dict[str, Any] | None:
    """The facts that `with_about` wrote, from a session; None for files of other origin."""
    text = opened.get_modelmeta().custom_metadata_map.get(ABOUT)
    return json.loads(text) if text else None


def to_ort(graph: bytes, target: Path) -> None:
    """Write the graph in ONNX Runtime's format, with optimisations valid on any processor."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(target)
    options.add_session_config_entry("session.save_model_format", "ORT")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the libraries' warnings and logs, which are meant for their developers."""
    level = logging.root.level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.root.setLevel(logging.ERROR)
        try:
            yield
        finally:
            logging.root.setLevel(level)
