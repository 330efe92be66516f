"""Labelled and test splits: seeded, stratified, nested, and the same for all compared methods.

A draw is one labelled split. It depends on its number alone, not on the experiment's seed, so that
all pretrainers, arms and seeds use the same labelled images and their differences are paired.
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

from sft_exp.core.rng import seed_of, stream
from sft_exp.core.types import LABEL_SET
from sft_exp.data import stratify, tables
from sft_exp.data.corpus import Corpus
from sft_exp.data.images import Images
from sft_exp.errors import DataError

FOLDS = 5


@dataclass(frozen=True)
class Labels:
    """The label budget, of all training images or of those in a table.

    `count` is "10" (per class), "5%", "all", or "total:200".
    """

    unhashed: ClassVar[tuple[str, ...]] = ("table",)

    count: str
    chosen: str = ""  # hash of the table; empty = any training image may be labelled
    # image id -> label; "" = the data set's own label
    table: dict[str, str] = field(default_factory=dict, compare=False)

    @staticmethod
    def parse(labels: object, total: int | None) -> "Labels":
        """Parse the keys `labels` and `labels_total`. DataError for a table that cannot be used.

        `labels=table.csv` uses all images of the table, or with `labels_total=40` 40 of them.
        """
        if not str(labels).endswith(".csv"):
            return Labels(f"total:{total}" if total else str(labels))
        table = read(Path(str(labels)).expanduser())
        chosen = hashlib.sha256(json.dumps(sorted(table.items())).encode()).hexdigest()[:16]
        return Labels(f"total:{total}" if total else "all", chosen, table)

    def total(self, n: int) -> int:
        """The number of images, out of n, that a share ("5%") or a total stands for."""
        if self.count.startswith("total:"):
            return int(self.count[6:])
        return round(float(self.count[:-1]) / 100 * n)

    def __str__(self) -> str:
        if self.count == "all" and self.table:
            return f"labels=the {len(self.table)} chosen"
        if self.count.startswith("total:"):
            return f"labels_total={self.count[6:]}"
        return f"labels={self.count}"


def read(path: Path) -> dict[str, str]:
    """Read a CSV of labels as image id -> label.

    The column `file` holds ids of images. Without a column `label`, the data set's labels are used
    (""); with it, they are the annotator's, and rows where it is empty are left out.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        reader = csv.DictReader(io.StringIO(text, newline=""), restval="")
        rows = [{k: tables.restored(str(v).strip()) for k, v in row.items() if k} for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"labels={path}: {getattr(error, 'strerror', None) or error}") from error
    columns = list(reader.fieldnames or [])
    if "file" not in columns:
        header = ",".join(columns) or "nothing"
        raise DataError(f"labels={path}: has no column file; its first line has {header}")
    if "label" in columns:
        rows = [row for row in rows if row["label"]]
    table = {row["file"]: row.get("label", "") for row in rows}
    if len(table) < len(rows):
        extra = len(rows) - len(table)
        raise DataError(f"labels={path}: must have one row per image, but {extra} have more")
    if not table:
        raise DataError(f"labels={path}: has no image with a label")
    return table


@dataclass(frozen=True, eq=False)
class Draw:
    """One labelled split with its test images."""

    labelled: Images
    test: Images
    pool: Images  # images to pretrain on; disjoint from `test`
    # test images / labelled images if test splits of different draws overlap (folds); else 0
    ratio: float


@lru_cache(maxsize=128)
def make(corpus: Corpus, labels: Labels, draw: int) -> Draw:
    """Make draw number `draw`.

    Without a test split, draws are the folds of repeated stratified (group) k-fold of `train`.
    """
    if corpus.test is not None:
        labelled = annotated(corpus, torch.arange(len(corpus.train)), labels, draw)
        return Draw(labelled, corpus.test, pool(corpus, None), 0.0)
    known, tested = fold(corpus.train, corpus.strata, draw)
    labelled = annotated(corpus, known, labels, draw)
    return Draw(labelled, corpus.train.at(tested), pool(corpus, known), len(tested) / len(labelled))


def annotated(corpus: Corpus, rows: Tensor, labels: Labels, draw: int) -> Images:
    """The labelled images of a draw among `rows` of `train`, with the table's labels if given."""
    if not labels.table:
        return corpus.train.at(choose(corpus, rows, labels, draw))
    y = answers(corpus, labels)
    relabelled = replace(corpus, train=replace(corpus.train, y=y))
    return relabelled.train.at(choose(relabelled, rows[y[rows] >= 0], labels, draw))


def answers(corpus: Corpus, labels: Labels) -> Tensor:
    """The table's label of each training image, int64 [N]; -1 for images not in it.

    DataError for unknown images and classes.
    """
    if LABEL_SET in corpus.train.targets and any(labels.table.values()):
        raise DataError(
            f"labels: its column label has one class for each image, and those of {corpus.name} "
            "have several; without that column it names images, whose classes the data set has"
        )
    row_of = {name: r for r, name in enumerate(corpus.train.ids)}
    class_of = {name: c for c, name in enumerate(corpus.strata)}
    if unknown := [name for name in labels.table if name not in row_of]:
        raise DataError(
            f"labels: {len(unknown)} of {len(labels.table)} rows are no training images of "
            f"{corpus.name}, such as {unknown[0]!r}; "
            f"its training images are called {corpus.train.ids[0]!r} and so on"
        )
    if wrong := [label for label in labels.table.values() if label and label not in class_of]:
        raise DataError(
            f"labels: {wrong[0]!r} is no class of {corpus.name}; valid: {', '.join(corpus.strata)}"
        )
    y = torch.full_like(corpus.train.y, -1)
    for name, label in labels.table.items():
        y[row_of[name]] = class_of[label] if label else corpus.train.y[row_of[name]]
    return y


def pool(corpus: Corpus, known: Tensor | None) -> Images:
    """Images to pretrain on: the training and the unlabelled images, never a test image.

    Where folds of `train` are tested, the pool is the unlabelled images, so that one pretraining
    serves all folds, or without any, the training part `known` of the fold.
    """
    if corpus.test is not None:
        return everything(corpus)
    if corpus.extra is not None:
        return corpus.extra
    return corpus.train.at(known if known is not None else torch.arange(0))


@lru_cache(maxsize=4)
def everything(corpus: Corpus) -> Images:
    """The training images and the unlabelled ones."""
    return corpus.train if corpus.extra is None else join(corpus.train, corpus.extra)


def unlabelled(corpus: Corpus, labels: Labels, draw: int) -> Images:
    """The unlabelled images for a semi-supervised task. DataError if there are none."""
    images = rest(corpus, labels, draw)
    if not len(images):
        raise DataError(
            f"{labels} leaves no unlabelled images of {corpus.name}, which this task learns from; "
            "take fewer labels"
        )
    return images


def rest(corpus: Corpus, labels: Labels, draw: int) -> Images:
    """The draw's unlabelled images: its other training images and `extra`, never a test image."""
    if corpus.test is None:
        known, _ = fold(corpus.train, corpus.strata, draw)
    else:
        known = torch.arange(len(corpus.train))
    labelled = {*make(corpus, labels, draw).labelled.ids}
    rows = [r for r in known.tolist() if corpus.train.ids[r] not in labelled]
    others = corpus.train.at(torch.tensor(rows, dtype=torch.long))
    others = replace(others, y=torch.full_like(others.y, -1), targets={})
    return others if corpus.extra is None else join(others, corpus.extra)


def outside(corpus: Corpus, draw: Draw, most: int = 5_000) -> Images:
    """Training images outside the label budget, at most `most`: the validation set of val=full.

    Papers commonly use such labels to choose the number of epochs.
    """
    used = {*draw.labelled.ids, *draw.test.ids}
    rows = torch.tensor(
        [r for r, name in enumerate(corpus.train.ids) if name not in used], dtype=torch.long
    )
    if not len(rows):
        raise DataError(
            "val=full needs labels outside the budget, and labels=all leaves none; "
            "take val=holdout, cv or none"
        )
    return corpus.train.at(rows[torch.randperm(len(rows), generator=stream("outside"))[:most]])


def pretrainings(corpus: Corpus, draws: int) -> list[int | None]:
    """The fold whose pool each draw pretrains on; None if all draws share one pool."""
    return [d if corpus.test is None and corpus.extra is None else None for d in range(draws)]


def join(a: Images, b: Images) -> Images:
    """Concatenate two sets of images; those of `b` lose their labels, both their targets.

    Subsets of one set are not copied, other tensors are copied once. If one of the two is on disk,
    images of both are read on demand.
    """
    y, ids = torch.cat([a.y, torch.full_like(b.y, -1)]), a.ids + b.ids
    if a.x is b.x and a.rows is not None and b.rows is not None:
        return Images(a.x, y, ids, workers=a.workers, rows=torch.cat([a.rows, b.rows]))
    if isinstance(a.x, Tensor) and isinstance(b.x, Tensor):
        return Images(torch.cat([_plain(a), _plain(b)]), y, ids)

    def raw(row: int) -> Tensor:
        return a.raw(row) if row < len(a) else b.raw(row - len(a))

    return Images(raw, y, ids, workers=max(a.workers, b.workers))


def _plain(images: Images) -> Tensor:
    """The values of images in memory, [N, ...]."""
    return images.x if images.rows is None else images.x[images.rows]  # type: ignore[index,return-value]


def choose(corpus: Corpus, rows: Tensor, labels: Labels, draw: int) -> Tensor:
    """Choose the labelled images of a draw among `rows` of `train`; returns their rows.

    The choice is stratified by `y` (the class, or the stratum), and nested: each class is shuffled
    once and a larger budget takes more of the same order, so 10 labels per class are among 20.
    """
    y = corpus.train.y[rows]
    if labels.count == "all":
        return rows[y >= 0]
    if LABEL_SET in corpus.train.targets:
        return rows[choose_sets(corpus, rows, labels, draw)]
    classes = [shuffle(rows[y == c], stream("labels", draw, c)) for c in range(len(corpus.strata))]
    if labels.count.isdecimal():
        each = int(labels.count)
        scarce = min(range(len(classes)), key=lambda c: len(classes[c]))
        if each > len(classes[scarce]):
            raise DataError(
                f"labels={each} a class, but class {corpus.strata[scarce]!r} of {corpus.name} has "
                f"{len(classes[scarce])} training images: valid are 1 to {len(classes[scarce])}, "
                "a share such as 5%, or labels=all"
            )
        return torch.cat([c[:each] for c in classes])
    total = labels.total(len(rows))
    nonempty = sum(len(c) > 0 for c in classes)
    if not nonempty <= total <= len(rows):
        raise DataError(
            f"{labels} asks for {total} of the {len(rows)} training images of {corpus.name}; "
            f"valid are {nonempty} (one for each class that has images) to {len(rows)}"
        )
    # Take the first image of each class, then always one of the class furthest below its share:
    # image i of n in a class has the priority (i + 0.5) / n, and the first one 0.
    priorities = []
    for c in classes:
        priority_C = torch.arange(len(c)).add(0.5).div(max(1, len(c)))
        priority_C[:1] = 0.0
        priorities.append(priority_C)
    return torch.cat(classes)[torch.cat(priorities).argsort(stable=True)[:total]]


def choose_sets(corpus: Corpus, rows: Tensor, labels: Labels, draw: int) -> list[int]:
    """`choose` for images with several classes each, as positions in `rows`.

    A number per class stands for that number times the classes, in images: how many images of each
    class these have follows from the classes' frequencies. A larger budget contains a smaller one.
    """
    count = len(corpus.classes)
    each = labels.count.isdecimal()
    total = int(labels.count) * count if each else labels.total(len(rows))
    if not 1 <= total <= len(rows):
        means = f" ({labels.count} times {count} classes)" if each else ""
        most = f"1 to {len(rows) // count}, " if each else ""
        raise DataError(
            f"{labels} asks for {total} images{means}, and {corpus.name} has {len(rows)} training "
            f"images; valid are {most}a share such as 5%, or labels=all"
        )
    sets_NY = corpus.train.at(rows).target(LABEL_SET)
    return stratify.order(sets_NY, total, seed_of("labels", draw))


def most_per_class(corpus: Corpus) -> int:
    """The largest number per class that `labels` may ask for."""
    if LABEL_SET in corpus.train.targets:
        return len(corpus.train) // len(corpus.classes)
    return min(int((corpus.train.y == c).sum()) for c in range(len(corpus.strata)))


def shuffle(rows: Tensor, rng: torch.Generator) -> Tensor:
    """The rows in random order."""
    return rows[torch.randperm(len(rows), generator=rng)]


def fold(
    images: Images, classes: tuple[str, ...], number: int, folds: int = FOLDS, least: int = 1
) -> tuple[Tensor, Tensor]:
    """(training rows, held-out rows) of fold `number` of repeated stratified k-fold.

    Numbers run through the folds of repeat 0, then of repeat 1, and so on. Groups are not split.
    There are as many folds, up to `folds`, as have `least` images of each class. DataError for
    fewer than two.
    """
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    fewest = require_foldable(images, classes, least)
    if LABEL_SET in images.targets:
        folds = min(folds, fewest // least)
        sets_NY, seed = images.target(LABEL_SET), seed_of("folds", number // folds)
        fold_N = torch.from_numpy(stratify.folds(sets_NY, images.groups, folds, seed))
        held_N = fold_N == number % folds
        return (~held_N).nonzero().flatten(), held_N.nonzero().flatten()
    kind = StratifiedGroupKFold if images.groups else StratifiedKFold
    folds = min(folds, fewest // least)
    split = kind(folds, shuffle=True, random_state=number // folds)
    known, held = list(split.split(images.y, images.y, images.groups))[number % folds]
    return torch.from_numpy(known), torch.from_numpy(held)


def require_foldable(images: Images, classes: tuple[str, ...], least: int = 1) -> int:
    """The number of images of the scarcest class. DataError if two folds of `least` images cannot
    be made of them."""
    fewest, scarce = scarcest(images)
    if fewest < 2 * least:
        what, several = ("group", "groups") if images.groups else ("image", "images")
        number = f"{fewest} labelled {what if fewest == 1 else several}"
        need = f"{2 * least} are needed to hold some out: label"
        if len(classes) == 1:
            raise DataError(f"there are {number}, and {need} more")
        raise DataError(
            f"class {classes[scarce]!r} has {number}, and {need} another {what} of it, "
            "or leave the class out of the data set"
        )
    return fewest


def scarcest(images: Images) -> tuple[int, int]:
    """(n, class) of the class with the fewest images, or fewest groups if images have groups."""
    names = images.groups or range(len(images))
    if LABEL_SET in images.targets:
        sets_NY = images.target(LABEL_SET) > 0
        return min(
            (len({names[r] for r in sets_NY[:, c].nonzero().flatten().tolist()}), c)
            for c in sets_NY.any(0).nonzero().flatten().tolist()
        )
    return min(
        (len({names[r] for r in (images.y == c).nonzero().flatten().tolist()}), c)
        for c in images.y.unique().tolist()
    )
