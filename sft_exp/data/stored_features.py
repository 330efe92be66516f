"""A data set whose images are replaced by stored features of a frozen encoder."""

import json
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import torch
from numpy.lib.format import open_memmap

from sft_exp.data.corpus import Corpus
from sft_exp.data.images import Images
from sft_exp.errors import StorageError

FEATURES, IDS = "features.npy", "ids.json"  # float32 [N, D]; names of the N images


def stored_splits(corpus: Corpus, test: bool) -> list[Images]:
    """The images whose features one folder holds, in its order: the test images, or all others."""
    if test:
        return [corpus.tested]
    return [corpus.train] if corpus.extra is None else [corpus.train, corpus.extra]


@lru_cache(maxsize=8)
def with_features(corpus: Corpus, folder: Path) -> Corpus:
    """The data set with the features in `folder` in place of those images that have any.

    The features stay on disk and are read as they are used. StorageError if the folder is not of
    this data set.
    """
    ids = json.loads((folder / IDS).read_text())
    # Copy on write: torch needs memory that it may write to, and the file must not change.
    f_ND = torch.from_numpy(open_memmap(folder / FEATURES, mode="c"))
    for test in (False, True):
        splits = stored_splits(corpus, test)
        if ids != [name for images in splits for name in images.ids]:
            continue
        # All splits index one tensor, so that `splits.join` need not copy it.
        first = torch.tensor([0, *map(len, splits)]).cumsum(0)
        of = [
            replace(images.having(f_ND), rows=start + torch.arange(len(images)))
            for images, start in zip(splits, first, strict=False)
        ]
        if test and corpus.test is not None:
            return replace(corpus, test=of[0])
        return replace(corpus, train=of[0], extra=of[1] if len(of) > 1 else None)
    raise StorageError(f"{folder}: holds features of other images than those of {corpus.name}")
