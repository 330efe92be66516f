"""Manifest of the training data: names and content hashes of the images, and all labels."""

from pathlib import Path

from sft_exp.data import duplicates
from sft_exp.store import atomic_io
from sft_exp.store.store import Request
from sft_exp.training.context import Context


def run(folder: Path, request: Request, ctx: Context) -> None:
    """manifest.json. It does not depend on the test images, if the data set has its own."""
    corpus = ctx.corpus(request["dataset"])
    splits = {
        name: images
        for name, images in (("train", corpus.train), ("unlabelled", corpus.extra))
        if images is not None
    }
    atomic_io.write_json(
        folder / "manifest.json",
        {
            "name": corpus.name,
            "sha256": corpus.fingerprint,
            "image": corpus.image,
            "classes": corpus.classes,
            "ids": {name: images.ids for name, images in splits.items()},
            "content": {name: duplicates.pixel_hashes(images) for name, images in splits.items()},
            "groups": {name: images.groups for name, images in splits.items() if images.groups},
            "labels": corpus.train.y.tolist(),
            "strata": corpus.strata,
            **({"levels": corpus.levels} if corpus.levels else {}),
        },
    )
