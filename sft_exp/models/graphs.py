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

LIBRARIES = ("onnx", "onnxscript", "onnxruntime")  # those of the extra `export`
INPUT, OUTPUT = "image", "logits"  # names in every graph
# name of a calibration method in the config -> its name in ONNX Runtime
CALIBRATIONS = {"minmax": "MinMax", "entropy": "Entropy", "percentile": "Percentile"}
METADATA_KEY = "sft_exp"  # the property of a graph that holds `metadata`
LOADER = """
import json

import onnxruntime

session = onnxruntime.InferenceSession("FILE", providers=["CPUExecutionProvider"])
classes = json.loads(session.get_modelmeta().custom_metadata_map["classes"])


def predict(images):
    return session.run(["logits"], {"image": images})[0]
"""


def loader(file: str) -> str:
    """Python code that loads and runs an exported file without this package."""
    return LOADER.replace("FILE", file)


def require_onnx(key: str, value: object, others: Iterable[str] = ()) -> None:
    """ConfigError about a key's value unless `LIBRARIES` and `others` are installed; imports none of them."""
    missing = [name for name in dict.fromkeys([*LIBRARIES, *others]) if find_spec(name) is None]
    if missing:
        raise ConfigError(key, value, f"needs {', '.join(missing)}: pip install 'sft_exp[export]'")


def export_onnx(network: nn.Module, spec: Spec) -> bytes:
    """The network as an ONNX graph: `image`, float [batch, C, H, W] in [0, 1] -> `logits`."""
    x_BCHW = torch.zeros(2, *spec.image)
    with silence_libraries():
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
    """Quantise a graph to QDQ form with signed weights per channel and unsigned activations.

    Args:
        source: the file of the graph.
        target: the file to write.
        calibration: batches [B, C, H, W] in [0, 1], on which the ranges of activations are measured.
        ranges: how a range follows from the measurements, a key of `CALIBRATIONS`.
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

    with preprocessed(source, target) as file, silence_libraries():
        quantize_static(
            file,
            target,
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod[CALIBRATIONS[ranges]],
        )


def quantise_dynamic(source: Path, target: Path) -> None:
    """Quantise the weights of a graph; its activations are quantised at inference."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with preprocessed(source, target) as file, silence_libraries():
        # ONNX Runtime's integer convolution needs unsigned weights
        quantize_dynamic(file, target, weight_type=QuantType.QUInt8)


@contextmanager
def preprocessed(source: Path, target: Path) -> Iterator[Path]:
    """A temporary file of the graph with inferred shapes and folded BatchNorms, beside `target`."""
    from onnxruntime.quantization.shape_inference import quant_pre_process

    from sft_exp.store import atomic_io

    temporary = target.with_name(f"{target.stem}.ready.onnx")
    with silence_libraries():
        quant_pre_process(source, temporary, skip_symbolic_shape=True)
    try:
        yield temporary
    finally:
        atomic_io.remove(temporary)


def session(graph: bytes | Path) -> Any:
    """ONNX Runtime's session of a graph on the CPU with one thread."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    model = graph if isinstance(graph, bytes) else str(graph)
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def infer(session: Any, x: Tensor) -> Tensor:
    """The logits [B, Y] that a session computes for images x, as its graph takes them."""
    return torch.from_numpy(session.run([OUTPUT], {INPUT: x.numpy()})[0])


def with_uint8_input(graph: bytes) -> bytes:
    """The graph with preprocessing: its `image` is uint8 [batch, H, W, C], as decoders return it."""
    import onnx
    from onnx import TensorProto, compose, helper, numpy_helper

    model = onnx.load_from_string(graph)
    (image,) = model.graph.input
    shape = image.type.tensor_type.shape.dim
    batch, channels, height, width = (axis.dim_param or axis.dim_value for axis in shape)
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
    front = helper.make_model(preprocessing, opset_imports=opsets, ir_version=model.ir_version)
    front = compose.add_prefix(front, "pixels/")  # no name may occur in both graphs
    merged = compose.merge_models(front, model, [("pixels/planes", INPUT)])
    for node in merged.graph.node:
        node.input[:] = [INPUT if name == "pixels/pixels" else name for name in node.input]
    merged.graph.input[0].name = INPUT
    return merged.SerializeToString()


def metadata(model: Finished) -> dict[str, Any]:
    """What a user of the exported file must know, as JSON.

    Images are divided by `scale` before they are given to the graph, unless `preprocess`: then the
    graph does so itself.
    """
    facts = {
        "classes": model.spec.classes,
        "image": model.spec.image,
        "predicts": model.network.task.predicts if model.network else "classes",
        "preprocess": False,
        "scale": 255,
    }
    if model.spec.fit != "crop":
        facts["fit"] = model.spec.fit
    if model.spec.levels:  # the range of files with more than 8 bits that becomes 0 to 255
        facts["levels"] = model.spec.levels
    return facts


def with_metadata(graph: bytes, facts: dict[str, Any]) -> bytes:
    """The graph with the result of `metadata` in its properties."""
    import onnx

    model = onnx.load_from_string(graph)
    onnx.helper.set_model_props(
        model, {METADATA_KEY: json.dumps(facts), "classes": json.dumps(facts["classes"])}
    )
    return model.SerializeToString()


def read_metadata(session: Any) -> dict[str, Any] | None:
    """What `with_metadata` wrote into the graph of a session; None for files of other origin."""
    text = session.get_modelmeta().custom_metadata_map.get(METADATA_KEY)
    return json.loads(text) if text else None


def write_ort(graph: bytes, target: Path) -> None:
    """Write the graph in ONNX Runtime's format, with optimisations valid on any processor."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(target)
    options.add_session_config_entry("session.save_model_format", "ORT")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


@contextmanager
def silence_libraries() -> Iterator[None]:
    """Silence the libraries' warnings and logs, which are meant for their developers."""
    level = logging.root.level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.root.setLevel(logging.ERROR)
        try:
            yield
        finally:
            logging.root.setLevel(level)
