"""Who is labelled, who is tested: seeded, stratified, nested, and the same for every method that is compared.

A label draw is named by its number alone, not by the experiment's seed, so that all pretrainers, arms and seeds meet the
same label sets and their differences are paired.
"""

import csv
import hashlib
import io
import json
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from sft_exp.core.rng import stream
from sft_exp.data import tables
from sft_exp.data.corpus import Corpus
from sft_exp.data.images import Images
from sft_exp.errors import DataError

FOLDS = 5


@dataclass(frozen=True)
class Labels:
    """How much may be annotated: `count` is "10" (a class), "5%", "all", or "total:200"; with a table, of the images in it."""

    unhashed: ClassVar[tuple[str, ...]] = ("table",)

    count: str
    chosen: str = ""  # hash of the table's rows; empty = any training image may be drawn
    # image -> label; "" = the label that the data set has
    table: dict[str, str] = field(default_factory=dict, compare=False)

    @staticmethod
    def parse(labels: object, total: int | None) -> "Labels":
        """`labels=table.csv` is all of its rows, with labels_total=40 so many of them. DataError says what is wrong with it."""
        if not str(labels).endswith(".csv"):
            return Labels(f"total:{total}" if total else str(labels))
        table = read(Path(str(labels)).expanduser())
        chosen = hashlib.sha256(json.dumps(sorted(table.items())).encode()).hexdigest()[:16]
        return Labels(f"total:{total}" if total else "all", chosen, table)

    def total(self, n: int) -> int:
        """How many of n images a share or a total stands for."""
        return (
            int(self.count[6:])
            if self.count.startswith("total:")
            else round(float(self.count[:-1]) / 100 * n)
        )

    def __str__(self) -> str:
        if self.count == "all" and self.table:
            return f"labels=the {len(self.table)} chosen"
        return (
            f"labels_total={self.count[6:]}"
            if self.count.startswith("total:")
            else f"labels={self.count}"
        )


def read(path: Path) -> dict[str, str]:
    """The rows of a CSV with the columns `file` (an image's name in the data set) and perhaps `label`, by image. Without that
    column the labels are the data set's; with it they are the annotator's, and a row where it is empty is not annotated."""
    try:
        reader = csv.DictReader(
            io.StringIO(path.read_text(encoding="utf-8-sig"), newline=""), restval=""
        )
        rows = [{k: tables.restored(str(v).strip()) for k, v in row.items() if k} for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"labels={path}: {getattr(error, 'strerror', None) or error}") from error
    columns = list(reader.fieldnames or [])
    if "file" not in columns:
        raise DataError(
            f"labels={path}: no column file; its first line has {','.join(columns) or 'nothing'}"
        )
    if "label" in columns:
        rows = [row for row in rows if row["label"]]
    table = {row["file"]: row.get("label", "") for row in rows}
    if len(table) < len(rows):
        raise DataError(
            f"labels={path}: an image has one row, but {len(rows) - len(table)} have more"
        )
    if not table:
        raise DataError(f"labels={path}: no image in it has a label")
    return table


@dataclass(frozen=True, eq=False)
class Draw:
    """One label draw: what is known, and what it is tested on."""

    labelled: Images
    test: Images
    pool: Images  # what may be pretrained on; shares no image with `test`
    # images tested over images trained on, where tests of different draws share images; else 0
    ratio: float


@lru_cache(maxsize=128)
def make(corpus: Corpus, labels: Labels, draw: int) -> Draw:
    """Label draw `draw`. Without a test split, the draws run through repeated stratified (group) K-folds of `train`."""
    if corpus.test is not None:
        labelled = annotated(corpus, torch.arange(len(corpus.train)), labels, draw)
        return Draw(labelled, corpus.test, pool(corpus, None), 0.0)
    known, tested = fold(corpus.train, corpus.strata, draw)
    labelled = annotated(corpus, known, labels, draw)
    return Draw(labelled, corpus.train.at(tested), pool(corpus, known), len(tested) / len(labelled))


def annotated(corpus: Corpus, rows: Tensor, labels: Labels, draw: int) -> Images:
    """The images among `rows` of `train` that are annotated, with the labels that they were given."""
    if not labels.table:
        return corpus.train.at(choose(corpus, rows, labels, draw))
    given = answers(corpus, labels)
    told = replace(corpus, train=replace(corpus.train, y=given))
    return told.train.at(choose(told, rows[given[rows] >= 0], labels, draw))


def answers(corpus: Corpus, labels: Labels) -> Tensor:
    """What the table says of each training image, int64 [N]; -1 where it says nothing. DataError for unknown names."""
    row_of, class_of = (
        {name: r for r, name in enumerate(corpus.train.ids)},
        {name: c for c, name in enumerate(corpus.strata)},
    )
    if unknown := [name for name in labels.table if name not in row_of]:
        raise DataError(
            f"labels: {len(unknown)} of {len(labels.table)} rows are no training images of {corpus.name}, such as "
            f"{unknown[0]!r}; its training images are called {corpus.train.ids[0]!r} and so on"
        )
    if wrong := [label for label in labels.table.values() if label and label not in class_of]:
        raise DataError(
            f"labels: {wrong[0]!r} is no class of {corpus.name}; valid: {', '.join(corpus.strata)}"
        )
    given = torch.full_like(corpus.train.y, -1)
    for name, label in labels.table.items():
        given[row_of[name]] = class_of[label] if label else corpus.train.y[row_of[name]]
    return given


def pool(corpus: Corpus, known: Tensor | None) -> Images:
    """Images to pretrain on: the training images and the unlabelled ones; where `train` also serves as test, never the
    images tested: the unlabelled ones alone if there are any (so that one pretraining serves all folds), else `known`."""
    if corpus.test is None:
        return (
            corpus.extra
            if corpus.extra is not None
            else corpus.train.at(known if known is not None else torch.arange(0))
        )
    return everything(corpus)


@lru_cache(maxsize=4)
def everything(corpus: Corpus) -> Images:
    return corpus.train if corpus.extra is None else join(corpus.train, corpus.extra)


def unlabelled(corpus: Corpus, labels: Labels, draw: int) -> Images:
    """What a semi-supervised task sees beside the draw's labels. DataError if there is nothing."""
    found = rest(corpus, labels, draw)
    if not len(found):
        raise DataError(
            f"{labels} leaves no unlabelled images of {corpus.name}, which this task learns from; take fewer labels"
        )
    return found


def rest(corpus: Corpus, labels: Labels, draw: int) -> Images:
    """The draw's other training images, without their labels, and the data set's unlabelled ones; never an image that is
    tested."""
    known = (
        torch.arange(len(corpus.train))
        if corpus.test is not None
        else fold(corpus.train, corpus.strata, draw)[0]
    )
    told = {*make(corpus, labels, draw).labelled.ids}
    others = corpus.train.at(
        torch.tensor(
            [r for r in known.tolist() if corpus.train.ids[r] not in told], dtype=torch.long
        )
    )
    others = replace(others, y=torch.full_like(others.y, -1), targets={})
    return others if corpus.extra is None else join(others, corpus.extra)


def outside(corpus: Corpus, draw: Draw, most: int = 5_000) -> Images:
    """Training images outside the label budget, whose labels the papers' habit uses to choose epochs (val=full)."""
    taken = {*draw.labelled.ids, *draw.test.ids}
    rows = torch.tensor(
        [r for r, name in enumerate(corpus.train.ids) if name not in taken], dtype=torch.long
    )
    if not len(rows):
        raise DataError(
            "val=full needs labels outside the budget, and labels=all leaves none; take val=holdout, cv or none"
        )
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


def choose(corpus: Corpus, rows: Tensor, labels: Labels, draw: int) -> Tensor:
    """The rows of `train`, among `rows`, that may be annotated: stratified by `y` (by class, where an image has one), and
    nested in the count.

    Each class is shuffled once; a larger budget goes further down the same order, so 10 labels a class are among 20.
    """
    y = corpus.train.y[rows]
    if labels.count == "all":
        return rows[y >= 0]
    classes = [shuffle(rows[y == c], stream("labels", draw, c)) for c in range(len(corpus.strata))]
    if labels.count.isdecimal():
        each = int(labels.count)
        scarce = min(range(len(classes)), key=lambda c: len(classes[c]))
        if each > len(classes[scarce]):
            raise DataError(
                f"labels={each} a class, but class {corpus.strata[scarce]!r} of {corpus.name} has {len(classes[scarce])} "
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
        [
            torch.arange(len(c))
            .add(0.5)
            .div(max(1, len(c)))
            .index_fill(0, torch.arange(min(1, len(c))), 0.0)
            for c in classes
        ]
    )
    return torch.cat(classes)[turn.argsort(stable=True)[:total]]


def shuffle(rows: Tensor, rng: torch.Generator) -> Tensor:
    return rows[torch.randperm(len(rows), generator=rng)]


def fold(
    images: Images, classes: tuple[str, ...], number: int, folds: int = FOLDS
) -> tuple[Tensor, Tensor]:
    """(rows kept, rows held out) of fold `number`: the folds of repeat 0, then of repeat 1, ...; groups stay whole."""
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    fewest, scarce = scarcest(images)
    if fewest < 2:
        what, several = ("group", "groups") if images.groups else ("image", "images")
        raise DataError(
            f"class {classes[scarce]!r} has {fewest} labelled {what if fewest == 1 else several}, and 2 are needed to hold "
            f"some out: label another {what} of it, or leave the class out of the data set"
        )
    kind = StratifiedGroupKFold if images.groups else StratifiedKFold
    folds = min(folds, fewest)
    split = kind(folds, shuffle=True, random_state=number // folds)
    known, held = list(split.split(images.y, images.y, images.groups))[number % folds]
    return torch.from_numpy(known), torch.from_numpy(held)


def scarcest(images: Images) -> tuple[int, int]:
    """(n, class) of the class that can be held out least often: n is its images, or where images have groups, its groups."""
    names = images.groups or range(len(images))
    return min(
        (len({names[r] for r in (images.y == c).nonzero().flatten().tolist()}), c)
        for c in images.y.unique().tolist()
    )
