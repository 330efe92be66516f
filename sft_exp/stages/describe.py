"""The data set's manifest: which images there are, by name, and the hash of their content."""

from pathlib import Path

from sft_exp import durable
from sft_exp.stages.context import Context
from sft_exp.store import Request


def run(folder: Path, request: Request, ctx: Context) -> None:
    """manifest.json: names of all images by split, classes, counts, and what was found broken or twice."""
    corpus = ctx.corpus(request["dataset"])
    splits = {"train": corpus.train, "test": corpus.test, "unlabelled": corpus.extra}
    durable.write_json(
        folder / "manifest.json",
        {
            "name": corpus.name,
            "sha256": corpus.fingerprint,
            "image": corpus.image,
            "classes": corpus.classes,
            "report": corpus.report,
            "ids": {name: images.ids if images else [] for name, images in splits.items()},
            "groups": {name: images.groups for name, images in splits.items() if images and images.groups},
        },
    )
