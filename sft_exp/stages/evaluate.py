"""Evaluation of a finished model on the test images.

Only this stage and the benchmark read test labels, and nothing downstream trains or selects.
"""

import json
from pathlib import Path

import torch
from safetensors.torch import save as to_bytes

from sft_exp.data import splits
from sft_exp.stages import model as models
from sft_exp.stages.features import STORED, corpus_of
from sft_exp.store import atomic_io
from sft_exp.store.store import Request
from sft_exp.training.context import Context


def run(folder: Path, request: Request, ctx: Context) -> None:
    """scores.json; predictions.safetensors: `row` int32 [N] in the test manifest, and task records.

    For classes these are `predicted` int16 [N], and `confidence` float32 [N] if the model has
    probabilities. If some test images have copies in the training data, `accuracy_apart` (named
    after the task's score) is the score on the others.
    """
    draw = splits.make(corpus_of(request, ctx), request["labels"], request["draw"])
    width = draw.test.raw(0).numel() if STORED in request else None
    model = models.load(request["model"], ctx.device, width)
    scores, records = models.measure(model, draw.test, ctx.device, ctx.group)
    manifest = json.loads((request["test"] / "manifest.json").read_text())
    held_out = {*draw.test.ids} if manifest["folds"] else set()
    copied = {test for test, source, _ in manifest["copies"] if source not in held_out}
    apart = torch.tensor([name not in copied for name in draw.test.ids])
    if 0 < apart.sum() < len(apart):
        others = draw.test.at(apart.nonzero().flatten())
        scores_apart, _ = models.measure(model, others, ctx.device, ctx.group)
        scores[f"{model.task.score}_apart"] = scores_apart[model.task.score]
    atomic_io.write_json(folder / "scores.json", scores)
    rows = {name: n for n, name in enumerate(manifest["ids"])}
    predictions = {"row": torch.tensor([rows[name] for name in draw.test.ids], dtype=torch.int32)}
    for name, value in records.items():
        if model.probabilistic or name != "confidence":
            predictions[name] = value
    atomic_io.write(
        folder / "predictions.safetensors",
        to_bytes({k: v.contiguous() for k, v in predictions.items()}),
    )
