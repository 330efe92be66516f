"""A model in a folder: model.json describes it, model.safetensors holds its weights. No pickle."""

import importlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sft_exp.config.enums import with_members
from sft_exp.config.moved import ABSENT, current
from sft_exp.core.device import place
from sft_exp.core.encoder import Encoder
from sft_exp.core.method import Method
from sft_exp.core.strategy import Strategy
from sft_exp.core.task import Task
from sft_exp.core.types import Spec, Tensors
from sft_exp.data.images import Images
from sft_exp.distributed.group import Group, shared
from sft_exp.errors import DataError, StorageError, absent
from sft_exp.models import transfer
from sft_exp.models.feature_extractor import FeatureExtractor, Precomputed
from sft_exp.models.normalise import backbone
from sft_exp.store import atomic_io, results
from sft_exp.store.listing import near
from sft_exp.store.requests import plain

BATCH = 250  # images predicted at once: larger batches spend their time on memory allocation
PIXELS = 2**20  # maximum number of pixels of a batch
NEED_PROBABILITIES = ("ece",)  # scores that need probabilities
ENCODER = "encoder.safetensors"  # weights of an encoder alone
PARTS = (Encoder, Method, Strategy)  # classes that model.json may name, with their fields


@dataclass
class Model:
    """A task's networks, ready to predict."""

    task: Task
    nets: nn.ModuleDict
    spec: Spec
    # whether the softmax of predictions is a probability; an SVM's votes are none
    probabilistic: bool = True

    @torch.no_grad()
    def predict(self, x_BCHW: Tensor) -> Tensor:
        """The task's predictions for images in [0, 1] [B, C, H, W]."""
        return self.task.predict(self.nets.eval(), x_BCHW)

    @property
    def encoder(self) -> FeatureExtractor:
        """The encoder of the networks that predict, in eval mode."""
        encoder: Any = self.task.predicting(self.nets.eval())["encoder"]
        return encoder


def readout(encoder: Encoder, features: dict[str, Any], spec: Spec) -> FeatureExtractor:
    """The encoder's network with the feature maps that `features` selects."""
    return FeatureExtractor(
        backbone(encoder, spec.image),
        features["maps"],
        features["pool"],
        features["grid"],
        spec.image,
    )


def save(folder: Path, model: Model, request: dict[str, Any]) -> None:
    """Write the model; `request` holds its encoder, features, task and strategy.

    The weights of an encoder whose stored features were used stay in the pretraining's file, which
    the folder then shares.
    """
    build = {k: plain(request[k]) for k in ("encoder", "features", "task", "strategy")}
    spec = {"image": model.spec.image, "classes": model.spec.classes, "named": model.spec.named}
    atomic_io.write_json(folder / "model.json", {**build, **spec, **reading(model.spec)})
    atomic_io.write(folder / "model.safetensors", transfer.own_content(model.nets))
    if isinstance(model.nets["encoder"], Precomputed):
        atomic_io.share(folder / ENCODER, request["start"] / ENCODER)


def state_in(folder: Path) -> Tensors:
    """All tensors of the model in a folder, by their names in its networks."""
    state = transfer.read_own(folder / "model.safetensors")
    if (folder / ENCODER).exists():
        encoder = transfer.read_own(folder / ENCODER)
        state |= {f"encoder.backbone.{name}": value for name, value in encoder.items()}
    return state


def load(folder: Path, device: torch.device | str = "cpu", features: int | None = None) -> Model:
    """The model in the folder of a fine-tuning; StorageError if its files do not fit together.

    Given a number of `features`, the model has no encoder and predicts from features [B, D]. That
    takes a model that was fitted on stored features.
    """
    about = json.loads((folder / "model.json").read_text())
    spec = spec_in(about)
    encoder, task, strategy = parts_of(folder)
    if features is None:
        state = state_in(folder)
        nets = task.networks(readout(encoder, about["features"], spec), spec)
    else:
        state = transfer.read_own(folder / "model.safetensors")
        nets = task.networks(Precomputed(features), spec)
    if strategy.closed_form:
        prefix = f"{task.readout}."
        shapes = {k.removeprefix(prefix): v.shape for k, v in state.items() if k.startswith(prefix)}
        nets.set_submodule(task.readout, strategy.head(shapes, task.of(spec)))
    if about.get("resized"):
        resize(nets, state)
    transfer.load_own(nets, state, folder / "model.safetensors")
    return Model(task, place(nets, torch.device(device)).eval(), spec, strategy.probabilistic)


def reading(spec: Spec) -> dict[str, Any]:
    """What of the spec says how files are read, as far as it is not the usual."""
    levels = {"levels": spec.levels} if spec.levels else {}
    return levels | ({"fit": spec.fit} if spec.fit != "crop" else {})


def spec_in(about: dict[str, Any]) -> Spec:
    """The spec in the description of a model, a compressed one or an exported one."""
    return Spec(
        tuple(about["image"]),
        tuple(about["classes"]),
        {target: tuple(names) for target, names in about.get("named", {}).items()},
        tuple(about["levels"]) if about.get("levels") else None,
        about.get("fit", "crop"),
    )


def parts_of(folder: Path) -> list[Any]:
    """The encoder, task and strategy of the model in a folder."""
    about = json.loads((folder / "model.json").read_text())
    return [rebuild(about[k]) for k in ("encoder", "task", "strategy")]


def folder_of(path: Path) -> Path:
    """Folder of a run's model (first draw), or `path` if it holds one itself.

    Raises:
        DataError: there is none.
        StorageError: it is damaged.
    """
    folder = find_folder(path)
    atomic_io.require_intact(folder)
    return folder


def find_folder(path: Path) -> Path:
    """`folder_of` without a look at the folder's files."""
    if (path / "model.json").exists():
        return path
    if (path / results.FILE).exists():
        stage = results.read(path).stages.finetune
        if stage is None:
            raise DataError(f"{path}: its {results.FILE} names no fine-tuning")
        folder = Path(stage.folder)
        for place in near(path, folder):
            if (place / "model.json").exists():
                return place
        raise DataError(f"{path}: its model should be in {folder}, and is not there")
    if not path.exists():
        raise DataError(f"{path}: {absent(path, 'folder')}")
    raise DataError(f"{path}: neither a run folder (results.json) nor a store folder (model.json)")


def resize(nets: nn.ModuleDict, state: Tensors) -> None:
    """Give each tensor of `nets` its saved shape: the description has channels that were pruned."""
    for name, value in state.items():
        path, _, leaf = name.rpartition(".")
        try:
            owner = nets.get_submodule(path)
        except AttributeError:
            continue  # loading reports what does not fit
        if leaf in owner._parameters:
            setattr(owner, leaf, nn.Parameter(torch.empty_like(value)))
        elif leaf in owner._buffers:
            setattr(owner, leaf, torch.empty_like(value))


@torch.no_grad()
def measure(
    model: Model, images: Images, device: torch.device, group: Group | None = None
) -> tuple[dict[str, float], Tensors]:
    """-> (scores, the task's records of the predictions [N, ...]). Undefined scores are left out.

    The processes of the group take turns at the batches.
    """
    metrics: Any = model.task.metrics(model.spec).to("cpu" if group else device)
    for part in metrics.modules():
        part.sync_on_compute = False  # each process receives all predictions
    records: list[Tensors] = []

    def predicted(rows: Iterable[Tensor]) -> Iterator[tuple[Any, Tensors]]:
        for batch in images.batches(rows, device):
            predictions = model.predict(batch["x"])
            record = {
                name: value.cpu() for name, value in model.task.record(predictions, batch).items()
            }
            yield model.task.compared(predictions, batch), record

    rows = torch.arange(len(images)).split(at_once(images))
    for compared, record in shared(predicted, rows, group):
        for metric in metrics.values():
            metric.update(*compared)
        records.append(record)
    scores: dict[str, float] = {}
    for name, metric in metrics.items():
        if model.probabilistic or name not in NEED_PROBABILITIES:
            scores |= named(name, metric.compute(), model.task.of(model.spec))
    return scores, {name: torch.cat([r[name] for r in records]) for name in records[0]}


def at_once(images: Images) -> int:
    """Batch size for prediction: BATCH, or fewer for large images, whose maps need much memory."""
    return max(1, min(BATCH, PIXELS // max(1, images.raw(0)[0].numel())))


def named(name: str, value: Any, spec: Spec) -> dict[str, float]:
    """A metric's finite numbers by name: a single one, one per class, or those of a dict."""
    if isinstance(value, dict):
        return {k: v for key, inner in value.items() for k, v in named(key, inner, spec).items()}
    numbers = value.flatten().tolist()
    names = [name] if value.dim() == 0 else [f"{name}/{c}" for c in spec.classes]
    return {k: v for k, v in zip(names, numbers, strict=False) if isfinite(v)}


def rebuild(node: dict[str, Any]) -> Any:
    """A part from its description; StorageError unless it is an encoder, method or strategy."""
    path = current(node["is"])
    module, _, name = path.rpartition(".")
    kind = getattr(importlib.import_module(module), name, None)
    if not (isinstance(kind, type) and issubclass(kind, PARTS)):
        raise StorageError(f"{node['is']} is not an encoder, task, pretrainer or strategy")
    fields = ABSENT.get(path, {}) | {k: inner(v) for k, v in node.items() if k != "is"}
    return kind(**with_members(kind, fields))


def inner(value: Any) -> Any:
    """A field's value, with its parts rebuilt."""
    if not isinstance(value, dict):
        return value
    return rebuild(value) if "is" in value else {k: inner(v) for k, v in value.items()}
