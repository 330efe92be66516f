"""Cross-validation inside the label budget: K folds of the labels, each held out once (val=cv)."""

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
    """scores.json: each score, averaged over the held-out images of all folds."""
    corpus = corpus_of(request, ctx)
    draw = splits.make(corpus, request["labels"], request["draw"])
    totals: dict[str, float] = {}
    for k in range(count(draw.labelled, request["folds"])):
        work = atomic_io.folder(folder / f"fold-{k}")
        training, held_out = splits.fold(draw.labelled, corpus.strata, k, request["folds"])
        model = learn(work, request, ctx, draw.labelled.at(training), draw.pool, fold=k)
        scores, _ = models.measure(model, draw.labelled.at(held_out), ctx.device, ctx.group)
        for name, value in scores.items():
            totals[name] = totals.get(name, 0.0) + value * len(held_out) / len(draw.labelled)
        delete_checkpoints(work, request)
    atomic_io.write_json(folder / "scores.json", totals)


def count(labelled: Images, folds: int) -> int:
    """Number of folds that these labels allow; 0 if a class has a single one."""
    fewest, _ = splits.scarcest(labelled)
    return min(folds, fewest) if fewest > 1 else 0
