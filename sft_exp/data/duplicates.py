"""Detection of test images that a model may have been trained on.

Exact copies are found by their pixels, near copies (JPEG, another size) by their thumbnails.
"""

import hashlib
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from sft_exp.data.corpus import Corpus
from sft_exp.data.images import Images, fitted
from sft_exp.data.splits import everything
from sft_exp.errors import DataError, listing

THUMBNAIL = 8  # side in pixels of the thumbnails that near copies are found by
# smallest correlation of near copies: of their thumbnails, and then of the images themselves
NEAR_COPY = 0.99
# largest distance of thumbnails with that correlation, with a margin for rounding
NEAR_DISTANCE = (2 - 2 * NEAR_COPY) ** 0.5 + 1e-4
# Related images show one person, patient or scene, as frames of a video do.
RELATED_THUMBNAIL = 16  # side in pixels of their thumbnails
RELATED = 0.95  # smallest correlation of their thumbnails
RELATED_SHARE = (
    0.2  # share of the test images with a related training image, from which it is a fault
)
RELATED_IMAGES = 2_000  # largest number of images of a split that are compared
BLOCK = 256  # test images that are compared at once
# share of test images that a data set's own training split may contain by its authors' mistake
OVERLAP = 0.01


class Pair(NamedTuple):
    """A test image and the image that it is a copy of, as indices into their sets."""

    test: int
    other: int
    correlation: float  # of their pixels; 1 if they are equal


def refuse(corpus: Corpus, transductive: bool) -> None:
    """Raise a DataError that names test images in the training split or in the unlabelled pool.

    An overlap of at most OVERLAP between a data set's own splits is allowed, because other papers
    report on these splits; it is counted with the near copies. A data set without a test split is
    tested on its training images, so the pool must hold none of these. `transductive` allows test
    images in the pool.
    """
    in_train = [f"{train} is {test}" for train, test in overlap(corpus)]
    in_pool = [f"{pool} is {test}" for pool, test in leaks_in_pool(corpus)]
    if len(in_train) > OVERLAP * len(corpus.tested):
        raise DataError(
            f"Test images must not be trained on, but {len(in_train)} are in the training split:"
            f"{listing(in_train)}"
        )
    if in_pool and not transductive:
        raise DataError(
            f"Test images must not be pretrained on, but {len(in_pool)} are in the unlabelled "
            f"pool:{listing(in_pool)}\n"
            "Remove them, or set protocol.transductive=true, which every table then shows"
        )


def refuse_elsewhere(pool: Corpus, corpus: Corpus, transductive: bool) -> None:
    """Raise a DataError if `pool`, another data set for pretraining, holds test images."""
    pairs = [f"{pretrained} is {test}" for pretrained, test in equal_images(pool, corpus)]
    if pairs and not transductive:
        raise DataError(
            f"pretrain_dataset={pool.name}: {len(pairs)} of its images are test images of "
            f"{corpus.name}:{listing(pairs)}\n"
            "Remove them, or set protocol.transductive=true, which every table then shows"
        )


@lru_cache(maxsize=4)
def equal_images(pool: Corpus, corpus: Corpus) -> list[tuple[str, str]]:
    """(id in `pool`, id of the equal test image of `corpus`); compared at the size of `corpus`."""
    return equal_pixels(fitted(everything(pool), corpus.image), corpus.tested)


@lru_cache(maxsize=4)
def leaks_in_pool(corpus: Corpus) -> list[tuple[str, str]]:
    """(id in `extra`, id of the equal test image)."""
    if corpus.extra is None:
        return []
    in_memory = isinstance(corpus.extra.x, Tensor)  # else the reader has compared the files
    equal = equal_pixels(corpus.extra, corpus.tested) if in_memory else []
    return list(dict.fromkeys([*corpus.leaks, *equal]))


@lru_cache(maxsize=4)
def overlap(corpus: Corpus) -> list[tuple[str, str]]:
    """(id in `train`, id of the equal test image)."""
    if corpus.test is None or not isinstance(corpus.train.x, Tensor):
        return []
    return equal_pixels(corpus.train, corpus.test)


def equal_pixels(a: Images, b: Images) -> list[tuple[str, str]]:
    """(id in `a`, id in `b`) of the images of `a` that have the pixels of an image of `b`."""
    id_of = dict(zip(pixel_hashes(b), b.ids, strict=True))
    return [(name, id_of[x]) for x, name in zip(pixel_hashes(a), a.ids, strict=True) if x in id_of]


def pixel_hashes(images: Images) -> list[str]:
    """A hash of each image's pixels, 16 hexadecimal digits."""
    return [digest(x) for x_BCHW in images.held() for x in x_BCHW]


def digest(x_CHW: Tensor) -> str:
    """A hash of an image's pixels, 16 hexadecimal digits."""
    return hashlib.blake2b(x_CHW.contiguous().numpy().tobytes(), digest_size=8).hexdigest()


def near_copies(tested: Images, others: Images) -> list[Pair]:
    """For each test image the most similar image in `others`, if it is a near copy.

    If `others` begins with the test images, an image is not compared with itself. Constant images are
    copies of none.

    Thumbnails are unit vectors a, b with |a - b|^2 = 2 - 2ab, so the projections of near copies on
    any direction differ by at most NEAR_DISTANCE: both sets are sorted along the first principal direction,
    and each block of test images is compared only with the images within that distance.
    """
    a, b = thumbnails(tested), thumbnails(others)
    direction = torch.linalg.eigh(b.T @ b)[1][:, -1]
    (along_a, order_a), (along_b, order_b) = (a @ direction).sort(), (b @ direction).sort()
    same_set = others.ids[: len(tested)] == tested.ids
    pairs = []
    for rows, along in zip(order_a.split(BLOCK), along_a.split(BLOCK), strict=True):
        interval = torch.stack([along[0] - NEAR_DISTANCE, along[-1] + NEAR_DISTANCE])
        start, end = torch.searchsorted(along_b, interval).tolist()
        candidates = order_b[start:end]
        if not len(candidates):
            continue
        similarity = a[rows] @ b[candidates].T
        if same_set:
            similarity[rows[:, None] == candidates] = -1.0
        best, where = similarity.max(1)
        for row in (best >= NEAR_COPY).nonzero().flatten().tolist():
            test, other = int(rows[row]), int(candidates[where[row]])
            if (exact := correlation(tested.raw(test), others.raw(other))) >= NEAR_COPY:
                pairs.append(Pair(test, other, round(exact, 4)))
    return sorted(pairs)


def related_images(corpus: Corpus) -> dict[str, Any] | None:
    """Whether many test images look like training images, as images of one person or video do.

    For each test image the most similar training image is sought by thumbnails without what all
    images have in common. At most RELATED_IMAGES images of each split are compared.

    Returns:
        The share of test images that have one with a correlation of RELATED or more, and an example
        (id of a test image, id of a training image, correlation); None for a share of less than
        RELATED_SHARE, and where the images are grouped or too small.
    """
    folds, small = corpus.test is None, min(corpus.image[1:]) < 2 * RELATED_THUMBNAIL
    if small or corpus.train.groups is not None or min(len(corpus.train), len(corpus.tested)) < 2:
        return None
    others, tested = evenly_spaced(corpus.train), evenly_spaced(corpus.tested)
    b_ND = thumbnails(others, RELATED_THUMBNAIL)
    common_D = b_ND.mean(0)
    a_ND = normalised((b_ND if folds else thumbnails(tested, RELATED_THUMBNAIL)) - common_D)
    similarity = a_ND @ normalised(b_ND - common_D).T
    if folds:
        similarity.fill_diagonal_(-1.0)
    best_N, where_N = similarity.max(1)
    share = float((best_N >= RELATED).float().mean())
    if share < RELATED_SHARE:
        return None
    row = int(best_N.argmax())
    pair = (tested.ids[row], others.ids[int(where_N[row])], round(float(best_N[row]), 4))
    return {"share": round(share, 4), "pair": pair}


def evenly_spaced(images: Images) -> Images:
    """At most RELATED_IMAGES of the images, evenly spaced."""
    if len(images) <= RELATED_IMAGES:
        return images
    return images.at(torch.linspace(0, len(images) - 1, RELATED_IMAGES).round().long())


def thumbnails(images: Images, side: int = THUMBNAIL) -> Tensor:
    """Grey thumbnails [N, side * side] of mean 0, norm 1: a product of two is their correlation."""
    small = [
        adaptive_avg_pool2d(x_BCHW.float().mean(1, keepdim=True), side).flatten(1)
        for x_BCHW in images.held()
    ]
    return normalised(torch.cat(small))


def normalised(x_BD: Tensor) -> Tensor:
    """The rows shifted to mean 0 and scaled to norm 1."""
    x_BD = x_BD - x_BD.mean(1, keepdim=True)
    return x_BD / x_BD.norm(dim=1, keepdim=True).clamp(min=1e-6)


def correlation(a_CHW: Tensor, b_CHW: Tensor) -> float:
    """Pearson correlation of the values of two images."""
    a, b = (normalised(x.cpu().float().reshape(1, -1)) for x in (a_CHW, b_CHW))
    return float((a * b).sum())
