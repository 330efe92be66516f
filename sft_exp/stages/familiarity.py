"""Whether images are unlike those that a model learnt from, by the distance of features to their
nearest neighbours (Sun et al., Out-of-distribution detection with deep nearest neighbors, ICML 2022).

A run keeps the features of some of its training images and the largest distance among them. The stage
is computed after the others, for runs that write a report, and its file is copied into the run folder,
where `predict` reads it.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

from sft_exp.data import splits
from sft_exp.data.images import Images
from sft_exp.errors import StorageError
from sft_exp.stages import model as models
from sft_exp.stages.model import Model
from sft_exp.store import atomic_io
from sft_exp.store.store import Request
from sft_exp.training.context import Context

FILE = "training_features.safetensors"  # in the run folder
MOST = 512  # training images whose features are kept
NEIGHBOUR = 3  # the distance is that to the third nearest of them
FEWEST = 20  # training images below which nothing is kept
MARGIN = 1.1  # images are unlike the others above the largest distance among these times MARGIN


@dataclass(frozen=True)
class Known:
    """Features of training images [N, D] of length 1, and the distance above which images are
    unlike them."""

    f_ND: Tensor
    limit: float

    def unlike(self, f_BD: Tensor) -> Tensor:
        """Whether each of the features [B, D] lies apart."""
        return distance(f_BD, self.f_ND, NEIGHBOUR) > self.limit


def distance(f_BD: Tensor, known_ND: Tensor, neighbour: int) -> Tensor:
    """Distance [B] of features, at length 1, to the n-th nearest of those known."""
    apart_BN = torch.cdist(F.normalize(f_BD.float(), dim=1), known_ND)
    return apart_BN.kthvalue(min(neighbour, len(known_ND)), dim=1).values


def predicted(model: Model, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
    """(predictions, features [B, D] that the head takes) of images in [0, 1], in one pass."""
    outputs: list[Tensor] = []
    hook = model.encoder.register_forward_hook(lambda _, __, f: outputs.append(f.flatten(1)))
    try:
        return model.predict(x_BCHW), outputs[0]
    finally:
        hook.remove()


@torch.no_grad()
def run(folder: Path, request: Request, ctx: Context) -> None:
    """FILE: the features of at most MOST images of the pool by the request's model, at length 1, and
    the limit. Nothing for fewer images than FEWEST."""
    corpus: Any = ctx.corpus(request["dataset"])
    images = splits.make(corpus, request["labels"], request["draw"]).pool
    if len(images) < FEWEST:
        return
    model = models.load(request["model"], ctx.device)
    rows = torch.linspace(0, len(images) - 1, min(MOST, len(images))).round().long()
    some = Images(images.x, images.y, images.ids, workers=images.workers, rows=images.rows)
    batches = some.batches(rows.split(models.at_once(some)), ctx.device)
    f_ND = torch.cat([predicted(model, batch["x"])[1].cpu() for batch in batches])
    f_ND = F.normalize(f_ND.float(), dim=1)
    # each is the nearest of itself
    limit = MARGIN * distance(f_ND, f_ND, NEIGHBOUR + 1).max().item()
    atomic_io.write(folder / FILE, content(Known(f_ND, limit), request["model"].name))


def content(known: Known, model: str) -> bytes:
    """The file of a model's features, the same bytes each time: several entries of metadata would
    be written in another order each time."""
    limit = torch.tensor(known.limit, dtype=torch.float64)
    return to_bytes({"features": known.f_ND.half(), "limit": limit}, {"model": model})


def read(file: Path, model: str) -> Known | None:
    """What `run` has written for the model of this name; None without it.

    Raises:
        StorageError: the file is damaged.
    """
    if not file.is_file():
        return None
    try:
        with safe_open(file, "pt") as opened:
            if opened.metadata()["model"] != model:
                return None
            return Known(opened.get_tensor("features").float(), opened.get_tensor("limit").item())
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise StorageError(f"{file}: damaged ({error}); remove it") from error
