"""A finished model on the test images: with the bill the only place that reads their labels, and nothing downstream trains
or chooses."""

import json
from pathlib import Path

import torch
from safetensors.torch import save as to_bytes

from sft_exp.data import splits
from sft_exp.stages import model as models
from sft_exp.store import atomic_io
from sft_exp.store.store import Request
from sft_exp.training.context import Context


def run(folder: Path, request: Request, ctx: Context) -> None:
    """scores.json; predictions.safetensors: `row` int32 [N] in the test manifest, and what the task keeps of each prediction;
    of a class `predicted` int16 [N], and `confidence` float32 [N] if the model has any. Where test images have copies among
    those learnt from, `accuracy_apart` (after the task's score) is that of the others."""
    draw = splits.make(ctx.corpus(request["dataset"]), request["labels"], request["draw"])
    model = models.load(request["model"], ctx.device)
    scores, kept = models.measure(model, draw.test, ctx.device, ctx.group)
    manifest = json.loads((request["test"] / "manifest.json").read_text())
    held = {*draw.test.ids} if manifest["folds"] else set()
    copied = {test for test, seen, _ in manifest["copies"] if seen not in held}
    apart = torch.tensor([name not in copied for name in draw.test.ids])
    if 0 < apart.sum() < len(apart):
        others = models.measure(
            model, draw.test.at(apart.nonzero().flatten()), ctx.device, ctx.group
        )[0]
        scores[f"{model.task.score}_apart"] = others[model.task.score]
    atomic_io.write_json(folder / "scores.json", scores)
    places = {name: n for n, name in enumerate(manifest["ids"])}
    rows = {"row": torch.tensor([places[name] for name in draw.test.ids], dtype=torch.int32)}
    rows |= {
        name: value for name, value in kept.items() if model.probabilistic or name != "confidence"
    }
    atomic_io.write(
        folder / "predictions.safetensors", to_bytes({k: v.contiguous() for k, v in rows.items()})
    )
