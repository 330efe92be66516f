"""A finished model on the test images: with the bill the only place that reads their labels, and nothing downstream trains
or chooses."""

from pathlib import Path

import torch
from safetensors.torch import save as to_bytes

from sft_exp import durable, splits
from sft_exp.stages import model as models
from sft_exp.stages.context import Context
from sft_exp.store import Request


def run(folder: Path, request: Request, ctx: Context) -> None:
    """scores.json; predictions.safetensors: `predicted` int16 [N], `confidence` float32 [N] if it has any."""
    draw = splits.make(ctx.corpus(request["dataset"]), request["labels"], request["draw"])
    model = models.load(request["model"], ctx.device)
    scores, logits_NY = models.measure(model, draw.test, ctx.device)
    durable.write_json(folder / "scores.json", scores)
    confidence, predicted = logits_NY.softmax(1).max(1)
    rows = {"predicted": predicted.to(torch.int16)} | ({"confidence": confidence.float()} if model.probabilistic else {})
    durable.write(folder / "predictions.safetensors", to_bytes({k: v.cpu().contiguous() for k, v in rows.items()}))
