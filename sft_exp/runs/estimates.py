"""How long requests will take and how large their results will be, before they are computed.

Finished requests with the same parts say so. Where the store holds none, the first labelled split is rehearsed: the same
stages with a few steps each, in a temporary store.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import linear_regression, mean, median
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from sft_exp.config.schema import TrainConfig
from sft_exp.core.tracker import Tracker
from sft_exp.errors import StorageError
from sft_exp.jobs import prepare
from sft_exp.jobs.stage_requests import ALIKE as BATCHED
from sft_exp.jobs.stage_requests import FUNCTIONS, Job, stage
from sft_exp.store import atomic_io
from sft_exp.store.listing import measure
from sft_exp.store.requests import plain
from sft_exp.store.store import Request, Store
from sft_exp.training.context import Context

# Stages that take as long as their steps.
SCALED = ("pretrain", "search", "finetune", "validate")
# What two requests of a stage share if they take as long.
ALIKE = ("dataset", "method", "encoder", "task", "strategy")
# Steps of the three rehearsals. The first one pays for imports and caches, and is not counted; the other two tell the time
# of a step from the time that a stage takes whatever its steps.
REHEARSED = (1, 5, 25)
# Stages that are not rehearsed: what they take does not depend on steps, and may be as long as everything else.
OMITTED = ("likelihood", "compress", "bill", "export")


class Example(NamedTuple):
    """A finished request of some stage."""

    request: Any  # as JSON
    seconds: float
    bytes: int


class Estimate(NamedTuple):
    seconds: float
    bytes: float


Examples = dict[str, list[Example]]  # stage -> its finished requests


def examples(store: Store, name: str) -> Iterator[Example]:
    """The finished requests of a stage."""
    for seal in store.root.glob(f"{name}-*/{atomic_io.SEAL}"):
        folder = seal.parent
        try:
            request = json.loads((folder / "request.json").read_text())
            seconds = atomic_io.read_seal(folder)["seconds"]
        except (OSError, ValueError, StorageError):
            continue  # damaged, or just being removed by another process: no example
        yield Example(request, seconds, measure(folder)[0])


def rehearse(job: Job) -> Examples:
    """Run the stages of the job's first labelled split with few steps in a temporary store, and say what they took."""
    experiment = job.experiment
    with TemporaryDirectory() as folder:
        store = Store(Path(folder))
        for steps in REHEARSED:
            short = prepare.prepare(
                replace(
                    experiment,
                    store=folder,
                    pretrain=shortened(experiment.pretrain, steps),
                    finetune=shortened(experiment.finetune, steps),
                )
            )
            ctx = Context.on(experiment.hardware, Tracker())
            for name in (n for n in FUNCTIONS if n not in OMITTED):
                store.run(stage(name, ctx), representative(name, short, store))
        return {
            name: [e for e in examples(store, name) if e.request.get("stop") != REHEARSED[0]]
            for name in FUNCTIONS
        }


def shortened(budget: TrainConfig, steps: int) -> Any:
    """The same training with so many steps."""
    return replace(budget, steps=steps, max_steps=None, schedule_length=None, resume_from=None)


def representative(name: str, job: Job, store: Store) -> list[Request]:
    """The requests of a stage that are worth a rehearsal: those of the first labelled split, and all that one call answers
    together, because they take less time each than one alone. Only those whose inputs were rehearsed, too."""
    batch_key = BATCHED[name][0] if name in BATCHED else lambda request: None
    return [
        request
        for request in job.requests[name]
        if (request.get("draw", 0) == 0 or batch_key(request))
        and all(store.has(folder.name) for folder in inputs(request))
    ]


def inputs(request: Request) -> list[Path]:
    """The folders of the store that a request reads."""
    optim = request.get("optim")
    rate = optim.options.get("lr") if optim else None
    named = [request.get("start"), request.get("model"), rate, *request.get("trials", [])]
    return [folder for folder in named if isinstance(folder, Path)]


def estimate(request: Request, finished: Sequence[Example], scaled: bool) -> Estimate | None:
    """What a request will take, by what finished ones with the same parts took; None where there are none."""
    wanted, steps = kinds(plain(request)), request.get("stop") if scaled else None
    alike = [example for example in finished if kinds(example.request) == wanted]
    if steps:
        alike = [example for example in alike if example.request.get("stop")]
    if not alike:
        return None
    size = mean(example.bytes for example in alike)
    if not steps:
        return Estimate(median(example.seconds for example in alike), size)
    lengths = [float(example.request["stop"]) for example in alike]
    if len(set(lengths)) > 1:
        slope, intercept = linear_regression(lengths, [example.seconds for example in alike])
        if slope > 0 and intercept >= 0:
            return Estimate(intercept + slope * steps, size)
    rates = [e.seconds / length for e, length in zip(alike, lengths, strict=True)]
    return Estimate(median(rates) * steps, size)


def kinds(request: Any) -> list[str | None]:
    return [(request.get(key) or {}).get("is") for key in ALIKE]


class Outlook(NamedTuple):
    """A stage of one or several jobs: how many different requests it has, and an estimate of each that is not finished."""

    requests: int
    missing: list[Estimate | None]


def outlook(jobs: Sequence[Job]) -> dict[str, Outlook]:
    """Stage -> what is left to do of it for all jobs together. A job with requests unlike all finished ones is rehearsed,
    unless several processes would share it, of which one alone tells nothing."""
    store = Store(Path(jobs[0].experiment.store))
    finished: Examples = {name: list(examples(store, name)) for name in FUNCTIONS}
    missing: dict[str, dict[str, Request]] = {name: {} for name in FUNCTIONS}
    for job in jobs:
        left = [
            (name, request)
            for name, requests in job.requests.items()
            for request in requests
            if not store.has(stage(name).folder_name(request))
        ]
        for name, request in left:
            missing[name][stage(name).folder_name(request)] = request
        hardware = job.experiment.hardware
        unlike = [
            name
            for name, request in left
            if name not in OMITTED and not estimate(request, finished[name], name in SCALED)
        ]
        if unlike and hardware.processes == 1 and hardware.engine != "fsdp":
            for name, more in rehearse(job).items():
                finished[name] += more
    return {
        name: Outlook(
            len({stage(name).folder_name(r) for job in jobs for r in job.requests[name]}),
            [estimate(r, finished[name], name in SCALED) for r in missing[name].values()],
        )
        for name in FUNCTIONS
        if any(job.requests[name] for job in jobs)
    }
