"""Any classification set of torchvision. Sets that hold their images as one array (MNIST, CIFAR10, STL10, SVHN, ...) are taken
as they are; the others (GTSRB, DTD, Food101, FakeData, ...) are decoded and brought to one size.

Each set is given the arguments that its own signature has: https://docs.pytorch.org/vision/stable/datasets.html
"""

import hashlib
import inspect
import tarfile
from dataclasses import dataclass, field, replace
from math import prod
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

# not options of the user
OURS = (
    "root",
    "download",
    "transform",
    "target_transform",
    "transforms",
    "loader",
    "is_valid_file",
)
WORDS = {  # what torchvision's sets call their parts, in the order in which they are tried
    "train": ("train", "trainval", "train-standard"),
    "test": ("test", "val", "valid"),
}
SIDE = 64  # pixels of images decoded from files, unless `size` is given


@dataclass
class TorchvisionSet(Dataset):
    unhashed: ClassVar[tuple[str, ...]] = ("root", "download", "memory", "workers")
    # fields whose keys are the set's own
    passes: ClassVar[tuple[str, ...]] = ("train", "test", "extra", "options")

    name: str = "MNIST"  # class in torchvision.datasets
    root: str = "data"  # folder of the files
    download: bool = True  # fetch what is missing there, where torchvision can
    # arguments that select the training images; {} = by the set's signature
    train: dict = field(default_factory=lambda: {})
    # the same for the test images; a set in one part is tested in folds
    test: dict = field(default_factory=lambda: {})
    # arguments that select unlabelled images, if the set has any
    extra: dict = field(default_factory=lambda: {})
    # arguments for every part, e.g. {split: letters} for EMNIST
    options: dict = field(default_factory=lambda: {})
    classes: list[str] = field(default_factory=lambda: [])  # names, where torchvision has none
    # make each pixel black or white, once: drawn with its grey level as probability, from a fixed
    # stream
    binarise: bool = False
    # pixels, or [rows, columns], of all images; null = as they are in one array, 64 where they are
    # files
    size: Any = None
    fit: str = "crop"  # how an image becomes that size: crop (its middle), stretch, letterbox
    memory: float = 4.0  # GB of images decoded once and held; a larger set is decoded as it is used
    workers: int = 2  # processes that decode it

    def __post_init__(self):
        for name in self.passes:
            given = getattr(self, name)
            require(
                isinstance(given, dict),
                name,
                given,
                "arguments of the set by name, e.g. {split: val}",
            )
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
        found = self.opened(kind, "train")
        assert found is not None
        train = self.images(found, "train")
        test = (
            None
            if (other := self.opened(kind, "test")) is None
            else self.images(other, "test", train)
        )
        extra = self.images(self.opened(kind, "extra"), "unlabelled", train) if self.extra else None
        names = self.names(found, [train, *filter(None, [test])])
        if extra is not None:
            extra.y = torch.full_like(extra.y, -1)
        shape: Any = tuple(train.raw(0).shape)
        marks = self.mark(train, extra), "" if test is None else self.mark(test)
        return Corpus(self.name, names, train, test, extra, shape, {}, *marks)

    def opened(self, kind: Any, part: str) -> Any:
        """torchvision's own object for one part; None for the test images of a set that has one part alone.

        Raises ConfigError for arguments that the set does not take, DataError for files that are missing or broken.
        """
        taken = parameters(kind)
        usual = {
            k: v for k, v in {"root": self.root, "download": self.download}.items() if k in taken
        }
        tries = self.selections(part, taken)
        for arguments in tries:
            given = {**usual, **self.options, **arguments}
            self.fits(
                taken,
                given,
                {**dict.fromkeys(self.options, "options"), **dict.fromkeys(arguments, part)},
            )
            # else `../` leaves the folder
            tarfile.TarFile.extraction_filter = staticmethod(tarfile.data_filter)
            try:
                return kind(**given)
            except (
                Exception
            ) as error:  # torchvision's readers raise whatever a broken file leads them to
                if isinstance(error, ValueError) and str(error).startswith("Unknown value"):
                    if arguments is not tries[-1]:
                        continue
                    raise ConfigError(part, self.options | arguments, str(error)) from error
                raise self.incomplete(error, "download" in taken) from error
        return None

    def fits(
        self, taken: dict[str, inspect.Parameter], given: dict[str, Any], fields: dict[str, str]
    ) -> None:
        """ConfigError for an argument that the set does not take, or needs and is not given; `fields` says where each stands."""
        valid = [name for name in taken if name not in OURS]
        for name, where in fields.items():
            if name not in valid:
                told = f"{self.name} takes no such argument; valid: {', '.join(valid) or 'none'}"
                raise ConfigError(f"{where}.{name}", given[name], told)
        if missing := [
            name for name, p in taken.items() if p.default is p.empty and name not in given
        ]:
            needs = f"{self.name} needs {missing[0]}: dataset.options={{{missing[0]}: ...}}"
            raise ConfigError("options", self.options, needs)

    def selections(self, part: str, taken: dict[str, inspect.Parameter]) -> list[dict[str, Any]]:
        """The arguments that may select a part, to be tried in turn: those given, or what the signature offers."""
        if given := getattr(self, part):
            return [given]
        if "train" in taken and "train" not in self.options:
            return [{"train": part == "train"}]
        if "split" in taken and "split" not in self.options:
            return [{"split": word} for word in WORDS[part]]
        return [{}] if part == "train" else []

    def incomplete(self, error: Exception, fetches: bool) -> DataError:
        if not fetches:
            hint = "torchvision cannot download it"
        elif self.download:
            hint = "could not be downloaded there either"
        else:
            hint = "with dataset.download=true it would be fetched"
        why = str(error) or type(error).__name__
        return DataError(
            f"dataset.root={self.root}: torchvision finds no complete {self.name} there ({why}); {hint}"
        )

    def images(self, found: Any, label: str, like: Images | None = None) -> Images:
        """The images of one part, all of the size of `like`, if it is given."""
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
            drawn = torch.rand(images.x.shape, generator=stream("binarise", label)) * 255
            images.x = (drawn < images.x).to(torch.uint8) * 255
        return images

    def decoded(self, found: Any, label: str, image: Any) -> Images:
        """Images of a set that decodes them one by one. One after the other: FakeData's items are not safe among threads."""
        picture = item(found, 0, self.name)[0]
        high, wide = self.sides or (SIDE, SIDE)
        image = image or (1 if picture.mode in ("1", "L") else 3, high, wide)
        count = len(found)
        hold = count * prod(image) <= self.memory * 1e9
        x = torch.empty(count if hold else 0, *image, dtype=torch.uint8)
        y, digest, decode = (
            torch.empty(count, dtype=torch.long),
            hashlib.sha256(),
            Decoder(found, self.name, image, self.fit),
        )
        with bar(f"{self.name}, {label}", count) as advance:
            for n in range(count):
                pixels, y[n] = decode.labelled(n)
                digest.update(pixels.numpy().tobytes())
                if hold:
                    x[n] = pixels
                advance(n + 1, "")
        if hold:
            return Images(x, y, [])
        decode.sha256 = digest.hexdigest()
        return Images(decode, y, [], workers=self.workers)

    def names(self, found: Any, parts: list[Images]) -> tuple[str, ...]:
        """Names of the classes that occur; labels are numbered anew where some do not, as `N/A` in EMNIST's letters."""
        labels = sorted({int(y) for images in parts for y in images.y.unique()})
        if labels[0] < 0:
            raise ConfigError(
                "train",
                self.train,
                f"selects images of {self.name} without labels; name these in extra",
            )
        named = (
            self.classes or getattr(found, "classes", None) or getattr(found, "categories", None)
        )
        if self.classes and len(self.classes) <= labels[-1]:
            raise ConfigError(
                "classes",
                self.classes,
                f"names {len(self.classes)}, and there are labels to {labels[-1]}",
            )
        if not named or len(named) <= labels[-1]:
            named = [str(n) for n in range(labels[-1] + 1)]
        for images in parts:
            images.y = torch.searchsorted(torch.tensor(labels), images.y)
        return tuple(str(named[n]) for n in labels)

    def mark(self, *parts: Images | None) -> str:
        """SHA-256 of the content of these parts."""
        if all(p is None or isinstance(p.x, torch.Tensor) for p in parts):
            return fingerprint(*parts)
        held = [
            p and replace(p, x=torch.empty(0)) if p and isinstance(p.x, Decoder) else p
            for p in parts
        ]
        pixels = [p.x.sha256 for p in parts if p and isinstance(p.x, Decoder)]
        return hashlib.sha256(f"{pixels} {fingerprint(*held)}".encode()).hexdigest()


def parameters(kind: type) -> dict[str, inspect.Parameter]:
    """The arguments of a class by name. Where it hands on `**kwargs`, as EMNIST does, those of its base as well."""
    own = inspect.signature(kind.__init__).parameters  # type: ignore[misc]
    named = {k: p for k, p in own.items() if k != "self" and p.kind is p.POSITIONAL_OR_KEYWORD}
    more = any(p.kind is p.VAR_KEYWORD for p in own.values()) and kind.__mro__[1] is not object
    return {**(parameters(kind.__mro__[1]) if more else {}), **named}


def in_one_array(found: Any) -> Images | None:
    """The images of a set that holds them all, uint8 [N, C, H, W], without copies; None for any other."""
    held, labels = (
        getattr(found, "data", None),
        getattr(found, "targets", getattr(found, "labels", None)),
    )
    if not isinstance(held, np.ndarray | torch.Tensor) or labels is None or len(held) != len(found):
        return None
    x, y = torch.as_tensor(held), torch.as_tensor(labels)
    if x.dtype != torch.uint8 or x.dim() not in (3, 4) or y.dim() != 1:
        return None
    if x.dim() == 3:
        x = x.unsqueeze(1)
    elif x.shape[-1] in (1, 3) and x.shape[1] not in (1, 3):
        x = x.permute(0, 3, 1, 2).contiguous()
    return Images(x, y.long(), [""] * len(y))


def item(found: Any, row: int, name: str) -> tuple[Image.Image, int]:
    """One image and its class. ConfigError for sets of boxes, masks or captions, DataError for a file that is broken."""
    try:
        picture, label, *rest = found[row]
    except Exception as error:  # torchvision's readers raise whatever a broken file leads them to
        raise DataError(
            f"{name}: image {row} cannot be read ({str(error) or type(error).__name__})"
        ) from error
    single = isinstance(label, int | np.integer) or (
        isinstance(label, torch.Tensor) and label.dim() == 0
    )
    if rest or not single or not isinstance(picture, Image.Image):
        raise ConfigError(
            "name",
            name,
            f"its targets are {type(label).__name__}, and not one class for each image",
        )
    return picture, int(label)


class Decoder:
    """row -> uint8 [C, H, W]."""

    sha256 = ""  # of all pixels, once they were read

    def __init__(self, found: Any, name: str, image: tuple[int, int, int], fit: str):
        self.found, self.name, self.image, self.fit = found, name, image, fit

    def __call__(self, row: int) -> torch.Tensor:
        return self.labelled(row)[0]

    def labelled(self, row: int) -> tuple[torch.Tensor, int]:
        channels, high, wide = self.image
        picture, label = item(self.found, row, self.name)
        picture = fitting(
            picture.convert("L" if channels == 1 else "RGB"),
            (wide, high),
            self.fit,
            Image.Resampling.BILINEAR,
        )
        return torch.from_numpy(np.array(picture)).reshape(high, wide, channels).permute(
            2, 0, 1
        ).contiguous(), label
