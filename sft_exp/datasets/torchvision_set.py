"""Any classification data set of torchvision.

Sets that store images as one array (MNIST, CIFAR10, STL10, SVHN, ...) are used as they are; others
(GTSRB, DTD, Food101, FakeData, ...) are decoded and resized to one size. The arguments are those of
each set's signature: https://docs.pytorch.org/vision/stable/datasets.html
"""

import hashlib
import inspect
import os
import tarfile
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image

from sft_exp.core.rng import stream
from sft_exp.data.corpus import Corpus, Dataset, fingerprint
from sft_exp.data.decode import FITS, fitting
from sft_exp.data.images import Images, fitted
from sft_exp.errors import ConfigError, DataError, require
from sft_exp.progress import bar
from sft_exp.store import atomic_io

# arguments that the user cannot set
OURS = (
    "root", "download", "transform", "target_transform", "transforms", "loader", "is_valid_file",
)  # fmt: skip
WORDS = {  # names of splits in torchvision, in the order in which they are tried
    "train": ("train", "trainval", "train-standard"),
    "test": ("test", "val", "valid"),
}
SIDE = 64  # pixels of images decoded from files, unless `size` is given


@dataclass
class TorchvisionSet(Dataset):
    unhashed: ClassVar[tuple[str, ...]] = ("root", "download", "memory", "workers")
    # fields that hold arguments of the torchvision class
    passes: ClassVar[tuple[str, ...]] = ("train", "test", "extra", "options")

    name: str = "MNIST"  # class in torchvision.datasets
    root: str = "data"  # folder of the files
    download: bool = True  # download missing files, if torchvision can
    # arguments that select the training images; {} = by the class's signature
    train: dict = field(default_factory=lambda: {})
    # likewise for the test images; a set without a test split is tested in folds
    test: dict = field(default_factory=lambda: {})
    # arguments that select unlabelled images, if the set has any
    extra: dict = field(default_factory=lambda: {})
    # arguments for every split, e.g. {split: letters} for EMNIST
    options: dict = field(default_factory=lambda: {})
    # class names; [] = those of torchvision, if it has any
    classes: list[str] = field(default_factory=lambda: [])
    # make each pixel black or white, once, with its grey level as the probability of white
    binarise: bool = False
    # pixels, or [rows, columns], of all images; null = unchanged if in one array, 64 if in files
    size: Any = None
    fit: str = "crop"  # how an image is brought to that size: crop (centre), stretch, letterbox
    memory: float = 4.0  # GB of decoded images kept in memory; a larger set is decoded per batch
    workers: int = 2  # worker processes that decode images

    def __post_init__(self):
        for name in self.passes:
            arguments = getattr(self, name)
            valid = "arguments of the set by name, e.g. {split: val}"
            require(isinstance(arguments, dict), name, arguments, valid)
        sides = self.size if isinstance(self.size, list) else [self.size, self.size]
        whole = [isinstance(s, int) and not isinstance(s, bool) and s > 0 for s in sides]
        ok = self.size is None or (len(sides) == 2 and all(whole))
        require(ok, "size", self.size, "a number of pixels above 0, or [rows, columns], or null")
        require(self.fit in FITS, "fit", self.fit, ", ".join(FITS))
        self.sides = None if self.size is None else sides

    def load(self) -> Corpus:
        import torchvision.datasets

        kind = getattr(torchvision.datasets, self.name, None)
        if not (isinstance(kind, type) and issubclass(kind, torchvision.datasets.VisionDataset)):
            raise ConfigError("name", self.name, "must be a class of torchvision.datasets")
        train_set = self.opened(kind, "train")
        assert train_set is not None
        train = self.images(train_set, "train")
        test_set = self.opened(kind, "test")
        test = None if test_set is None else self.images(test_set, "test", train)
        extra = self.images(self.opened(kind, "extra"), "unlabelled", train) if self.extra else None
        names = self.names(train_set, [train] if test is None else [train, test])
        if extra is not None:
            extra.y = torch.full_like(extra.y, -1)
        shape: Any = tuple(train.raw(0).shape)
        marks = self.mark(train, extra), "" if test is None else self.mark(test)
        return Corpus(self.name, names, train, test, extra, shape, {}, *marks, fit=self.fit)

    def opened(self, kind: Any, part: str) -> Any:
        """torchvision's data set of one split; None for "test" if the set has no test split.

        Raises ConfigError for arguments that the class does not take, DataError for missing or
        broken files.
        """
        accepted = parameters(kind)
        defaults = {"root": self.root, "download": self.download}
        defaults = {name: value for name, value in defaults.items() if name in accepted}
        tries = self.selections(part, accepted)
        for selection in tries:
            arguments = {**defaults, **self.options, **selection}
            sources = {**dict.fromkeys(self.options, "options"), **dict.fromkeys(selection, part)}
            self.require_arguments(accepted, arguments, sources)
            # without it, a member `../name` of an archive is written outside of the folder
            tarfile.TarFile.extraction_filter = staticmethod(tarfile.data_filter)
            missing = uppermost_missing(Path(self.root or ""))
            try:
                return kind(**arguments)
            except Exception as error:  # torchvision raises any exception for a broken file
                if missing:  # it makes folders before it downloads
                    remove_empty(missing)
                if isinstance(error, ValueError) and str(error).startswith("Unknown value"):
                    if selection is not tries[-1]:
                        continue
                    raise ConfigError(part, self.options | selection, str(error)) from error
                raise self.incomplete(error, "download" in accepted) from error
        return None

    def require_arguments(
        self,
        accepted: dict[str, inspect.Parameter],
        arguments: dict[str, Any],
        sources: dict[str, str],
    ) -> None:
        """ConfigError for an argument that the class does not take, or for a missing one.

        `sources` maps each of the user's arguments to the field that it comes from.
        """
        valid = [name for name in accepted if name not in OURS]
        for name, key in sources.items():
            if name not in valid:
                text = f"{self.name} takes no such argument; valid: {', '.join(valid) or 'none'}"
                raise ConfigError(f"{key}.{name}", arguments[name], text)
        required = [name for name, p in accepted.items() if p.default is p.empty]
        if missing := [name for name in required if name not in arguments]:
            needs = f"{self.name} needs {missing[0]}: dataset.options={{{missing[0]}: ...}}"
            raise ConfigError("options", self.options, needs)

    def selections(self, part: str, accepted: dict[str, inspect.Parameter]) -> list[dict[str, Any]]:
        """Arguments to try in turn to select a split: the user's, or those of the signature."""
        if arguments := getattr(self, part):
            return [arguments]
        if "train" in accepted and "train" not in self.options:
            return [{"train": part == "train"}]
        if "split" in accepted and "split" not in self.options:
            return [{"split": word} for word in WORDS[part]]
        return [{}] if part == "train" else []

    def incomplete(self, error: Exception, downloadable: bool) -> DataError:
        """The error for missing or broken files."""
        if not downloadable:
            hint = "torchvision cannot download it"
        elif self.download:
            hint = "could not be downloaded there either"
        else:
            hint = "dataset.download=true downloads it"
        reason = str(error) or type(error).__name__
        return DataError(
            f"dataset.root={self.root}: torchvision finds no complete {self.name} there "
            f"({reason}); {hint}"
        )

    def images(self, found: Any, label: str, like: Images | None = None) -> Images:
        """The images of one split, in the size of `like`, if it is given."""
        if not len(found):
            raise DataError(f"dataset.root={self.root}: {self.name} has no images for {label}")
        images = in_one_array(found)
        if images is None:
            images = self.decoded(found, label, None if like is None else tuple(like.raw(0).shape))
        elif self.sides:
            images = fitted(images, (images.raw(0).shape[0], *self.sides))
        images.ids = [f"{label}/{n:06d}" for n in range(len(images))]
        if self.binarise:
            if not isinstance(images.x, torch.Tensor):
                raise ConfigError(
                    "binarise", True, "needs the images in memory; raise dataset.memory"
                )
            threshold = torch.rand(images.x.shape, generator=stream("binarise", label)) * 255
            images.x = (threshold < images.x).to(torch.uint8) * 255
        return images

    def decoded(self, found: Any, label: str, image: Any) -> Images:
        """Decode a set that returns single images, in one thread: FakeData is not thread-safe."""
        picture = item(found, 0, self.name)[0]
        high, wide = self.sides or (SIDE, SIDE)
        image = image or (1 if picture.mode in ("1", "L") else 3, high, wide)
        count = len(found)
        fits_memory = count * prod(image) <= self.memory * 1e9
        x = torch.empty(count if fits_memory else 0, *image, dtype=torch.uint8)
        y = torch.empty(count, dtype=torch.long)
        digest = hashlib.sha256()
        decode = Decoder(found, self.name, image, self.fit)
        with bar(f"{self.name}, {label}", count) as advance:
            for n in range(count):
                pixels, y[n] = decode.labelled(n)
                digest.update(pixels.numpy().tobytes())
                if fits_memory:
                    x[n] = pixels
                advance(n + 1, "")
        if fits_memory:
            return Images(x, y, [])
        decode.sha256 = digest.hexdigest()
        return Images(decode, y, [], workers=self.workers)

    def names(self, found: Any, parts: list[Images]) -> tuple[str, ...]:
        """Names of the classes that occur, with consecutive labels: EMNIST's letters lack `N/A`."""
        labels = sorted({int(y) for images in parts for y in images.y.unique()})
        if labels[0] < 0:
            text = f"selects images of {self.name} without labels; select these by extra"
            raise ConfigError("train", self.train, text)
        if self.classes and len(self.classes) <= labels[-1]:
            text = f"names {len(self.classes)} classes, but labels go up to {labels[-1]}"
            raise ConfigError("classes", self.classes, text)
        names = self.classes or getattr(found, "classes", None)
        names = names or getattr(found, "categories", None)
        if not names or len(names) <= labels[-1]:
            names = [str(n) for n in range(labels[-1] + 1)]
        for images in parts:
            images.y = torch.searchsorted(torch.tensor(labels), images.y)
        return tuple(str(names[n]) for n in labels)

    def mark(self, *parts: Images | None) -> str:
        """SHA-256 of the content of these splits."""
        if all(p is None or isinstance(p.x, torch.Tensor) for p in parts):
            return fingerprint(*parts)
        pixels = [p.x.sha256 for p in parts if p and isinstance(p.x, Decoder)]
        rest = [
            replace(p, x=torch.empty(0)) if p and isinstance(p.x, Decoder) else p for p in parts
        ]
        return hashlib.sha256(f"{pixels} {fingerprint(*rest)}".encode()).hexdigest()


def uppermost_missing(folder: Path) -> Path | None:
    """The uppermost folder of a path that does not exist; None if all do."""
    missing = [p for p in (folder, *folder.parents) if not p.exists()]
    return missing[-1] if missing else None


def remove_empty(folder: Path) -> None:
    """Remove the empty folders at and below this one."""
    for path, _, _ in os.walk(folder, topdown=False):
        atomic_io.prune(Path(path))


def parameters(kind: type) -> dict[str, inspect.Parameter]:
    """The arguments of a class by name, and of its base if it passes on `**kwargs`, as EMNIST does."""
    own = inspect.signature(kind.__init__).parameters  # type: ignore[misc]
    named = {k: p for k, p in own.items() if k != "self" and p.kind is p.POSITIONAL_OR_KEYWORD}
    base = kind.__mro__[1]
    passes_on = any(p.kind is p.VAR_KEYWORD for p in own.values()) and base is not object
    return {**parameters(base), **named} if passes_on else named


def in_one_array(found: Any) -> Images | None:
    """The images of a set that stores them as one array, uint8 [N, C, H, W]; None for any other."""
    data = getattr(found, "data", None)
    labels = getattr(found, "targets", getattr(found, "labels", None))
    if not isinstance(data, np.ndarray | torch.Tensor) or labels is None or len(data) != len(found):
        return None
    x, y = torch.as_tensor(data), torch.as_tensor(labels)
    if x.dtype != torch.uint8 or x.dim() not in (3, 4) or y.dim() != 1:
        return None
    if x.dim() == 3:
        x = x.unsqueeze(1)
    elif x.shape[-1] in (1, 3) and x.shape[1] not in (1, 3):
        x = x.permute(0, 3, 1, 2).contiguous()
    return Images(x, y.long(), [""] * len(y))


def item(found: Any, row: int, name: str) -> tuple[Image.Image, int]:
    """One image and its class.

    ConfigError for data sets of boxes, masks or captions, DataError for a broken file.
    """
    try:
        picture, label, *rest = found[row]
    except Exception as error:  # torchvision raises any exception for a broken file
        raise DataError(
            f"{name}: image {row} cannot be read ({str(error) or type(error).__name__})"
        ) from error
    scalar = isinstance(label, torch.Tensor) and label.dim() == 0
    is_class = scalar or isinstance(label, int | np.integer)
    if rest or not is_class or not isinstance(picture, Image.Image):
        text = f"its targets are {type(label).__name__}, and not one class for each image"
        raise ConfigError("name", name, text)
    return picture, int(label)


class Decoder:
    """Decodes image number `row` as uint8 [C, H, W]."""

    sha256 = ""  # hash of all pixels, once they have been read

    def __init__(self, found: Any, name: str, image: tuple[int, int, int], fit: str):
        self.found, self.name, self.image, self.fit = found, name, image, fit

    def __call__(self, row: int) -> torch.Tensor:
        return self.labelled(row)[0]

    def labelled(self, row: int) -> tuple[torch.Tensor, int]:
        """(image, class) number `row`."""
        channels, height, width = self.image
        picture, label = item(self.found, row, self.name)
        picture = picture.convert("L" if channels == 1 else "RGB")
        picture = fitting(picture, (width, height), self.fit, Image.Resampling.BILINEAR)
        x_HWC = torch.from_numpy(np.array(picture)).reshape(height, width, channels)
        return x_HWC.permute(2, 0, 1).contiguous(), label
