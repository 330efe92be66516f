"""Test images that a model may have seen: exact copies by their pixels, near ones (JPEG, another size) by their thumbnails."""

import hashlib
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from sft_exp.data.corpus import Corpus
from sft_exp.data.images import Images, fitted
from sft_exp.data.splits import everything
from sft_exp.errors import DataError, listing

SIDE = 8  # pixels of a thumbnail
# correlation of two thumbnails, and then of the two images whole, from which on they are near
# copies
ALIKE = 0.99
REACH = (2 - 2 * ALIKE) ** 0.5 + 1e-4  # between thumbnails that are alike, at most; and rounding
ROWS = 256  # test images compared at once
# of the test images may lie in a set's own training part too: more is no slip of its authors
OVERLAP = 0.01


class Pair(NamedTuple):
    """A test image and what it is a copy of, as rows of the images they were found in."""

    test: int
    seen: int
    alike: float  # correlation; 1 of equal pixels


def refuse(corpus: Corpus, transductive: bool) -> None:
    """DataError naming the test images that lie in the unlabelled pool, unless they may.

    What a set's authors let overlap (at most OVERLAP) is not refused, because their split is what others report on: it is
    counted with the near copies. Sets without test images are tested on their training images, so all these are looked for.
    """
    own, pairs = overlap(corpus), [f"{pool} is {test}" for pool, test in leaked(corpus)]
    if len(own) > OVERLAP * len(corpus.tested):
        text = [f"{train} is {test}" for train, test in own]
        raise DataError(
            f"Test images must not be learnt from, but {len(own)} are training images too:{listing(text)}"
        )
    if pairs and not transductive:
        raise DataError(
            f"Test images must not be pretrained on, but {len(pairs)} of the unlabelled images are:{listing(pairs)}\n"
            "Remove them, or say protocol.transductive=true, which every table then shows"
        )


def refuse_elsewhere(pool: Corpus, corpus: Corpus, transductive: bool) -> None:
    """The same of another data set that is pretrained on: none of its images may be one that `corpus` is tested on."""
    pairs = [f"{there} is {test}" for there, test in shared(pool, corpus)]
    if pairs and not transductive:
        raise DataError(
            f"pretrain_dataset={pool.name}: {len(pairs)} of its images are images that {corpus.name} is tested on:"
            f"{listing(pairs)}\nRemove them, or say protocol.transductive=true, which every table then shows"
        )


@lru_cache(maxsize=4)
def shared(pool: Corpus, corpus: Corpus) -> list[tuple[str, str]]:
    """(id of an image of the one, id of the test image of the other that it is), at the latter's size."""
    return same(fitted(everything(pool), corpus.image), corpus.tested)


@lru_cache(maxsize=4)
def leaked(corpus: Corpus) -> list[tuple[str, str]]:
    """(id in `extra`, id of the test image that it is)."""
    if corpus.extra is None:
        return []
    held = isinstance(corpus.extra.x, Tensor)  # else its files were compared by who read them
    return list(
        dict.fromkeys([*corpus.leaks, *(same(corpus.extra, corpus.tested) if held else [])])
    )


@lru_cache(maxsize=4)
def overlap(corpus: Corpus) -> list[tuple[str, str]]:
    """(id in `train`, id of the test image that it is)."""
    held = isinstance(corpus.train.x, Tensor)
    return same(corpus.train, corpus.test) if held and corpus.test is not None else []


def same(a: Images, b: Images) -> list[tuple[str, str]]:
    """Ids of the images of `a` with those of `b` that have their pixels."""
    known = dict(zip(pixels(b), b.ids, strict=True))
    return [(name, known[x]) for x, name in zip(pixels(a), a.ids, strict=True) if x in known]


def pixels(images: Images) -> list[str]:
    """A hash of each image's pixels, 16 hexadecimal digits."""
    return [digest(x) for x_BCHW in images.held() for x in x_BCHW]


def digest(x_CHW: Tensor) -> str:
    return hashlib.blake2b(x_CHW.contiguous().numpy().tobytes(), digest_size=8).hexdigest()


def near(tested: Images, seen: Images) -> list[Pair]:
    """Of each test image the one most alike among `seen`, if they are alike enough. Where both are one set, or the second
    begins with the first, an image is no copy of itself. Constant images are copies of none.

    Thumbnails are unit vectors a, b with |a - b|^2 = 2 - 2ab, so along any direction those alike lie within REACH of each
    other: sorted along the widest one, each test image is compared with a stretch of `seen` only.
    """
    a, b = thumbnails(tested), thumbnails(seen)
    widest = torch.linalg.eigh(b.T @ b)[1][:, -1]
    (along, order_a), (place, order_b) = (a @ widest).sort(), (b @ widest).sort()
    same = seen.ids[: len(tested)] == tested.ids
    pairs = []
    for rows, here in zip(order_a.split(ROWS), along.split(ROWS), strict=True):
        ends = torch.searchsorted(place, torch.stack([here[0] - REACH, here[-1] + REACH])).tolist()
        stretch = order_b[slice(*ends)]
        if not len(stretch):
            continue
        alike = a[rows] @ b[stretch].T
        if same:
            alike[rows[:, None] == stretch] = -1.0
        best, where = alike.max(1)
        for row in (best >= ALIKE).nonzero().flatten().tolist():
            test, other = int(rows[row]), int(stretch[where[row]])
            if (whole := correlation(tested.raw(test), seen.raw(other))) >= ALIKE:
                pairs.append(Pair(test, other, round(whole, 4)))
    return sorted(pairs)


def thumbnails(images: Images) -> Tensor:
    """Grey, SIDE x SIDE, of mean 0 and length 1, so that a product of two is their correlation: [N, SIDE * SIDE]."""
    small = [
        adaptive_avg_pool2d(x_BCHW.float().mean(1, keepdim=True), SIDE).flatten(1)
        for x_BCHW in images.held()
    ]
    return centred(torch.cat(small))


def centred(x_BD: Tensor) -> Tensor:
    x_BD = x_BD - x_BD.mean(1, keepdim=True)
    return x_BD / x_BD.norm(dim=1, keepdim=True).clamp(min=1e-6)


def correlation(a_CHW: Tensor, b_CHW: Tensor) -> float:
    a, b = (centred(x.cpu().float().reshape(1, -1)) for x in (a_CHW, b_CHW))
    return float((a * b).sum())
