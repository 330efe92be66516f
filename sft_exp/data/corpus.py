"""A data set in its parts, and the contract of what loads one."""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from torch import Tensor

from sft_exp.core.types import Spec
from sft_exp.data.images import Images


@dataclass(eq=False)
class Corpus:
    """A data set as its module reads it, before any split of ours."""

    name: str
    # names of what is told apart: classes of images, of pixels, of boxes; none for numbers
    classes: tuple[str, ...]
    train: Images  # with labels; how many of them may be used is the experiment's affair
    test: Images | None = None  # None: folds of `train` serve as test
    extra: Images | None = None  # without labels, for pretraining only
    image: tuple[int, int, int] = (0, 0, 0)  # C, H, W
    # what was found on disk: sizes, broken files, duplicates
    report: dict = field(default_factory=dict)
    fingerprint: str = ""  # SHA-256 of the content of `train` and `extra`
    test_fingerprint: str = ""  # and of `test`, which nothing before the evaluation may depend on
    # image -> its file, where it has one of its own
    files: dict[str, Path] = field(default_factory=dict)
    # (in `extra`, in `test`) with equal files, as the reader saw it
    leaks: list[tuple[str, str]] = field(default_factory=list)
    # names of the values of `y`, which label draws keep in proportion; none = the classes
    strata: tuple[str, ...] = ()
    # target -> its classes, where there are several such
    named: dict[str, tuple[str, ...]] = field(default_factory=dict)
    # of files with more than 8 bits a pixel, which all images are scaled by
    levels: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        self.strata = self.strata or self.classes

    @property
    def labelled(self) -> bool:
        """Whether `y` holds a class of each image, and not only the stratum that it is drawn from."""
        return self.strata == self.classes

    @property
    def tested(self) -> Images:
        """Whatever is tested in some draw."""
        return self.train if self.test is None else self.test

    @property
    def spec(self) -> Spec:
        return Spec(self.image, self.classes, self.named, self.levels)


@dataclass
class Dataset:
    """Where images and labels come from."""

    # what may be annotated: y, a class for each image; and targets by name
    gives: ClassVar[tuple[str, ...]] = ("y",)
    # fields that cannot change a result: the content is hashed
    unhashed: ClassVar[tuple[str, ...]] = ("root", "download", "workers")

    def load(self) -> Corpus:
        """Reads everything once; DataError names the file and what would be right."""
        raise NotImplementedError


def fingerprint(*splits: Images | None) -> str:
    """SHA-256 of the pixels, labels and groups of splits in memory."""
    digest = hashlib.sha256()
    for images in splits:
        digest.update(b"split")
        if images is not None:
            x: Tensor = images.x if images.rows is None else images.x[images.rows]  # type: ignore[assignment,index]
            digest.update(repr((tuple(x.shape), images.groups)).encode())
            digest.update(x.contiguous().numpy().data)
            digest.update(images.y.numpy().data)
    return digest.hexdigest()
