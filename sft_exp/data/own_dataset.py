"""Any torch Dataset as a data set: `sft_exp.run(dataset=...)` accepts such an object.

All items are read once into a file that is named by the hash of its content, and the run uses that
file. So a change of images or labels changes the names of the results, whatever their class.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

from sft_exp.core.types import Tensors
from sft_exp.data.corpus import Corpus, Dataset, fingerprint
from sft_exp.data.decode import without_alpha
from sft_exp.data.images import Images
from sft_exp.errors import ConfigError, DataError
from sft_exp.store import atomic_io

FOLDER = "objects"  # in the store
PARTS = ("train", "test", "unlabelled")
READ_TWICE = 3  # items read twice, to detect random transforms


@dataclass
class OwnDataset(Dataset):
    """A user's images, in the file that `described` has written."""

    unhashed: ClassVar[tuple[str, ...]] = ("file",)  # the content of the file is hashed

    name: str = ""
    file: str = ""

    def load(self):
        try:
            with safe_open(self.file, "pt") as opened:
                tensors = {key: opened.get_tensor(key) for key in iter(opened.keys())}
                classes = tuple(json.loads(opened.metadata()["classes"]))
        except (OSError, ValueError, KeyError) as error:
            raise DataError(
                f"{self.file}: the images of {self.name} cannot be read ({error})"
            ) from error
        train, test, extra = (images(tensors, part) for part in PARTS)
        assert train is not None
        assert isinstance(train.x, Tensor)
        return Corpus(
            self.name,
            classes,
            train,
            test,
            extra,
            image=(train.x.shape[1], train.x.shape[2], train.x.shape[3]),
            fingerprint=fingerprint(train, extra),
            test_fingerprint=fingerprint(test),
        )


def images(tensors: Tensors, part: str) -> Images | None:
    """The images of a part, or None if the file has no such part."""
    if f"{part}.x" not in tensors:
        return None
    x_NCHW = tensors[f"{part}.x"]
    ids = [f"{part}/{n:06d}" for n in range(len(x_NCHW))]
    return Images(x_NCHW, tensors[f"{part}.y"], ids)


def described(given: Any, store: Path) -> dict[str, Any]:
    """Write a torch Dataset, or a dict of them by part, into the store.

    Returns the fields of the OwnDataset that reads the file. `train` is labelled, and a run uses as
    many labels as `labels=` allows; `unlabelled` is for pretraining, and its labels, if any, are
    ignored; without `test`, folds of `train` serve as test.

    Raises:
        ConfigError: for parts that do not exist.
        DataError: for items that are not (image, label), images of several sizes, and labels that
            are not classes.
    """
    parts = dict(given) if isinstance(given, Mapping) else {"train": given}
    if "train" not in parts or {*parts} - {*PARTS}:
        optional = " and ".join(PARTS[1:])
        valid = f"must be a Dataset, or a dict of them by part: train, and optionally {optional}"
        raise ConfigError("dataset", ", ".join(map(str, parts)) or "{}", valid)
    for part, items in parts.items():
        if isinstance(items, type):
            raise ConfigError("dataset", items.__name__, f"({part}) {called('dataset', items)}")
    name = type(parts["train"]).__name__
    tensors: Tensors = {}
    for part in PARTS:
        if part in parts:
            x_NCHW, y_N = read_items(parts[part], f"{name} ({part})", part != "unlabelled")
            tensors |= {f"{part}.x": x_NCHW, f"{part}.y": y_N}
            if x_NCHW.shape[1:] != tensors["train.x"].shape[1:]:
                size, train_size = [*x_NCHW.shape[1:]], [*tensors["train.x"].shape[1:]]
                raise DataError(
                    f"{name} ({part}): images are {size}, and those of train {train_size}"
                )
    if "test" in parts:
        number_as(parts["train"], parts["test"], name, tensors["test.y"])
    content = to_bytes(tensors, {"classes": json.dumps(classes_of(parts["train"], name, tensors))})
    file = store / FOLDER / f"{hashlib.sha256(content).hexdigest()[:16]}.safetensors"
    if not file.exists():
        atomic_io.folder(file.parent)
        atomic_io.write(file, content)
    return {"name": name, "file": str(file)}


def called(key: str, kind: type) -> str:
    """What is wrong with a class in place of an object of it, and the right form."""
    return f"is the class and no object of it; call it: {key}={kind.__name__}()"


def classes_of(train: Any, name: str, tensors: Tensors) -> list[str]:
    """The class names: the attribute `classes`, as torchvision has it, or else the labels."""
    labels = torch.cat([tensors[f"{part}.y"] for part in PARTS[:2] if f"{part}.y" in tensors])
    count = int(labels.max()) + 1
    names = class_names(train) or [str(n) for n in range(count)]
    if len(names) < count:
        raise DataError(f"{name}: has the label {count - 1}, but only {len(names)} class names")
    return names


def class_names(items: Any) -> list[str]:
    """The attribute `classes` of a Dataset, or of the one that it is a Subset of; empty without one."""
    classes = getattr(items, "classes", None) or getattr(
        getattr(items, "dataset", None), "classes", None
    )
    return [str(name) for name in classes or ()]


def number_as(train: Any, test: Any, name: str, y_N: Tensor) -> None:
    """Give the test labels, in place, the numbers that their class names have in `train`.

    torchvision's ImageFolder numbers the classes that a folder has, so that a test folder without
    one of them numbers those after it otherwise.

    Raises:
        DataError: a test image is of a class that `train` does not have.
    """
    known, found = class_names(train), class_names(test)
    if not known or not found or found == known[: len(found)]:
        return
    used = {n for n in y_N.unique().tolist() if n < len(found)}
    if unknown := [found[n] for n in sorted(used) if found[n] not in known]:
        raise DataError(
            f"{name} (test): has images of {', '.join(unknown)}, which is no class of train: "
            f"{', '.join(known)}"
        )
    number_Y = [known.index(c) if c in known else len(known) for c in found]
    y_N.copy_(torch.tensor([number_Y[n] if n < len(found) else n for n in y_N.tolist()]))


def read_items(items: Any, name: str, labelled: bool) -> tuple[Tensor, Tensor]:
    """Read (images uint8 [N, C, H, W], labels int64 [N]); a DataError names the faulty item."""
    images_CHW: list[Tensor] = []
    labels: list[int] = []
    try:
        count = len(items)
    except TypeError:
        raise DataError(f"{name}: has no length, which is needed to split it") from None
    if count == 0:
        raise DataError(f"{name}: is empty")
    for n in range(count):
        item = items[n]
        pair = isinstance(item, tuple | list) and len(item) == 2
        if labelled and not pair:
            raise DataError(f"{name}: item {n} is {described_as(item)}, and must be (image, label)")
        x_CHW = pixels(image_of(item), f"{name}: item {n}")
        if n < READ_TWICE:
            again = items[n]
            if not torch.equal(x_CHW, pixels(image_of(again), f"{name}: item {n}")):
                raise DataError(
                    f"{name}: item {n} changes from one read to the next. "
                    "Leave out random transforms: augment= makes random views"
                )
        if images_CHW and x_CHW.shape != images_CHW[0].shape:
            raise DataError(
                f"{name}: item {n} is {[*x_CHW.shape]} and item 0 {[*images_CHW[0].shape]}; "
                "make all images one size, e.g. by Resize and CenterCrop"
            )
        images_CHW.append(x_CHW)
        labels.append(label(item[1], f"{name}: item {n}") if labelled else -1)
    x_NCHW = torch.stack(images_CHW)
    if x_NCHW.max() == 1:
        raise DataError(
            f"{name}: holds no values but 0 and 1 as uint8, where white is 255, so that all images "
            "would be black: multiply them by 255, or give floats in [0, 1]"
        )
    return x_NCHW, torch.tensor(labels)


def image_of(item: Any) -> Any:
    """The image of an item, which is the first entry of a tuple or list."""
    return item[0] if isinstance(item, tuple | list) and item else item


def label(value: Any, where: str) -> int:
    """A class number, 0 or larger. DataError for anything else."""
    scalar = isinstance(value, Tensor | np.ndarray | np.generic) and len(value.shape) == 0
    number = value.item() if scalar else value
    if isinstance(number, bool) or not isinstance(number, int) or number < 0:
        raise DataError(
            f"{where}: its label is {described_as(value)}, and must be a whole number from 0 up. "
            "For masks, boxes and numbers take dataset=mask_folder, boxes or number_table"
        )
    return number


def pixels(image: Any, where: str) -> Tensor:
    """An image as uint8 [C, H, W].

    Tensors have channels first, uint8 or floats in [0, 1] (rounded to 8 bits, which inverts
    ToTensor); arrays have channels last; [H, W] is grey. Pillow images are turned upright by their
    EXIF orientation. DataError for anything else.
    """
    from PIL import Image, ImageOps

    if isinstance(image, Image.Image):
        if image.mode.startswith(("I", "F")):
            raise DataError(
                f"{where} has more than 8 bits a pixel ({image.mode}); "
                "scale it to 8 bits, or take image files"
            )
        # as of a file: a picture that alpha draws in one colour would be that colour alone
        upright, _ = without_alpha(ImageOps.exif_transpose(image))
        mode = "L" if image.mode in ("L", "1") else "RGB"
        image = np.array(upright if upright.mode == mode else upright.convert(mode))
    if isinstance(image, np.ndarray):
        array = torch.from_numpy(np.array(image))
        image = array.movedim(-1, 0) if array.dim() == 3 else array
    if not isinstance(image, Tensor):
        raise DataError(
            f"{where} holds {described_as(image)}, "
            "and must hold a Pillow image, an array or a tensor"
        )
    x_CHW = image.detach().cpu()
    x_CHW = x_CHW[None] if x_CHW.dim() == 2 else x_CHW
    if x_CHW.dim() != 3 or not 1 <= len(x_CHW) <= 4:
        raise DataError(
            f"{where} has the shape {[*image.shape]}, and must be [C, H, W] (an array: [H, W, C])"
        )
    if x_CHW.is_floating_point():
        if not bool(((x_CHW >= 0) & (x_CHW <= 1)).all()):
            low, high = x_CHW.min().item(), x_CHW.max().item()
            raise DataError(
                f"{where} has values from {low:.3g} to {high:.3g}, and floats must be in [0, 1]. "
                "Leave out Normalize: encoder.mean and encoder.std do it inside of the network"
            )
        return (x_CHW * 255).round().to(torch.uint8).contiguous()
    if x_CHW.dtype != torch.uint8:
        raise DataError(f"{where} is of {x_CHW.dtype}, and must be uint8, or floats in [0, 1]")
    return x_CHW.contiguous()


def described_as(value: Any) -> str:
    """A value as text for a message: its repr if that is short, else its type."""
    text = repr(value)
    return text if len(text) < 30 else type(value).__name__
