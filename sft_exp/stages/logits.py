"""All outputs of a classifier, from which a report takes its curves: logits of the test images and of
labelled images that the model was not trained on.

The stage is computed after the others, for runs that write a report.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as to_bytes
from torch import Tensor

from sft_exp.data import splits
from sft_exp.data.images import Images
from sft_exp.models import transfer
from sft_exp.stages import model as models
from sft_exp.stages.features import STORED, corpus_of
from sft_exp.stages.model import Model
from sft_exp.store import atomic_io
from sft_exp.store.store import Request
from sft_exp.training.context import Context

FILE = "logits.safetensors"


@dataclass(frozen=True)
class Logits:
    """Logits of N test images, in the order of the labelled split, and of M held-out images."""

    test: Tensor  # [N, K]
    held_out: Tensor  # [M, K]; M is 0 if the model was trained on all its labels
    held_out_y: Tensor  # int64 [M]


def run(folder: Path, request: Request, ctx: Context) -> None:
    """FILE: the fields of `Logits`. Held-out images are those of the request's label budget alone."""
    test = splits.make(corpus_of(request, ctx), request["labels"], request["draw"]).test
    width = test.raw(0).numel() if STORED in request else None
    found = {"test": predictions(models.load(request["model"], ctx.device, width), test, ctx)}
    corpus: Any = ctx.corpus(request["dataset"])
    labelled = splits.make(corpus, request["labels"], request["draw"]).labelled
    if request["held_out"] and len(rows := unlearnt(request["model"], labelled)):
        held_out = labelled.at(rows)
        found["held_out"] = predictions(models.load(request["model"], ctx.device), held_out, ctx)
        found["held_out_y"] = held_out.y.cpu()
    atomic_io.write(folder / FILE, to_bytes({k: v.contiguous() for k, v in found.items()}))


@torch.no_grad()
def predictions(model: Model, images: Images, ctx: Context) -> Tensor:
    """The model's logits of the images, float32 [N, K]."""
    rows = torch.arange(len(images)).split(models.at_once(images))
    parts = [model.predict(batch["x"]).cpu() for batch in images.batches(rows, ctx.device)]
    return torch.cat(parts).float()


def unlearnt(folder: Path, labelled: Images) -> Tensor:
    """Rows of the labelled images that the fine-tuning in the folder held out for validation."""
    names = {*json.loads((folder / "labels.json").read_text())["validation"]}
    return torch.tensor([n for n, name in enumerate(labelled.ids) if name in names]).long()


def why_none(val: str) -> str:
    """Why a classifier that was validated by `val` has no held-out labels of its budget."""
    if val == "full":
        return "val=full holds out labels outside the label budget"
    return "its model was trained on all its labels; val=holdout holds some out"


def read(folder: Path) -> Logits:
    """What `run` has written."""
    stored = transfer.read_own(folder / FILE)
    count = stored["test"].shape[1]
    none = torch.empty(0, count), torch.empty(0).long()
    return Logits(
        stored["test"], stored.get("held_out", none[0]), stored.get("held_out_y", none[1])
    )
