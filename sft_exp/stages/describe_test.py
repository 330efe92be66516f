"""The manifest of what is tested on, and which of it a model may have seen before. Only evaluations read it."""

from pathlib import Path

from sft_exp import copies, durable, splits
from sft_exp.data import fitted
from sft_exp.stages.context import Context
from sft_exp.store import Request


def run(folder: Path, request: Request, ctx: Context) -> None:
    """manifest.json: names, content hashes and labels of the test images (where folds take turns: of the training images);
    `copies`, as (id of a test image, id of an image to learn from, correlation); and what the reader found on disk."""
    corpus = ctx.corpus(request["dataset"])
    tested, pools = corpus.tested, [splits.everything(corpus)]
    if request["pretrain_dataset"] is not None:
        pools.append(fitted(splits.everything(ctx.corpus(request["pretrain_dataset"])), corpus.image))
    durable.write_json(
        folder / "manifest.json",
        {
            "name": corpus.name,
            "sha256": corpus.test_fingerprint,
            "folds": corpus.test is None,
            "ids": tested.ids,
            "content": copies.pixels(tested),
            "groups": tested.groups,
            "labels": tested.y.tolist(),
            "copies": [(tested.ids[p.test], pool.ids[p.seen], p.alike) for pool in pools for p in copies.near(tested, pool)],
            "report": corpus.report,
        },
    )
