"""What does not fit together is refused before anything is computed."""

import pkgutil
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from sft_exp import datasets
from sft_exp.config import sources
from sft_exp.config.args import did_you_mean
from sft_exp.config.schema import Experiment
from sft_exp.core.metric import Metric
from sft_exp.core.task import Task
from sft_exp.core.types import Spec
from sft_exp.data import duplicates
from sft_exp.data.corpus import Corpus, Dataset
from sft_exp.errors import ConfigError
from sft_exp.jobs.starts import initial
from sft_exp.models.feature_extractor import FeatureExtractor, layers
from sft_exp.stages import model, pretrain
from sft_exp.training.context import corpus
from sft_exp.training.optim import build_optimizer

_metric_names: dict[str, list[str]] = {}  # by task and what the data set holds


def check_task(e: Experiment, data: Corpus) -> None:
    """Data sets without what the task learns from, and what does not fit what it predicts. ConfigError."""
    name, told = (
        e.choices.get("task", type(e.task).__name__),
        [*data.train.targets, *(["y"] if data.labelled else [])],
    )
    if missing := [t for t in e.task.needs or ("y",) if t not in told]:
        raise ConfigError(
            "task",
            name,
            f"learns from {' and '.join(map(called, missing))}, and dataset={e.choices.get('dataset', data.name)} has "
            f"{' and '.join(map(called, told))}; data sets that have them: {', '.join(giving(*missing)) or 'none'}",
        )
    check_metrics(e, data)
    for key, chosen, wanted in (
        ("compress", e.compress and e.compress.variants(""), ("classes",)),
        ("export", e.export and e.export.file, ("classes", "pixels", "numbers")),
        ("strategy", e.strategy.tasks, e.strategy.tasks),
        ("strategy", e.strategy.closed_form, e.strategy.closed_form_tasks),
    ):
        if chosen and e.task.predicts not in wanted:
            why = f"is for tasks that predict {' or '.join(wanted)}, and {name} predicts {e.task.predicts}"
            raise ConfigError(key, e.choices.get(key, ""), why)


def check_metrics(e: Experiment, data: Corpus) -> None:
    """Metrics that are not installed, unknown, or not of what the task predicts: said now and not after training.
    ConfigError."""
    own = metric_names(e.task, data.spec)
    keys: list[str] = [*own]
    for metric in e.metrics:
        if not isinstance(metric, Metric):
            if metric not in own:
                known = [*own, *(f.stem for group, f, _ in sources.parts() if group == "metric")]
                raise ConfigError(
                    "metrics", metric, f"names no metric{did_you_mean(str(metric), known)}"
                )
            continue
        if e.task.predicts not in metric.predicts:
            valid = f"is of tasks that predict {' or '.join(metric.predicts)}"
            raise ConfigError(
                "metrics", metric.key, f"{valid}, and this one predicts {e.task.predicts}"
            )
        if metric.key in keys:
            raise ConfigError("metrics", metric.key, "is the name of two metrics")
        keys.append(metric.key)
        rehearse(metric, e.task.predicts, e.task.of(data.spec))


def metric_names(task: Task, spec: Spec) -> list[str]:
    """The names of a task's own metrics. They are built once a process to see that they can be: it takes as long as all other
    checks, and a sweep's jobs mostly have one task."""
    key = repr((task, spec))
    if key not in _metric_names:
        _metric_names[key] = [*task.metrics(spec)]
    return _metric_names[key]


def rehearse(metric: Metric, predicts: str, spec: Spec) -> None:
    """Build the metric and, of classification, show it one batch. ConfigError where it cannot take that."""
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


def called(target: str) -> str:
    return "classes" if target == "y" else target


def giving(*targets: str) -> list[str]:
    """Our data sets with these annotations."""
    found = []
    for module in pkgutil.iter_modules(datasets.__path__):
        kinds = vars(import_module(f"{datasets.__name__}.{module.name}")).values()
        if any(
            isinstance(k, type) and issubclass(k, Dataset) and {*targets} <= {*k.gives}
            for k in kinds
            if k is not Dataset
        ):
            found.append(module.name)
    return found


def teacher_of(data: Corpus, field: str, given: Any) -> Path:
    """The store folder of the model that a field of the strategy names. ConfigError, DataError."""
    key = f"strategy.{field}"
    if not given:
        raise ConfigError(key, given, "must be the folder of a run, whose model is imitated")
    folder = model.folder_of(Path(given))
    teacher = model.load(folder)
    if teacher.spec != data.spec:
        raise ConfigError(key, given, f"knows {teacher.spec}, and {data.name} has {data.spec}")
    if not teacher.probabilistic:
        raise ConfigError(key, given, "leaves votes and no logits to learn from")
    return folder


def pretrained_on(e: Experiment, data: Corpus) -> Corpus:
    """The data set whose images are pretrained on. ConfigError or DataError if it may not be."""
    if e.pretrain_dataset is None:
        if e.pretrainer.labelled:
            raise ConfigError(
                "pretrain_dataset",
                None,
                "must name another labelled data set, whose labels are learned from",
            )
        return data
    try:
        pool = corpus(e.pretrain_dataset)
    except ConfigError as error:
        raise error.under("pretrain_dataset") from error
    if e.pretrainer.labelled and pool.fingerprint == data.fingerprint:
        raise ConfigError(
            "pretrain_dataset",
            pool.name,
            "must be another data set: labels of this one are counted by labels=",
        )
    if e.pretrainer.labelled:
        needs = e.task.needs if getattr(e.pretrainer, "task", None) else ()
        if missing := [
            t
            for t in needs or ("y",)
            if t not in (*pool.train.targets, *(["y"] if pool.labelled else []))
        ]:
            missing = [called(t) for t in missing]
            raise ConfigError(
                "pretrain_dataset",
                pool.name,
                f"has no {' and '.join(missing)}, which are learnt from",
            )
        if needs and pool.image[1:] != data.image[1:]:
            size = f"images of {pool.image[1]}x{pool.image[2]}, and {data.name} of {data.image[1]}x{data.image[2]}"
            raise ConfigError(
                "pretrain_dataset",
                pool.name,
                f"has {size}: give both the same dataset.size, as masks move with it",
            )
    if pool is not data:
        duplicates.refuse_elsewhere(pool, data, e.protocol.transductive)
    return pool


def check_fit(e: Experiment, data: Corpus, encoder: FeatureExtractor, labelled: int) -> None:
    """Optimizers and networks that cannot be built, strategies and batches that do not fit them. ConfigError."""
    parameter = torch.nn.Parameter(torch.zeros(2, 2))
    for key, optim in (("optim", e.optim), ("pretrain_optim", e.pretrain_optim)):
        try:
            build_optimizer(
                replace(optim, options={**optim.options, "lr": 1e-3}), [{"params": [parameter]}]
            )
        except ConfigError as error:
            raise error.under(key) from error
    weights = initial(e)
    # Which parameter belongs to which map takes a backward pass for each map.
    still = e.strategy.closed_form or e.strategy.frozen
    try:
        phases = e.strategy.phases({} if still else layers(encoder, data.image))
    except ConfigError as error:
        raise error.under("strategy") from error
    if e.strategy.closed_form and "unlabelled" in e.task.pools:
        raise ConfigError(
            "task",
            e.choices.get("task", ""),
            "needs a strategy that trains: this one's head is solved from the labels",
        )
    if e.pretrainer.trained_by != "nothing":
        pretrain.build(
            {
                "method": e.pretrainer,
                "encoder": e.encoder,
                "seed": e.seed,
                "image": data.image,
                **weights,
            },
            data,
        )
    normed = any(isinstance(m, torch.nn.modules.batchnorm._BatchNorm) for m in encoder.modules())
    for key, budget, method, n in (
        ("pretrain", e.pretrain, e.pretrainer, len(data.train)),
        ("finetune", e.finetune, e.task, labelled),
    ):
        if budget.micro_batch_size and (normed or not method.per_row):
            why = (
                "the encoder's BatchNorm looks"
                if normed
                else f"the loss of {type(method).__name__} looks"
            )
            raise ConfigError(
                f"{key}.piece",
                budget.micro_batch_size,
                f"must be null: {why} across the batch, so its pieces are not the whole",
            )
        if (
            normed
            and budget.size(n) < 2
            and (method is e.pretrainer or any(rates for _, rates in phases))
        ):
            raise ConfigError(
                f"{key}.batch_size",
                budget.batch_size,
                "must be 2 or more: the encoder's BatchNorm looks across the batch",
            )
