"""Cross-validation inside the label budget: K folds of the labels, each held out once (val=cv).

Each fold is a request of its own, so that the folds of a single labelled split use all cores too.
"""

import json
from collections.abc import Iterable
from pathlib import Path

from sft_exp.data import splits
from sft_exp.data.images import Images
from sft_exp.stages import model as models
from sft_exp.stages.features import corpus_of
from sft_exp.stages.finetune import learn
from sft_exp.store import atomic_io
from sft_exp.store.store import Request
from sft_exp.training.context import Context
from sft_exp.training.fit import delete_checkpoints


def run(folder: Path, request: Request, ctx: Context) -> None:
    """scores.json: the scores on the fold's held-out images, and which share of the labels these are.

    Without scores where the labels do not allow this fold.
    """
    corpus = corpus_of(request, ctx)
    draw = splits.make(corpus, request["labels"], request["draw"])
    k, folds, share = request["fold"], request["folds"], 0.0
    scores: dict[str, float] = {}
    least = request["task"].fewest_tested
    if k < count(draw.labelled, folds, least):
        training, held_out = splits.fold(draw.labelled, corpus.strata, k, folds, least)
        model = learn(folder, request, ctx, draw.labelled.at(training), draw.pool, fold=k)
        scores, _ = models.measure(model, draw.labelled.at(held_out), ctx.device, ctx.group)
        share = len(held_out) / len(draw.labelled)
        delete_checkpoints(folder, request)
    atomic_io.write_json(folder / "scores.json", {"share": share, "scores": scores})


def averaged(folds: Iterable[Path]) -> dict[str, float]:
    """Each score, averaged over the held-out images of all folds in which it is defined; the
    folders of the folds are given."""
    totals: dict[str, float] = {}
    shares: dict[str, float] = {}
    read = [json.loads((folder / "scores.json").read_text()) for folder in folds]
    for fold in read:
        for name, value in fold["scores"].items():
            totals[name] = totals.get(name, 0.0) + value * fold["share"]
            shares[name] = shares.get(name, 0.0) + fold["share"]
    whole = sum(fold["share"] for fold in read)
    return {name: totals[name] * (whole / shares[name]) for name in totals}


def count(labelled: Images, folds: int, least: int = 1) -> int:
    """Number of folds with `least` images of each class that these labels allow; 0 for fewer than
    two."""
    number = splits.scarcest(labelled)[0] // least
    return min(folds, number) if number > 1 else 0
