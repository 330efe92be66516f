"""Checks that refuse incompatible choices before anything is computed."""

import json
import pkgutil
import re
from dataclasses import replace
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from sft_exp import datasets
from sft_exp.config import sources
from sft_exp.config.schema import Experiment
from sft_exp.core.encoder import Encoder
from sft_exp.core.metric import Metric
from sft_exp.core.pretrainer import Pretrainer
from sft_exp.core.task import Task
from sft_exp.core.types import Spec
from sft_exp.data import duplicates, library_transforms
from sft_exp.data.corpus import Corpus, Dataset
from sft_exp.errors import ConfigError, DataError
from sft_exp.jobs.starts import encoder_of_file, initial
from sft_exp.models.feature_extractor import FeatureExtractor, layers
from sft_exp.stages import model, pretrain
from sft_exp.store.requests import plain
from sft_exp.store.store import Request
from sft_exp.training.context import corpus
from sft_exp.training.optim import build_optimizer

_metric_names: dict[str, list[str]] = {}  # by task and specification of the data
_networks: set[tuple | None] = set()  # methods, encoders and images whose networks could be built


def check_task(e: Experiment, data: Corpus) -> None:
    """ConfigError if the data lack the task's targets, or other choices do not support the task."""
    name, targets = e.choices.get("task", type(e.task).__name__), targets_of(data)
    if missing := [t for t in e.task.needs or ("y",) if t not in targets]:
        has = f"dataset={e.choices.get('dataset', data.name)} has {' and '.join(map(target_name, targets))}"
        others = f"data sets that have them: {', '.join(datasets_with(*missing)) or 'none'}"
        needs = f"learns from {' and '.join(map(target_name, missing))}"
        raise ConfigError("task", name, f"{needs}, and {has}; {others}")
    for part in (e.task, e.pretrainer):
        nodes = getattr(part, "views", {}).get("transforms", [])
        moved = e.task.needs if part is e.task else ()
        library_transforms.check(nodes, data.image, moved)
    if e.finetune.exponent < 1 and not (e.task.predicts == "classes" and data.labelled):
        problem = f"balances classes of images, and {name} predicts {e.task.predicts}"
        raise ConfigError("finetune.sampler", e.finetune.sampler, f"{problem}; take instance")
    check_metrics(e, data)
    for key, chosen, supported in (
        ("compress", e.compress and e.compress.variants(""), ("classes",)),
        ("export", e.export and e.export.file, ("classes", "label sets", "pixels", "numbers")),
        ("strategy", e.strategy.tasks, e.strategy.tasks),
        ("strategy", e.strategy.closed_form, e.strategy.closed_form_tasks),
    ):
        if chosen and e.task.predicts not in supported:
            why = f"is for tasks that predict {' or '.join(supported)}, and {name} predicts {e.task.predicts}"
            raise ConfigError(key, e.choices.get(key, ""), why)


def targets_of(data: Corpus) -> list[str]:
    """The names of a corpus's targets, `y` for classes included."""
    return [*data.train.targets, *(["y"] if data.labelled else [])]


def check_metrics(e: Experiment, data: Corpus) -> None:
    """ConfigError for metrics that are unknown, not installed, or do not fit the task."""
    own = metric_names(e.task, data.spec) if e.metrics else []
    keys: list[str] = [*own]
    for metric in e.metrics:
        if not isinstance(metric, Metric):
            if metric not in own:
                known = [*own, *(f.stem for group, f, _ in sources.parts() if group == "metric")]
                close = get_close_matches(str(metric), known, n=1)
                hint = f"; did you mean {close[0]}?" if close else ";"
                problem = (
                    f"names no metric{hint} valid: {', '.join(dict.fromkeys(known))}; "
                    f"one of your own is a file metrics/{metric}.py in the folder of plugins="
                )
                raise ConfigError("metrics", metric, problem)
            continue
        if e.task.predicts not in metric.predicts:
            valid = f"is of tasks that predict {' or '.join(metric.predicts)}"
            problem = f"{valid}, and this one predicts {e.task.predicts}"
            raise ConfigError("metrics", metric.key, problem)
        if metric.key in keys:
            raise ConfigError("metrics", metric.key, "is the name of two metrics")
        keys.append(metric.key)
        try_metric(metric, e.task.predicts, e.task.of(data.spec))


def metric_names(task: Task, spec: Spec) -> list[str]:
    """The names of a task's own metrics.

    Building them takes as long as all other checks together, so it is done once per process.
    """
    key = repr((task, spec))
    if key not in _metric_names:
        _metric_names[key] = [*task.metrics(spec)]
    return _metric_names[key]


def try_metric(metric: Metric, predicts: str, spec: Spec) -> None:
    """Build a metric and, for classification, update it with one batch.

    Raises:
        ConfigError: the metric cannot be built or updated.
    """
    classes = len(spec.classes)
    try:
        built: Any = metric.build(spec)
        if predicts == "classes":
            built.update(torch.zeros(2 * classes, classes), torch.arange(classes).repeat(2))
            built.compute()
    except ConfigError as error:
        raise error.under("metrics") from error
    except (TypeError, ValueError, RuntimeError) as error:
        valid = f"cannot score logits [B, {classes}] against labels [B]: {error}"
        raise ConfigError("metrics", metric.key, valid) from error


def target_name(target: str) -> str:
    """The name of a target in messages."""
    return "classes" if target == "y" else target


def datasets_with(*targets: str) -> list[str]:
    """The options of the package's data sets that have these targets."""
    names = []
    for module in pkgutil.iter_modules(datasets.__path__):
        values = vars(import_module(f"{datasets.__name__}.{module.name}")).values()
        kinds = [v for v in values if isinstance(v, type) and issubclass(v, Dataset)]
        if any({*targets} <= {*kind.gives} for kind in kinds if kind is not Dataset):
            names.append(module.name)
    return names


def teacher_of(data: Corpus, field: str, run: Any) -> Path:
    """The store folder of the teacher: the model of the run that a field of the strategy names.

    Raises:
        ConfigError: no run is named, or its model does not fit the data.
        DataError: the folder is not that of a run.
    """
    key = f"strategy.{field}"
    if not run:
        raise ConfigError(key, run, "must be the folder of a run, whose model is imitated")
    folder = model.folder_of(Path(run))
    teacher = model.load(folder)
    if teacher.spec != data.spec:
        raise ConfigError(key, run, f"knows {teacher.spec}, and {data.name} has {data.spec}")
    if not teacher.probabilistic:
        raise ConfigError(key, run, "leaves votes and no logits to learn from")
    return folder


def pretrained_on(e: Experiment, data: Corpus) -> Corpus:
    """The data set for pretraining, which is `data` unless the config names another.

    Raises:
        ConfigError: it lacks the targets or the size that the pretraining needs.
        DataError: it cannot be read, or holds test images.
    """
    key = "pretrain_dataset"
    if e.pretrain_dataset is None:
        if e.pretrainer.labelled:
            problem = "must name another labelled data set, whose labels are learned from"
            raise ConfigError(key, None, problem)
        return data
    try:
        pool = corpus(e.pretrain_dataset)
    except ConfigError as error:
        raise error.under(key) from error
    except DataError as error:  # readers name their own keys
        raise DataError(re.sub(r"\bdataset\.", f"{key}.", str(error))) from error
    if e.pretrainer.labelled:
        if pool.fingerprint == data.fingerprint:
            problem = "must be another data set: labels of this one are counted by labels="
            raise ConfigError(key, pool.name, problem)
        needs = e.task.needs if getattr(e.pretrainer, "task", None) else ()
        if missing := [target_name(t) for t in needs or ("y",) if t not in targets_of(pool)]:
            problem = f"has no {' and '.join(missing)}, which are learnt from"
            raise ConfigError(key, pool.name, problem)
        if needs and pool.image[1:] != data.image[1:]:
            size, other = (f"{rows}x{columns}" for _, rows, columns in (pool.image, data.image))
            problem = f"has images of {size}, and {data.name} of {other}"
            remedy = "give both the same dataset.size, as masks move with it"
            raise ConfigError(key, pool.name, f"{problem}: {remedy}")
    if pool is not data:
        duplicates.refuse_elsewhere(pool, data, e.protocol.transductive)
    return pool


def check_optimizers(e: Experiment) -> None:
    """ConfigError for optimizers that cannot be built.

    Building the first one is slow, because it imports torch._dynamo.
    """
    parameter = torch.nn.Parameter(torch.zeros(2, 2))
    for key, optim in (("optim", e.optim), ("pretrain_optim", e.pretrain_optim)):
        trial = replace(optim, options={**optim.options, "lr": 1e-3})
        try:
            build_optimizer(trial, [{"params": [parameter]}])
        except ConfigError as error:
            raise error.under(key) from error


def check_pretraining(e: Experiment, data: Corpus, weights: Request) -> None:
    """ConfigError or DataError if the pretraining's networks cannot be built."""
    request = {"method": e.pretrainer, "encoder": e.encoder, "image": data.image}
    key = identity(e.pretrainer, e.encoder, data)
    if key and key in _networks and not weights["_init"]:
        return
    try:
        pretrain.build({**request, "seed": e.seed, **weights}, data)
    except DataError as error:
        if option := encoder_of_file(e):
            raise DataError(f"{error}. Its layers are those of {option}") from error
        raise
    _networks.add(key)


def identity(method: Task | Pretrainer, encoder: Encoder, data: Corpus, *more: Any) -> tuple | None:
    """What networks depend on, so that the jobs of a sweep build equal ones once; None where the text
    of the config does not describe them, as with an object of the user's."""
    parts = [method, encoder, data.image, data.classes, data.named, *more]
    try:
        return (type(method), type(encoder), json.dumps(plain(parts)))
    except TypeError:
        return None


def check_tested(e: Experiment, tested: int) -> None:
    """DataError for fewer test images than the task's score needs."""
    if tested < e.task.fewest_tested:
        least, name = e.task.fewest_tested, e.task.columns.get(e.task.score, e.task.score)
        raise DataError(f"{tested} test image: {name} is defined for {least} or more")


def check_fit(e: Experiment, data: Corpus, encoder: FeatureExtractor, labelled: int) -> None:
    """ConfigError for networks that cannot be built, and incompatible strategies or batches."""
    if not e.task.pooled and e.encoder.crop not in (None, 1.0):
        problem = "must be 1 or null: the masks and boxes of this task are of the whole image"
        raise ConfigError("encoder.crop", e.encoder.crop, problem)
    weights = initial(e)
    # `layers` takes a backward pass for each map
    fixed = e.strategy.closed_form or e.strategy.frozen
    try:
        phases = e.strategy.phases({} if fixed else layers(encoder, data.image))
    except ConfigError as error:
        raise error.under("strategy") from error
    if e.strategy.closed_form and "unlabelled" in e.task.pools:
        problem = "needs a strategy that trains: this one's head is solved from the labels"
        raise ConfigError("task", e.choices.get("task", ""), problem)
    if e.strategy.closed_form:
        solved = getattr(e.task.closed_form_task(), "head", None)
        if (head := getattr(e.task, "head", None)) != solved:
            name = e.choices.get("strategy", type(e.strategy).__name__)
            problem = f"must be {solved}: strategy={name} solves a linear head, and trains no other"
            raise ConfigError("task.head", head, problem)
    if e.pretrainer.trained_by != "nothing":
        check_pretraining(e, data, weights)
    heads = identity(e.task, e.encoder, data, encoder.names, e.features)
    if not heads or heads not in _networks:
        e.task.networks(encoder, data.spec)
        _networks.add(heads)
    normed = any(isinstance(m, torch.nn.modules.batchnorm._BatchNorm) for m in encoder.modules())
    for key, budget, method, n in (
        ("pretrain", e.pretrain, e.pretrainer, len(data.train)),
        ("finetune", e.finetune, e.task, labelled),
    ):
        if budget.micro_batch_size and (normed or not method.per_row):
            part = "the encoder's BatchNorm" if normed else f"the loss of {type(method).__name__}"
            problem = f"must be null: {part} depends on the whole batch, not on each example alone"
            raise ConfigError(f"{key}.micro_batch_size", budget.micro_batch_size, problem)
        trains = method is e.pretrainer or any(rates for _, rates in phases)
        if normed and budget.size(n) < 2 and trains:
            problem = "must be 2 or more: the encoder's BatchNorm normalises by the batch"
            raise ConfigError(f"{key}.batch_size", budget.batch_size, problem)
