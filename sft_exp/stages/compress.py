"""Compression: a finished model -> a smaller or faster one and its ONNX graph. No test images."""

import json
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from sft_exp.config.schema import OptimizerConfig
from sft_exp.core.deploy import Compressor
from sft_exp.core.rng import stream
from sft_exp.core.task import Network
from sft_exp.data import splits
from sft_exp.data.images import Images
from sft_exp.models import graphs, transfer
from sft_exp.models.distillation import DistillationMethod
from sft_exp.schedules.piecewise_cosine import PiecewiseCosine
from sft_exp.stages import model as models
from sft_exp.store import atomic_io
from sft_exp.store.store import Request
from sft_exp.training.context import Context
from sft_exp.training.fit import delete_checkpoints, fit
from sft_exp.training.loop import Plan

CALIBRATION, AT_ONCE = 512, 64  # training images that calibrate quantisation; batch size
GRAPH, FACTS = "model.onnx", "facts.json"


def run(folder: Path, request: Request, ctx: Context) -> None:
    """model.onnx; facts.json: image, classes, parameters, macs (of one image).

    Unless the result exists only as an ONNX graph, also model.json and model.safetensors.
    """
    corpus = ctx.corpus(request["dataset"])
    draw = splits.make(corpus, request["labels"], request["draw"])
    steps: list[Compressor] = request["steps"]
    model = models.load(request["model"], ctx.device)
    network = Network(model.task, model.nets)
    x_BCHW = draw.pool.floats(torch.arange(min(2, len(draw.pool))), ctx.device)
    for number, step in enumerate(steps):
        step.alter(network, x_BCHW)
        if step.training()[0]:
            distill(atomic_io.folder(folder / f"step-{number}"), request, step, network, draw, ctx)
        step.restore(network)
    network.eval()
    spec = {"image": model.spec.image, "classes": model.spec.classes, "levels": model.spec.levels}
    about = {**spec, **models.reading(model.spec)}
    atomic_io.write_json(folder / FACTS, {**about, **cost(network, x_BCHW[:1])})
    if not any(step.graph for step in steps):
        description = json.loads((request["model"] / "model.json").read_text())
        atomic_io.write_json(folder / "model.json", {**description, "resized": bool(steps)})
        atomic_io.write(folder / "model.safetensors", transfer.own_content(model.nets))
    file, smaller = folder / GRAPH, folder / f"next-{GRAPH}"
    atomic_io.write(file, graphs.export_onnx(network, model.spec))
    for step in steps:
        if step.quantise(file, smaller, calibration(draw.pool, request["seed"])):
            atomic_io.move(smaller, file)


def distill(
    folder: Path,
    request: Request,
    step: Compressor,
    network: Network,
    draw: splits.Draw,
    ctx: Context,
) -> None:
    """Fine-tune the whole network by distillation from the original and on the draw's labels.

    A killed run resumes from its checkpoint.
    """
    count, lr, size = step.training()
    original = models.load(request["model"], ctx.device)
    method = DistillationMethod(network.task, original)
    phases = [(1.0, {name: 1.0 for name, _ in network.nets.named_parameters()})]
    optim = OptimizerConfig("torch.optim.Adam", {"lr": lr})
    plan = Plan(
        steps=count,
        stop=count,
        batch_size=size,
        schedule=PiecewiseCosine([[0.0, 1.0], [1.0, 0.0]]),
        phases=phases,
        name=(request["seed"], "compress", request["draw"]),
        precision=request["precision"],
    )
    data = {"labelled": draw.labelled, "unlabelled": draw.pool}
    for _ in fit(
        folder,
        method,
        network.nets.train(),
        optim,
        data,
        plan,
        ctx,
        f"compress {type(step).__name__}",
    ):
        pass
    delete_checkpoints(folder, {"steps": count, "stop": count})


def cost(network: Network, x_BCHW: Tensor) -> dict[str, int]:
    """Number of parameters that predictions depend on, and multiply-accumulates of one image."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(x_BCHW)
    network.requires_grad_().zero_grad()
    network(x_BCHW).sum().backward()
    used = sum(p.numel() for p in network.parameters() if p.grad is not None)
    network.zero_grad()
    return {"parameters": used, "macs": counter.get_total_flops() // 2}


def calibration(pool: Images, seed: int) -> Iterator[Tensor]:
    some = torch.randperm(len(pool), generator=stream(seed, "calibration"))[:CALIBRATION]
    for batch in pool.batches(some.split(AT_ONCE), torch.device("cpu")):
        yield batch["x"]
