"""A job: an experiment and its requests to the store, by stage."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from sft_exp.config.schema import Experiment, TrainConfig
from sft_exp.data.corpus import Corpus
from sft_exp.data.splits import Labels
from sft_exp.stages import (  # fmt: skip
    benchmark,
    choose,
    compress,
    describe,
    describe_test,
    evaluate,
    export,
    familiarity,
    features,
    finetune,
    likelihood,
    logits,
    lr_find,
    metrics,
    pretrain,
    validate,
)
from sft_exp.stages.cost import is_small, is_tiny
from sft_exp.store.code_hash import digest
from sft_exp.store.requests import plain
from sft_exp.store.store import Request, Result, Stage
from sft_exp.training.context import Context

FUNCTIONS: dict[str, Callable[[Path, Request, Context], None]] = {
    "data": describe.run,
    "pretrain": pretrain.run,
    "features": features.run,
    "lr_find": lr_find.run,
    "search": validate.run,
    "choose": choose.run,
    "finetune": finetune.run,
    "validate": validate.run,
    "test": describe_test.run,
    "test_features": features.run,
    "likelihood": likelihood.run,
    "evaluate": evaluate.run,
    "metrics": metrics.run,
    "compress": compress.run,
    "bill": benchmark.run,
    "export": export.run,
    # not among a job's requests (execution/session.py)
    "logits": logits.run,
    "familiarity": familiarity.run,
}
# stages that can compute several requests in one call -> (key of such requests, the call)
ALIKE: dict[str, tuple[Callable[[Request], str | None], Callable[..., None]]] = {
    "finetune": (finetune.batch_key, finetune.run_batched),
    "metrics": (metrics.batch_key, metrics.run_batched),
}
# stages that all processes of a group compute together
SHARED = (
    "pretrain", "features", "search", "finetune", "validate", "test_features", "evaluate",
    "compress",
)  # fmt: skip

# stages whose requests a run's workers compute side by side
POOLED = ("pretrain", "lr_find", "search", "finetune", "validate")


@dataclass
class Job:
    """An experiment with all its requests, in order by stage."""

    experiment: Experiment
    corpus: Corpus
    labels: Labels
    requests: dict[str, list[Request]] = field(
        default_factory=lambda: {name: [] for name in FUNCTIONS}
    )
    # arm -> positions of its draws in requests["finetune"]
    arms: dict[str, list[int]] = field(default_factory=dict)
    # further pretraining seed -> its pretrained and scratch arms, as `arms` has the first's
    other_seeds: dict[int, dict[str, list[int]]] = field(default_factory=dict)
    results: dict[str, list[Result]] = field(default_factory=dict)
    # (stage, identity of an added request) -> the name of its folder, once it was asked for
    _folders: dict[tuple[str, int], str] = field(default_factory=dict)

    def folder_name(self, name: str, request: Request) -> str:
        """The folder of a request of this stage; that of an added one is computed once."""
        key = (name, id(request))
        if key not in self._folders:
            return stage(name).folder_name(request)
        if not self._folders[key]:
            self._folders[key] = stage(name).folder_name(request)
        return self._folders[key]

    def named(self, name: str) -> dict[str, Request]:
        """Folder name -> request, of a stage."""
        return {self.folder_name(name, request): request for request in self.requests[name]}


def stage(name: str, ctx: Context | None = None) -> Stage:
    """The stage of that name; without a context it can name folders, but not run."""

    def run(folders: list[Path], requests: list[Request]) -> None:
        assert ctx is not None
        function = function_of(name, requests[0])
        with one_thread(on_one_thread(name, requests[0], ctx)):
            call(function, folders, requests, ctx)

    def call(
        function: Callable[[Path, Request, Context], None],
        folders: list[Path],
        requests: list[Request],
        ctx: Context,
    ) -> None:
        if len(requests) > 1:
            ALIKE[name][1](folders, requests, replace(ctx, group=None))
        elif name in SHARED and not getattr(requests[0].get("strategy"), "closed_form", False):
            folder_name = this_stage.folder_name(requests[0])
            announced = ctx.announce_stage(name, folders[0], folder_name)
            function(folders[0], requests[0], announced)
        else:
            function(folders[0], requests[0], replace(ctx, group=None))

    def with_code(request: Request) -> Request:
        return {**plain(request), "code": digest(request, *functions_of(name, request))}

    this_stage = Stage(name, run, with_code, ALIKE[name][0] if name in ALIKE else None)
    return this_stage


def on_one_thread(name: str, request: Request, ctx: Context) -> bool:
    """Whether the stage computes the request on one CPU thread, by a rule of the request alone.

    Another number of threads adds in another order. One that followed from how many workers there
    are would make their number a part of the result.
    """
    if name not in POOLED or ctx.hardware.threads != "auto" or ctx.device.type != "cpu":
        return False
    if ctx.group is not None:
        return False
    spec = ctx.corpus(request["dataset"]).spec
    if name == "pretrain":  # the others wait for it, so it has all cores if they shorten its steps
        return bool(request["optim"]) and is_tiny(request, spec)
    return is_small(request, spec)


@contextmanager
def one_thread(enabled: bool) -> Iterator[None]:
    """Compute on one CPU thread inside, if wanted."""
    threads = torch.get_num_threads()
    if enabled:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def function_of(name: str, request: Request) -> Callable[[Path, Request, Context], None]:
    """The function that computes a single request of a stage."""
    if name == "finetune" and request["val"] != "none":
        return finetune.run_validated
    return FUNCTIONS[name]


def functions_of(name: str, request: Request) -> list[Callable]:
    """All functions that may compute the request, alone or together with others."""
    batched = [ALIKE[name][1]] if name in ALIKE and ALIKE[name][0](request) else []
    return [function_of(name, request), *batched]


def model_parts(request: Request) -> list[Any]:
    """The parts of a fine-tuning's model.

    Requests that load the model name them, since the code hash of the fine-tuning covers the code
    that trains them, but not all code that predicts.
    """
    return [request["encoder"], request["task"], request["strategy"]]


def add(job: Job, name: str, request: Request) -> int:
    job.requests[name].append(request)
    job._folders[name, id(request)] = ""
    return len(job.requests[name]) - 1


def place(job: Job, name: str, request: Request) -> Path:
    """The store folder of a stage's result, which dependent requests name as their input."""
    return Path(job.experiment.store) / job.folder_name(name, request)


def steps(budget: TrainConfig, n: int) -> Request:
    """Where schedules end and where the training stops, for a data set of n images."""
    return {"steps": budget.end(n), "stop": budget.total(n), "_after": None}


def going_on(job: Job, name: str, request: Request, before: int | None) -> Request:
    """The request, with the folder of the same training that stopped after `before` steps.

    If that has a checkpoint, this training resumes from it; the result is the same to the bit.
    """
    if before is None:
        return request
    return {**request, "_after": place(job, name, {**request, "stop": before})}


def closed(request: Request) -> Request:
    """A request without fields that only gradient training uses, so that equal work is shared."""
    return {
        **request,
        "seed": 0,
        "optim": None,
        "schedule": None,
        "steps": 0,
        "stop": 0,
        "_after": None,
        "_monitor": None,
        "batch_size": 0,
        "micro_batch_size": None,
        "clip": None,
        "precision": "fp32",
        **{key: neutral for key, neutral in (("ema", 0.0), ("patience", None)) if key in request},
    }
