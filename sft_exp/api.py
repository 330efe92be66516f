"""The same parts from Python: `sft_exp.run(["pretrainer=vae", "labels=5"])`."""

import functools
import json
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sft_exp.config import build
from sft_exp.config.compose import compose
from sft_exp.config.schema import Experiment, OptimizerConfig
from sft_exp.core.arms import MAIN
from sft_exp.core.device import place
from sft_exp.core.encoder import Backbone
from sft_exp.core.metric import Metric
from sft_exp.core.pretrainer import Pretrainer
from sft_exp.core.rng import caller_generators, seed_global, seed_of
from sft_exp.core.types import Spec
from sft_exp.data import own_dataset
from sft_exp.data.images import Images
from sft_exp.data.own_dataset import OwnDataset, called
from sft_exp.errors import ConfigError, DataError
from sft_exp.execution import session
from sft_exp.failures import translated
from sft_exp.guidance import image_defaults
from sft_exp.jobs import prepare
from sft_exp.metrics.torchmetrics_class import TorchMetric
from sft_exp.models import own_module, transfer
from sft_exp.models.feature_extractor import FeatureExtractor
from sft_exp.models.own_module import OwnModule
from sft_exp.reports import advice, page
from sft_exp.reports.drawing import Picture
from sft_exp.schedules.piecewise_cosine import PiecewiseCosine
from sft_exp.stages import model
from sft_exp.stages.model import Model
from sft_exp.store import atomic_io, results
from sft_exp.store.listing import located
from sft_exp.store.results import Results
from sft_exp.training.loop import Plan, train
from sft_exp.training.optim import optimizers_for

if TYPE_CHECKING:
    from markupsafe import Markup
    from torch import Tensor, nn


@caller_generators()
def run(
    overrides: list[str] | None = None,
    folder: str | Path | None = None,
    *,
    encoder: "nn.Module | None" = None,
    dataset: Any = None,
    metrics: Sequence[Any] | None = None,
) -> "RunResult":
    """What `python -m sft_exp <overrides>` does; gives the content of results.json. `folder` is the run folder.

    Args:
        encoder: a module that maps images [B, C, H, W] in [0, 1] to features [B, D], to a map [B, D, H, W], or to several of
            them. Every arm starts at its weights as they are. Its class must be importable.
        dataset: a torch Dataset of (image, label), or a dict {"train": ..., "test": ..., "unlabelled": ...} of such.
        metrics: names as in `metrics=`, dicts with `_target_`, classes of torchmetrics, or `functools.partial` of these.

    Raises ConfigError, DataError, NonFiniteError, StorageError or Interrupted instead of exiting.
    """
    words = require_overrides(overrides or [])
    objects = {"encoder": encoder, "dataset": dataset, "metrics": metrics}
    brought = {key: value for key, value in objects.items() if value is not None}
    with translated(words):
        words = image_defaults.with_defaults(words, objects=brought)
        values, choices = compose(words)
    for key in brought:
        if stated := [w for w in words if w.lstrip("+").partition("=")[0] == key]:
            raise ConfigError(key, stated[0].partition("=")[2], "is given as an object, too")
    store = Path(values["store"])
    if encoder is not None:
        values["encoder"] = encoder_node(encoder, values["encoder"], store)
        choices = {**choices, "encoder": type(encoder).__name__}
    if dataset is not None:
        values["dataset"] = dataset_node(dataset, store)
        choices = {**choices, "dataset": values["dataset"]["name"]}
    if metrics is not None:
        values["metrics"] = [metric_node(metric) for metric in metrics]
    name = f"{choices['pretrainer']}-{choices['optim']}-{choices['dataset']}"
    stamp = f"{time.strftime('%Y-%m-%d_%H-%M-%S')}-{uuid.uuid4().hex[:4]}"
    where = Path(folder) if folder else Path("outputs/runs") / name / stamp
    command = ["python", "-m", "sft_exp", *words, *(f"{key}=<object>" for key in brought)]
    job = prepare.prepare(build.experiment(values, choices))
    return RunResult(where, session.work(job, where, values, command))


# keys that a command follows, and what has their place in Python
OF_COMMANDS = {
    "study": "is a sweep, which sft_exp.sweep runs",
    "plan": "is of commands: python -m sft_exp ... plan=true",
    "hydra.run.dir": "is of commands; the folder is the second argument: sft_exp.run([...], folder)",
}
OF_HYDRA = "has no effect: in Python Hydra composes the config, and does not start the run"


def require_overrides(words: Any) -> list[str]:
    """ConfigError unless the words are overrides that a run from Python follows."""
    if isinstance(words, str | dict) or not all(isinstance(word, str) for word in words):
        example = "must be a list of overrides: ['pretrainer=vae', 'labels=5']"
        raise ConfigError("overrides", repr(words), example)
    for word in words:
        key, _, value = word.lstrip("+").partition("=")
        of_hydra = key.startswith(("hydra.", "hydra/")) and key != "hydra.searchpath"
        why = OF_COMMANDS.get(key) or (OF_HYDRA if of_hydra else "")
        if why and value.casefold() not in ("false", "null", "none"):
            raise ConfigError(key, value, why)
    return list(words)


class RunResult(dict[str, Any]):
    """The content of results.json, with the run's folder; a notebook shows it as a table and a picture."""

    def __init__(self, folder: Path, result: Results):
        super().__init__(results.content(result))
        self.folder, self.result = folder, result

    def rich(self, verdict: bool = True) -> "Markup":
        """The table of arms, the verdict (unless False) and the picture of the scores, as HTML."""
        score, name = self.result.score, self.result.score_name
        own = advice.NEVER if self.result.choices.get("pretrainer") == "none" else MAIN
        arms = {own: self.result.test, **self.result.controls}
        splits = max(map(len, self.result.draws.values()), default=0)
        body = [
            [arm, *(f"{100 * value:.1f}" if value is not None else "-" for value in (
                scores.get(score),
                # one labelled split has no spread
                scores.get(f"{score}_sd") if splits > 1 else None,
            ))]
            for arm, scores in arms.items()
        ]  # fmt: skip
        pictures = []
        if (file := self.folder / f"{score}.png").is_file():  # of a run with a report
            pictures.append(Picture(score, f"Test {name} by arm", "", file.read_bytes()))
        return page.part(
            "reports/run.html",
            arms=(["arm", f"test {name}, %", "± sd"], body),
            verdict=self.result.verdict.text if verdict and self.result.verdict else "",
            picture=page.pictures(pictures),
            folder=self.folder,
        )

    def _repr_html_(self) -> str:
        return str(self.rich())


def encoder_node(module: Any, composed: Mapping[str, Any], store: Path) -> dict[str, Any]:
    """The config of a module as an encoder, with the `mean` and `std` of the composed one. ConfigError."""
    from torch import nn

    if isinstance(module, type):
        raise ConfigError("encoder", module.__name__, called("encoder", module))
    if not isinstance(module, nn.Module):
        valid = (
            "must be a torch.nn.Module; encoders of your own as hyperparameters come by plugins="
        )
        raise ConfigError("encoder", type(module).__name__, valid)
    normalisation = {key: composed.get(key) for key in ("mean", "std")}
    return node_of(OwnModule, own_module.describe(module, store)) | normalisation


def dataset_node(dataset: Any, store: Path) -> dict[str, Any]:
    """The config of a torch Dataset, or of a dict of them, as a data set. ConfigError, DataError."""
    return node_of(OwnDataset, own_dataset.described(dataset, store))


def metric_node(metric: Any) -> Any:
    """An entry of `metrics` for what was given: a name, a dict, one of our metrics, or a class of torchmetrics. ConfigError."""
    import torchmetrics

    if isinstance(metric, str | Mapping):
        return metric if isinstance(metric, str) else dict(metric)
    if isinstance(metric, Metric):
        return node_of(type(metric), {f.name: getattr(metric, f.name) for f in fields(metric)})
    bound = isinstance(metric, functools.partial)
    kind, options = (metric.func, metric.keywords) if bound else (metric, {})
    if isinstance(kind, type) and issubclass(kind, Metric):
        return node_of(kind, options)
    if isinstance(kind, type) and issubclass(kind, torchmetrics.Metric):
        own_module.import_path(kind)
        path = f"{kind.__module__}.{kind.__qualname__}"
        return node_of(TorchMetric, {"path": path, "options": options})
    valid = "must be a name, a class of torchmetrics, or functools.partial(Class, option=...): a metric is built for each model"
    raise ConfigError("metrics", type(metric).__name__, valid)


def node_of(kind: type, values: Mapping[str, Any]) -> dict[str, Any]:
    return {"_target_": f"{kind.__module__}.{kind.__qualname__}", **values}


@caller_generators()
def fit(
    pretrainer: Pretrainer,
    encoder: "nn.Module",
    images: "Tensor",
    *,
    steps: int,
    batch_size: int = 64,
    lr: float = 1e-3,
    seed: int = 0,
    device: str = "cpu",
) -> "nn.ModuleDict":
    """Pretrain a module on a tensor of images with Adam, and nothing else: no config, no store, no files.

    The same loop as in a run (`training.loop.train`); it moves `encoder` in place.

    Args:
        pretrainer: e.g. `SimCLR()` or `VAE(latent=8)` of sft_exp.pretrainers; one that learns by gradient.
        encoder: a Backbone, or a module that `run` would take.
        images: uint8 [N, C, H, W], or float [N, C, H, W] in [0, 1].

    Returns:
        all networks of the method by name, in eval mode. The encoder's features are `nets["encoder"](x)` for most methods.

    Raises:
        ConfigError: for a method that does not learn by gradient, or an encoder that does not fit the images.
        NonFiniteError: if the loss diverges.
    """
    import torch

    if pretrainer.trained_by != "by gradient":
        name = type(pretrainer).__name__
        raise ConfigError(
            "pretrainer", name, f"learns {pretrainer.trained_by}: there is no loop to run"
        )
    if len(images) < 1 or images.dim() != 4:
        raise DataError(f"images have the shape {[*images.shape]}, and must be [N, C, H, W]")
    shape = (images.shape[1], images.shape[2], images.shape[3])
    backbone = encoder if isinstance(encoder, Backbone) else own_module.OutputMaps(shape, encoder)
    seed_global(seed_of(seed, "init"), torch.device("cpu"))
    where = torch.device(device)
    nets = place(pretrainer.networks(backbone, Spec(shape, ())), where)
    pool = Images(images, torch.full((len(images),), -1), [f"{n}" for n in range(len(images))])
    moving = {name: 1.0 for name, p in nets.named_parameters() if p.requires_grad}
    size = min(batch_size, len(images))
    plan = Plan(steps, steps, size, PiecewiseCosine(), [(1.0, moving)], (seed, "pretrain"))
    optimizers = optimizers_for(
        pretrainer, nets, OptimizerConfig("torch.optim.Adam", {"lr": lr}), plan.phases
    )
    for _ in train(pretrainer, nets, optimizers, {"pool": pool.to(where)}, plan, where):
        pass
    return nets.eval()


@caller_generators()
def load_model(path: str | Path) -> Model:
    """The fine-tuned model (its first label draw) of a run folder or a `finetune-*` store folder, on the CPU."""
    return model.load(model.folder_of(Path(path)))


@caller_generators()
def load_encoder(path: str | Path) -> Backbone:
    """The encoder as it was fine-tuned, of a run or `finetune-*` folder, on the CPU: for `encoder(x)` or `encoder.maps(x)`."""
    return load_model(path).encoder.backbone


@caller_generators()
def load_pretrained(path: str | Path) -> FeatureExtractor:
    """What a run's fine-tuning started from, on the CPU: images in [0, 1] -> the features it fine-tuned [B, D], as no label has
    changed them. Of a run without pretraining the encoder as it was fine-tuned."""
    folder = model.folder_of(Path(path))
    encoder = model.load(folder).encoder
    start = json.loads((folder / "request.json").read_text())["start"]
    if start:
        file = folder.parent / start / "encoder.safetensors"
        if not file.exists():
            raise DataError(f"{path}: its pretraining should be in {file.parent}, and is not there")
        atomic_io.require_intact(file.parent)
        transfer.load_own(encoder.backbone, transfer.read_own(file), file)
    return encoder.eval()


def reopen(path: str | Path) -> Experiment:
    """The experiment of a finished run folder. Its paths are relative to where the run was started, and are
    found from any folder (`located`)."""
    result = results.read(Path(path))
    try:
        return build.experiment(located(result.config, Path(path)), result.choices)
    except (ConfigError, KeyError) as error:
        raise DataError(
            f"{path}: another version of sft_exp made this run ({error}); make it again with this one"
        ) from error
