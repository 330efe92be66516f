"""Features of a pretrained, frozen encoder: computed once for all that is fitted on them.

The request names the encoder and its weights, the selected maps and the images. It names no labels,
draw, seed, task or strategy, so that all fine-tunings on these features share one folder.
"""

import json
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sft_exp.core.types import Spec
from sft_exp.data.corpus import Corpus
from sft_exp.data.images import Images
from sft_exp.data.stored_features import FEATURES, IDS, stored_splits, with_features
from sft_exp.distributed.group import shared
from sft_exp.models import transfer
from sft_exp.models.feature_extractor import FeatureExtractor
from sft_exp.progress import bar
from sft_exp.stages import model as models
from sft_exp.store import atomic_io
from sft_exp.store.store import Request
from sft_exp.training.context import Context

PROGRESS = "progress.json"  # number of rows that are on disk
CHUNK = 8  # batches between two records of progress
STORED = "stored_features"  # the request field that names the folder of stored features


def run(folder: Path, request: Request, ctx: Context) -> None:
    """features.npy, float32 [N, D], and ids.json, the names of the N images.

    A killed run goes on behind the last chunk that it had written.
    """
    corpus = ctx.corpus(request["dataset"])
    encoder = pretrained(request, corpus.spec).to(ctx.device).eval()
    splits = stored_splits(corpus, "test" in request)
    total = sum(map(len, splits))
    rows_done = finished_rows(folder, ctx)
    if ctx.first:
        f_ND = atomic_io.array(folder / FEATURES, (total, encoder.width))
    started, first = time.perf_counter(), rows_done
    with bar("features", total) as advance:
        for n, f_BD in enumerate(batches(encoder, splits, rows_done, ctx), start=1):
            if ctx.first:
                f_ND[rows_done : rows_done + len(f_BD)] = f_BD.cpu().numpy()
            rows_done += len(f_BD)
            rate = (rows_done - first) / (time.perf_counter() - started)
            advance(rows_done, f"{rate:.0f} images/s")
            if n % CHUNK == 0 and ctx.first:
                f_ND.flush()
                atomic_io.write_json(folder / PROGRESS, rows_done)
    if ctx.first:
        f_ND.flush()
    atomic_io.write_json(folder / IDS, [name for images in splits for name in images.ids])
    atomic_io.remove(folder / PROGRESS)


def finished_rows(folder: Path, ctx: Context) -> int:
    """Rows that an earlier, killed run has written; the same number in all processes."""
    done = 0
    if ctx.first and (folder / PROGRESS).exists() and (folder / FEATURES).exists():
        done = json.loads((folder / PROGRESS).read_text())
    return done if ctx.group is None else ctx.group.same(done)[0]


def batches(
    encoder: nn.Module, splits: list[Images], rows_done: int, ctx: Context
) -> Iterator[Tensor]:
    """Features [B, D] of the images from the row `rows_done` on, in order.

    Batches begin where those of an uninterrupted run do, so that a resumed run gives the same bits.
    """
    for images in splits:
        rows = torch.arange(len(images)).split(models.at_once(images))
        todo = [r for r in rows if r[0] >= rows_done]
        rows_done = max(0, rows_done - len(images))
        yield from batched(encoder, images, todo, ctx)


@torch.no_grad()
def batched(
    encoder: nn.Module, images: Images, rows: list[Tensor], ctx: Context
) -> Iterator[Tensor]:
    """Features [B, D] of each batch of rows; the processes of a group take turns."""
    inputs = Images(images.x, images.y, images.ids, workers=images.workers, rows=images.rows)

    def encode(own: Iterable[Tensor]) -> Iterator[Tensor]:
        for batch in inputs.batches(own, ctx.device):
            yield encoder(batch["x"])

    yield from shared(encode, rows, ctx.group)


def pretrained(request: Request, spec: Spec) -> FeatureExtractor:
    """The request's encoder with the weights of its pretraining."""
    encoder = models.readout(request["encoder"], request["features"], spec)
    file = request["start"] / models.ENCODER
    transfer.load_own(encoder.backbone, transfer.read_own(file), file)
    return encoder


def corpus_of(request: Request, ctx: Context) -> Corpus:
    """The request's data set, with stored features in place of images if it names them."""
    corpus: Any = ctx.corpus(request["dataset"])
    return with_features(corpus, request[STORED]) if STORED in request else corpus
