"""Export of a finished model to a file, verified by loading and running it in a new process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import torch
from torch import Tensor

from sft_exp.core.deploy import Exporter, Finished
from sft_exp.core.task import Network
from sft_exp.errors import StorageError
from sft_exp.models import graphs
from sft_exp.stages import model as models
from sft_exp.stages.compress import FACTS, GRAPH
from sft_exp.store import atomic_io
from sft_exp.store.store import Request
from sft_exp.training.context import Context

TOLERANCE = 1e-5  # relative to the largest output, at least 10: 1e-4 for outputs up to 10
IMAGES = 17  # images compared: one alone, and the rest as a batch
WITHOUT_US = 'import sys\n\nsys.modules["sft_exp"] = None  # whoever imports it fails\n'
HARNESS = """
import sys

import numpy

shape = [int(n) for n in sys.argv[2:]]
images = numpy.frombuffer(sys.stdin.buffer.read(), sys.argv[1]).reshape(shape).copy()
outputs = numpy.concatenate([predict(images[:1]), predict(images[1:])])
sys.stdout.buffer.write(outputs.astype("float32").tobytes())
"""


def run(folder: Path, request: Request, ctx: Context) -> None:
    """The exporter's file; load.py, which loads it; export.json: its size and the verification.

    StorageError if the outputs of the loaded file differ by more than the tolerance.
    """
    exporter: Exporter = request["exporter"]
    model = finished(request["model"])
    exporter.write(model, folder)
    atomic_io.write(folder / "load.py", exporter.loader.lstrip())
    train = ctx.corpus(request["dataset"]).train
    x_BCHW = torch.stack([train.raw(row).cpu() for row in range(min(IMAGES, len(train)))])
    expected_BY = outputs(model, x_BCHW).flatten(1)
    reloaded_BY = reloaded(folder, exporter, exporter.input(x_BCHW))
    difference = (reloaded_BY - expected_BY).abs().max().item()
    tolerance = TOLERANCE * max(10.0, expected_BY.abs().max().item())
    if not difference <= tolerance:
        raise StorageError(
            f"{folder / exporter.file}: not exported, since the outputs of the reloaded model"
            f" differ by {difference:.2g} > {tolerance:.2g}"
        )
    size = (folder / exporter.file).stat().st_size
    atomic_io.write_json(
        folder / "export.json",
        {"file": exporter.file, "bytes": size, "difference": difference, "tolerance": tolerance},
    )


def finished(folder: Path) -> Finished:
    """The finished model in the folder of a fine-tuning or a compression."""
    graph = (folder / GRAPH).read_bytes() if (folder / GRAPH).exists() else None
    if not (folder / "model.json").exists():  # an ONNX graph alone
        return Finished(models.spec_in(json.loads((folder / FACTS).read_text())), None, graph, "")
    model = models.load(folder)
    return Finished(
        model.task.of(model.spec),
        Network(model.task, model.nets).eval(),
        graph,
        (folder / "model.json").read_text(),
    )


@torch.no_grad()
def outputs(model: Finished, x_BCHW: Tensor) -> Tensor:
    """The model's outputs in this process [B, ...]."""
    x = x_BCHW.float().div(255)
    if model.network is not None:
        return model.network(x)
    assert model.graph is not None
    return graphs.infer(graphs.session(model.graph), x)


def reloaded(folder: Path, exporter: Exporter, x: Tensor) -> Tensor:
    """Outputs [B, L] of a new process that runs load.py; StorageError with its error on failure."""
    loader = (folder / "load.py").read_text(encoding="utf-8")
    code = (WITHOUT_US if exporter.alone else "") + loader + HARNESS
    # the package and the plug-in folders, whose classes model.json names, may lie anywhere
    folders = [str(Path(__file__).parents[2]), *filter(None, sys.path)]
    path = {} if exporter.alone else {"PYTHONPATH": os.pathsep.join(folders)}
    child = subprocess.run(  # noqa: S603 - our own code in our own interpreter
        [
            sys.executable,
            *(["-I"] if exporter.alone else []),
            "-c",
            code,
            str(x.numpy().dtype),
            *map(str, x.shape),
        ],
        input=x.numpy().tobytes(),
        capture_output=True,
        cwd=folder,
        env={**os.environ, **path},
        check=False,
    )
    if child.returncode:
        lines = child.stderr.decode(errors="replace").strip().splitlines()
        reason = lines[-1] if lines else child.returncode
        raise StorageError(f"{folder / exporter.file}: a new process cannot load it: {reason}")
    return torch.frombuffer(bytearray(child.stdout), dtype=torch.float32).view(len(x), -1)
