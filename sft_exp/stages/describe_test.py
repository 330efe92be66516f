"""Manifest of the test images and their copies in the training data. Only evaluations read it."""

from pathlib import Path

from sft_exp.data import duplicates, splits
from sft_exp.data.images import fitted
from sft_exp.store import atomic_io
from sft_exp.store.store import Request
from sft_exp.training.context import Context


def run(folder: Path, request: Request, ctx: Context) -> None:
    """manifest.json: names, content hashes, labels and `copies` of test images; reader's report.

    `related` is what `duplicates.related_images` found, if the data set can be grouped (`dataset.group`).
    With cross-validation folds the test images are the training images. `copies` holds (id of a
    test image, id of a training or pretraining image, correlation).
    """
    corpus = ctx.corpus(request["dataset"])
    tested, pools = corpus.tested, [splits.everything(corpus)]
    if request["pretrain_dataset"] is not None:
        pools.append(
            fitted(splits.everything(ctx.corpus(request["pretrain_dataset"])), corpus.image)
        )
    related = duplicates.related_images(corpus) if hasattr(request["dataset"], "group") else None
    atomic_io.write_json(
        folder / "manifest.json",
        {
            "name": corpus.name,
            "sha256": corpus.test_fingerprint,
            "folds": corpus.test is None,
            "ids": tested.ids,
            "content": duplicates.pixel_hashes(tested),
            "groups": tested.groups,
            "labels": tested.y.tolist(),
            "copies": [
                (tested.ids[p.test], pool.ids[p.other], p.correlation)
                for pool in pools
                for p in duplicates.near_copies(tested, pool)
            ],
            "report": corpus.report,
            **({"related": related} if related else {}),
        },
    )
