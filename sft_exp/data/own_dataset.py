"""Any torch Dataset as a data set: what `sft_exp.run(dataset=...)` makes of the object that it is given.

All items are read once into one file, named by the hash of its content, and a run is a run on that file: other images or
labels give its results another name, whatever class they came from.
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
from sft_exp.data.images import Images
from sft_exp.errors import ConfigError, DataError
from sft_exp.store import atomic_io

FOLDER = "objects"  # in the store
PARTS = ("train", "test", "unlabelled")
LOOKED_AT_TWICE = 3  # items


@dataclass
class OwnDataset(Dataset):
    """A user's images in the file that `described` has written."""

    unhashed: ClassVar[tuple[str, ...]] = ("file",)  # its content is hashed

    name: str = ""
    file: str = ""

    def load(self):
        try:
            with safe_open(self.file, "pt") as opened:
                tensors = {key: opened.get_tensor(key) for key in iter(opened.keys())}
                classes = tuple(json.loads(opened.metadata()["classes"]))
        except (OSError, ValueError, KeyError) as error:
            raise DataError(f"{self.file}: the images of {self.name} are gone ({error})") from error
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
    if f"{part}.x" not in tensors:
        return None
    x_NCHW = tensors[f"{part}.x"]
    ids = [f"{part}/{n:06d}" for n in range(len(x_NCHW))]
    return Images(x_NCHW, tensors[f"{part}.y"], ids)


def described(given: Any, store: Path) -> dict[str, Any]:
    """The fields of the OwnDataset that stands for a torch Dataset, or for a dict of them by part, written into the store.

    `train` has the labels, of which a run takes those that `labels=` allows; images of `unlabelled` are pretrained on, and
    their labels, if they have some, are not looked at; without `test`, folds of `train` serve as test.

    Raises:
        ConfigError: for parts that do not exist.
        DataError: for items that are no (image, label), images of several sizes, labels that are no classes.
    """
    parts = dict(given) if isinstance(given, Mapping) else {"train": given}
    if "train" not in parts or {*parts} - {*PARTS}:
        valid = f"must be a Dataset, or a dict of them by part: train, and if you have them {' and '.join(PARTS[1:])}"
        raise ConfigError("dataset", ", ".join(map(str, parts)) or "{}", valid)
    name = type(parts["train"]).__name__
    tensors: Tensors = {}
    for part in PARTS:
        if part in parts:
            x_NCHW, y_N = gathered(parts[part], f"{name} ({part})", part != "unlabelled")
            tensors |= {f"{part}.x": x_NCHW, f"{part}.y": y_N}
            if x_NCHW.shape[1:] != tensors["train.x"].shape[1:]:
                sizes = f"{[*x_NCHW.shape[1:]]} and not {[*tensors['train.x'].shape[1:]]}"
                raise DataError(f"{name} ({part}): its images are {sizes}, as those of train")
    content = to_bytes(tensors, {"classes": json.dumps(classes_of(parts["train"], name, tensors))})
    file = store / FOLDER / f"{hashlib.sha256(content).hexdigest()[:16]}.safetensors"
    if not file.exists():
        atomic_io.folder(file.parent)
        atomic_io.write(file, content)
    return {"name": name, "file": str(file)}


def classes_of(train: Any, name: str, tensors: Tensors) -> list[str]:
    """The names of the classes: the attribute `classes` that torchvision's data sets have, or else the labels themselves."""
    labels = torch.cat([tensors[f"{part}.y"] for part in PARTS[:2] if f"{part}.y" in tensors])
    count = int(labels.max()) + 1
    names = [str(c) for c in getattr(train, "classes", None) or range(count)]
    if len(names) < count:
        raise DataError(f"{name}: has a label {count - 1}, but names {len(names)} classes")
    return names


def gathered(items: Any, name: str, labelled: bool) -> tuple[Tensor, Tensor]:
    """(images uint8 [N, C, H, W], labels int64 [N]) of a Dataset; DataError names the item that does not fit."""
    found_x: list[Tensor] = []
    found_y: list[int] = []
    try:
        count = len(items)
    except TypeError:
        raise DataError(f"{name}: has no length; only data sets that do can be split") from None
    if count == 0:
        raise DataError(f"{name}: is empty")
    for n in range(count):
        item = items[n]
        pair = isinstance(item, tuple | list) and len(item) == 2
        if labelled and not pair:
            raise DataError(f"{name}: item {n} is {described_as(item)}, and must be (image, label)")
        x_CHW = pixels(image_of(item), f"{name}: item {n}")
        if n < LOOKED_AT_TWICE:
            again = items[n]
            if not torch.equal(x_CHW, pixels(image_of(again), f"{name}: item {n}")):
                raise DataError(
                    f"{name}: item {n} is another image each time. Leave out random transforms: augment= makes views"
                )
        if found_x and x_CHW.shape != found_x[0].shape:
            sizes = f"{[*x_CHW.shape]} and item 0 {[*found_x[0].shape]}"
            raise DataError(
                f"{name}: item {n} is {sizes}; give all one size, e.g. by Resize and CenterCrop"
            )
        found_x.append(x_CHW)
        found_y.append(label(item[1], f"{name}: item {n}") if labelled else -1)
    return torch.stack(found_x), torch.tensor(found_y)


def image_of(item: Any) -> Any:
    """The image of an item: of a tuple the first entry."""
    return item[0] if isinstance(item, tuple | list) and item else item


def label(value: Any, where: str) -> int:
    """A class, from 0 up. DataError for anything else."""
    scalar = isinstance(value, Tensor | np.ndarray | np.generic) and len(value.shape) == 0
    number = value.item() if scalar else value
    if isinstance(number, bool) or not isinstance(number, int) or number < 0:
        raise DataError(
            f"{where}: its label is {described_as(value)}, and must be a whole number from 0 up. For masks, boxes and numbers "
            "take dataset=mask_folder, boxes or number_table"
        )
    return number


def pixels(image: Any, where: str) -> Tensor:
    """An image as uint8 [C, H, W].

    Tensors have their channels first, uint8 or floats in [0, 1] (rounded to 8 bits, as ToTensor makes them from these);
    arrays have them last; of either [H, W] is grey. Pillow's images are turned upright. DataError for anything else.
    """
    from PIL import Image, ImageOps

    if isinstance(image, Image.Image):
        if image.mode.startswith(("I", "F")):
            raise DataError(
                f"{where} has more than 8 bits a pixel ({image.mode}); scale it to 8 bits, or take image files"
            )
        upright = ImageOps.exif_transpose(image)
        wanted = {"L": "L", "1": "L"}.get(image.mode, "RGB")
        image = np.array(upright if upright.mode == wanted else upright.convert(wanted))
    if isinstance(image, np.ndarray):
        array = torch.from_numpy(np.array(image))
        image = array.movedim(-1, 0) if array.dim() == 3 else array
    if not isinstance(image, Tensor):
        raise DataError(
            f"{where} holds {described_as(image)}, and must hold a Pillow image, an array or a tensor"
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
                f"{where} has values from {low:.3g} to {high:.3g}, and floats must be in [0, 1]. Leave out Normalize: "
                "encoder.mean and encoder.std do it inside of the network"
            )
        return (x_CHW * 255).round().to(torch.uint8).contiguous()
    if x_CHW.dtype != torch.uint8:
        raise DataError(f"{where} is of {x_CHW.dtype}, and must be uint8, or floats in [0, 1]")
    return x_CHW.contiguous()


def described_as(value: Any) -> str:
    """A value for a message: its type, and of a small one what it is."""
    text = repr(value)
    return text if len(text) < 30 else type(value).__name__
