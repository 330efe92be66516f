"""Who is labelled, who is tested: seeded, stratified, nested, and the same for every method that is compared.

A label draw is named by its number alone, not by the experiment's seed, so that all pretrainers, arms and seeds meet the
same label sets and their differences are paired.
"""

import hashlib
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from sft_exp.core import stream
from sft_exp.data import Corpus, Images, fitted
from sft_exp.errors import DataError

FOLDS = 5


@dataclass(frozen=True)
class Labels:
    """How much may be annotated: `count` is "10" (a class), "5%", "all", or "total:200"."""

    count: str

    @staticmethod
    def parse(labels: object, total: int | None) -> "Labels":
        return Labels(f"total:{total}" if total else str(labels))

    def total(self, n: int) -> int:
        """How many of n images a share or a total stands for."""
        return int(self.count[6:]) if self.count.startswith("total:") else round(float(self.count[:-1]) / 100 * n)

    def __str__(self) -> str:
        return f"labels_total={self.count[6:]}" if self.count.startswith("total:") else f"labels={self.count}"


@dataclass(frozen=True, eq=False)
class Draw:
    """One label draw: what is known, and what it is tested on."""

    labelled: Images
    test: Images
    pool: Images  # what may be pretrained on; shares no image with `test`
    ratio: float  # images tested over images trained on, where tests of different draws share images; else 0


@lru_cache(maxsize=128)
def make(corpus: Corpus, labels: Labels, draw: int) -> Draw:
    """Label draw `draw`. Without a test split, the draws run through repeated stratified (group) K-folds of `train`."""
    if corpus.test is not None:
        labelled = corpus.train.at(choose(corpus, torch.arange(len(corpus.train)), labels, draw))
        return Draw(labelled, corpus.test, pool(corpus, None), 0.0)
    known, tested = fold(corpus.train, corpus.classes, draw)
    labelled = corpus.train.at(choose(corpus, known, labels, draw))
    return Draw(labelled, corpus.train.at(tested), pool(corpus, known), len(tested) / len(labelled))


def pool(corpus: Corpus, known: Tensor | None) -> Images:
    """Images to pretrain on: the training images and the unlabelled ones; where `train` also serves as test, never the
    images tested: the unlabelled ones alone if there are any (so that one pretraining serves all folds), else `known`."""
    if corpus.test is None:
        return corpus.extra if corpus.extra is not None else corpus.train.at(known if known is not None else torch.arange(0))
    return everything(corpus)


@lru_cache(maxsize=4)
def everything(corpus: Corpus) -> Images:
    return corpus.train if corpus.extra is None else join(corpus.train, corpus.extra)


def outside(corpus: Corpus, draw: Draw, most: int = 5_000) -> Images:
    """Training images outside the label budget, whose labels the papers' habit uses to choose epochs (val=full)."""
    taken = {*draw.labelled.ids, *draw.test.ids}
    rows = torch.tensor([r for r, name in enumerate(corpus.train.ids) if name not in taken], dtype=torch.long)
    if not len(rows):
        raise DataError("val=full needs labels outside the budget, and labels=all leaves none; take val=holdout, cv or none")
    return corpus.train.at(rows[torch.randperm(len(rows), generator=stream("outside"))[:most]])


def pretrainings(corpus: Corpus, draws: int) -> list[int | None]:
    """For each draw the fold whose pool it pretrains on; None where all draws share one pool."""
    return [d if corpus.test is None and corpus.extra is None else None for d in range(draws)]


def join(a: Images, b: Images) -> Images:
    """Two sets as one. Parts of one set are not copied, other tensors once; a set on disk makes both be decoded as asked for."""
    y, ids = torch.cat([a.y, torch.full_like(b.y, -1)]), a.ids + b.ids
    if a.x is b.x and a.rows is not None and b.rows is not None:
        return Images(a.x, y, ids, workers=a.workers, rows=torch.cat([a.rows, b.rows]))
    if isinstance(a.x, Tensor) and isinstance(b.x, Tensor):
        return Images(torch.cat([_plain(a), _plain(b)]), y, ids)

    def raw(row: int) -> Tensor:
        return a.raw(row) if row < len(a) else b.raw(row - len(a))

    return Images(raw, y, ids, workers=max(a.workers, b.workers))


def _plain(images: Images) -> Tensor:
    return images.x if images.rows is None else images.x[images.rows]  # type: ignore[index,return-value]


@lru_cache(maxsize=8)
def leaks(pool: Corpus, tested: Corpus) -> list[str]:
    """Names of images that one data set would be pretrained on and another tested on: equal to the pixel. Where folds of
    training images serve as test, all of them count."""
    there = tested.train if tested.test is None else tested.test
    test = {content(there, row) for row in range(len(there))}
    images = fitted(everything(pool), tested.image)
    return [images.ids[row] for row in range(len(images)) if content(images, row) in test]


def content(images: Images, row: int) -> bytes:
    return hashlib.blake2b(images.raw(row).cpu().contiguous().numpy().data, digest_size=16).digest()


def choose(corpus: Corpus, rows: Tensor, labels: Labels, draw: int) -> Tensor:
    """The rows of `train`, among `rows`, that may be annotated: stratified by class, and nested in the count.

    Each class is shuffled once; a larger budget goes further down the same order, so 10 labels a class are among 20.
    """
    if labels.count == "all":
        return rows
    y = corpus.train.y[rows]
    classes = [shuffle(rows[y == c], stream("labels", draw, c)) for c in range(len(corpus.classes))]
    if labels.count.isdecimal():
        each = int(labels.count)
        scarce = min(range(len(classes)), key=lambda c: len(classes[c]))
        if each > len(classes[scarce]):
            raise DataError(
                f"labels={each} a class, but class {corpus.classes[scarce]!r} of {corpus.name} has {len(classes[scarce])} "
                f"training images: valid are 1 to {len(classes[scarce])}, a share such as 5%, or labels=all"
            )
        return torch.cat([c[:each] for c in classes])
    total = labels.total(len(rows))
    seen = sum(len(c) > 0 for c in classes)
    if not seen <= total <= len(rows):
        raise DataError(
            f"{labels} asks for {total} of the {len(rows)} training images of {corpus.name}; valid are {seen} "
            f"(one for each class that has images) to {len(rows)}"
        )
    # The first of each class, then whoever brings a class furthest behind its share forward.
    turn = torch.cat(
        [torch.arange(len(c)).add(0.5).div(max(1, len(c))).index_fill(0, torch.arange(min(1, len(c))), 0.0) for c in classes]
    )
    return torch.cat(classes)[turn.argsort(stable=True)[:total]]


def shuffle(rows: Tensor, rng: torch.Generator) -> Tensor:
    return rows[torch.randperm(len(rows), generator=rng)]


def fold(images: Images, classes: tuple[str, ...], number: int, folds: int = FOLDS) -> tuple[Tensor, Tensor]:
    """(rows kept, rows held out) of fold `number`: the folds of repeat 0, then of repeat 1, ...; groups stay whole."""
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    fewest, scarce = scarcest(images)
    if fewest < 2:
        what = "groups" if images.groups else "images"
        raise DataError(f"{fewest} {what} of class {classes[scarce]!r}: at least 2 are needed to hold some out")
    kind = StratifiedGroupKFold if images.groups else StratifiedKFold
    folds = min(folds, fewest)
    split = kind(folds, shuffle=True, random_state=number // folds)
    known, held = list(split.split(images.y, images.y, images.groups))[number % folds]
    return torch.from_numpy(known), torch.from_numpy(held)


def scarcest(images: Images) -> tuple[int, int]:
    """(n, class) of the class that can be held out least often: n is its images, or where images have groups, its groups."""
    names = images.groups or range(len(images))
    return min((len({names[r] for r in (images.y == c).nonzero().flatten().tolist()}), c) for c in images.y.unique().tolist())
