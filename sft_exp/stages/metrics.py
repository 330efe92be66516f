"""Further metrics of a finished model on the test images. A new metric retrains nothing."""

import json
from pathlib import Path
from typing import Any

import torch

from sft_exp.data import splits
from sft_exp.stages import model as models
from sft_exp.stages.features import STORED, corpus_of
from sft_exp.store import atomic_io
from sft_exp.store.requests import plain
from sft_exp.store.store import Request
from sft_exp.training.context import Context


def run(folder: Path, request: Request, ctx: Context) -> None:
    """scores.json: the metric's numbers by name; empty if it needs probabilities and has none."""
    run_batched([folder], [request], ctx)


def batch_key(request: Request) -> str:
    """Key of requests that one pass over the test images serves: all fields but the metric."""
    return json.dumps(plain({**request, "metric": None}), sort_keys=True)


def run_batched(folders: list[Path], requests: list[Request], ctx: Context) -> None:
    """`run` for several requests with a single prediction of each image."""
    request = requests[0]
    images = splits.make(corpus_of(request, ctx), request["labels"], request["draw"]).test
    width = images.raw(0).numel() if STORED in request else None
    model = models.load(request["model"], ctx.device, width)
    spec = model.task.of(model.spec)
    allowed = [model.probabilistic or not r["metric"].needs_probabilities for r in requests]
    metrics: list[Any] = [r["metric"].build(spec).to(ctx.device) for r in requests]
    rows = torch.arange(len(images)).split(models.at_once(images))
    for batch in images.batches(rows, ctx.device):
        compared = model.task.compared(model.predict(batch["x"]), batch)
        for metric, use in zip(metrics, allowed, strict=True):
            if use:
                metric.update(*compared)
    for folder, request, metric, use in zip(folders, requests, metrics, allowed, strict=True):
        scores = models.named(request["metric"].key, metric.compute(), spec) if use else {}
        atomic_io.write_json(folder / "scores.json", scores)
