"""Further metrics of a finished model on the test images: a stage of its own, so that adding one retrains nothing."""

import json
from pathlib import Path
from typing import Any

import torch

from sft_exp.data import splits
from sft_exp.stages import model as models
from sft_exp.store import atomic_io
from sft_exp.store.requests import plain
from sft_exp.store.store import Request
from sft_exp.training.context import Context


def run(folder: Path, request: Request, ctx: Context) -> None:
    """scores.json: the metric's numbers by name; empty where the model's predictions do not allow it."""
    run_batched([folder], [request], ctx)


def batch_key(request: Request) -> str:
    """What requests have in common that one pass over the test images answers: all but the metric."""
    return json.dumps(plain({**request, "metric": None}), sort_keys=True)


def run_batched(folders: list[Path], requests: list[Request], ctx: Context) -> None:
    """What `run` does for each, with one prediction of each image for all."""
    request = requests[0]
    images = splits.make(ctx.corpus(request["dataset"]), request["labels"], request["draw"]).test
    model = models.load(request["model"], ctx.device)
    spec = model.task.of(model.spec)
    allowed = [model.probabilistic or not r["metric"].needs_probabilities for r in requests]
    built: list[Any] = [r["metric"].build(spec).to(ctx.device) for r in requests]
    rows = torch.arange(len(images)).split(models.at_once(images))
    for batch in images.batches(rows, ctx.device):
        compared = model.task.compared(model.predict(batch["x"]), batch)
        for metric, wanted in zip(built, allowed, strict=True):
            if wanted:
                metric.update(*compared)
    for folder, request, metric, wanted in zip(folders, requests, built, allowed, strict=True):
        found = models.named(request["metric"].key, metric.compute(), spec) if wanted else {}
        atomic_io.write_json(folder / "scores.json", found)
