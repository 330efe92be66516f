"""`Corpus`, a loaded data set, and `Dataset`, the base class of the parts that load one."""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from torch import Tensor

from sft_exp.core.types import LABEL_SET, Spec
from sft_exp.data.images import Images


@dataclass(eq=False)
class Corpus:
    """A data set as its reader loads it, before the experiment splits it."""

    name: str
    # class names of images, pixels or boxes; empty for regression
    classes: tuple[str, ...]
    train: Images  # labelled; the experiment decides how many of the labels are used
    test: Images | None = None  # None: folds of `train` serve as test
    extra: Images | None = None  # unlabelled, for pretraining only
    image: tuple[int, int, int] = (0, 0, 0)  # C, H, W
    # what the reader noticed: sizes, broken files, duplicates
    report: dict = field(default_factory=dict)
    fingerprint: str = ""  # SHA-256 of the content of `train` and `extra`
    # SHA-256 of `test`, apart, because nothing before the evaluation may depend on it
    test_fingerprint: str = ""
    # image id -> its file, for images with a file of their own
    files: dict[str, Path] = field(default_factory=dict)
    # (id in `extra`, id in `test`) of identical files that the reader noticed
    leaks: list[tuple[str, str]] = field(default_factory=list)
    # names of the values of `y`, by which labelled splits are stratified; default: the classes
    strata: tuple[str, ...] = ()
    # target -> its classes, for data sets with several targets
    named: dict[str, tuple[str, ...]] = field(default_factory=dict)
    # (black, white) by which files with more than 8 bits a pixel are scaled to 8
    levels: tuple[int, int] | None = None
    fit: str = "crop"  # how files became images: crop, stretch or letterbox

    def __post_init__(self) -> None:
        self.strata = self.strata or self.classes

    @property
    def labelled(self) -> bool:
        """Whether `y` is the class of each image, and not only its stratum."""
        return self.strata == self.classes and LABEL_SET not in self.train.targets

    @property
    def tested(self) -> Images:
        """All images that are tested in some draw."""
        return self.train if self.test is None else self.test

    @property
    def spec(self) -> Spec:
        return Spec(self.image, self.classes, self.named, self.levels, self.fit)


@dataclass
class Dataset:
    """A source of images and labels."""

    # annotations that it has: y, a class per image, and targets by name
    gives: ClassVar[tuple[str, ...]] = ("y",)
    # fields that cannot change a result, because the content itself is hashed
    unhashed: ClassVar[tuple[str, ...]] = ("root", "download", "workers")

    learnt = True  # False: a model is scored on the images, for which one class or value will do

    def load(self) -> Corpus:
        """Read the data set; a DataError names the file and states what is valid."""
        raise NotImplementedError


def fingerprint(*splits: Images | None) -> str:
    """SHA-256 of the pixels, labels and groups of splits that are in memory."""
    digest = hashlib.sha256()
    for images in splits:
        digest.update(b"split")
        if images is not None:
            x: Tensor = images.x if images.rows is None else images.x[images.rows]  # type: ignore[assignment,index]
            digest.update(repr((tuple(x.shape), images.groups)).encode())
            digest.update(x.contiguous().numpy().data)
            digest.update(images.y.numpy().data)
    return digest.hexdigest()
