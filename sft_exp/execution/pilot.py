"""Estimates how long a job will take before anything runs, by timing some steps of each network.

A training of a few steps runs through the code of its stage, in a temporary folder and with the
networks, batches and images of the request. Its results are deleted. Its times are written to the
store, if there is one, by machine and by the fields of the request that they depend on.
"""

import json
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from sft_exp.core.tracker import Run, Tracker
from sft_exp.encoders.pixels import Pixels
from sft_exp.errors import Failure, Interrupted
from sft_exp.execution import pool
from sft_exp.jobs.arms import with_rate
from sft_exp.jobs.stage_requests import FUNCTIONS, Job, on_one_thread, one_thread
from sft_exp.progress import console
from sft_exp.stages import model as models
from sft_exp.stages.cost import small_steps
from sft_exp.stages.features import STORED
from sft_exp.stages.monitor import LOOKS
from sft_exp.store import atomic_io, listing
from sft_exp.store.requests import plain
from sft_exp.store.store import Request, Store
from sft_exp.training.context import Context

FILE = "paces.json"  # in the store: machine and shape of a request -> its pace
STEPS = 6  # of a pilot; the first, which is slower, is left out
ENOUGH = 4.0  # seconds of steps after which a pilot ends early
TRAINED = ("pretrain", "search", "finetune", "validate")
# fields of a request that its pace depends on
SHAPE = (
    "dataset", "image", "method", "encoder", "features", "task", "strategy", "batch_size",
    "micro_batch_size", "precision", "ema", "labels",
)  # fmt: skip
# Work from which a start is preceded by the timing, about half a minute of a core: steps of batches of
# `BATCH` images, as `small_steps` counts them.
WORTH, BATCH = 30_000, 32
SOLVED = 1.0  # seconds of a head in closed form, which a start does not time
START = 8.0  # seconds of a run besides its stages: imports, reading images, report
HASHED = 5e-5  # seconds an image takes in the stages that describe data sets
PREDICTED = 250  # images at most whose prediction is timed
# A step on one thread that takes less than this share of one on several: these wait for a core that
# another program uses.
CROWDED = 0.8


@dataclass(frozen=True)
class Pace:
    """The cost of a training and of predictions with its model."""

    step: float  # seconds of a step
    fixed: float  # seconds of a training besides its steps
    predict: float  # seconds that the finished model takes for an image
    megabytes: float  # size of its folder in the store
    one_thread: float | None = None  # seconds of a step on one thread, of a training on several

    @property
    def crowded(self) -> bool:
        """Whether several threads are slower than one."""
        return self.one_thread is not None and self.one_thread < CROWDED * self.step


class _Enough(Exception):
    """Raised to end a pilot that has been timed for long enough."""


class _Clock(Run):
    """A tracker's run that records when each step of a training ended."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def log(self, row: dict[str, Any]) -> None:
        if any(name.startswith("monitor/") for name in row):
            return  # not of a step
        self.ends.append(time.perf_counter())
        if len(self.ends) > 2 and self.ends[-1] - self.ends[0] > ENOUGH:
            raise _Enough


@dataclass(frozen=True)
class Estimate:
    """The cost of a job's missing results."""

    seconds: dict[str, float]  # by stage
    by_folder: dict[str, float]  # seconds by name of the folder
    together: float  # seconds from start to end, with as many processes as the run will have
    megabytes: float
    unknown: int  # number of requests whose time cannot be estimated

    @property
    def sentence(self) -> str:
        """A sentence for the user, at the start of a run and below a plan."""
        largest = sorted(self.seconds.items(), key=lambda item: -item[1])[:3]
        parts = ", ".join(f"{name} {duration(s)}" for name, s in largest if s >= 1)
        least = "at least " if self.unknown else ""
        return (
            f"Expected: {least}{duration(self.together)} ({parts or 'little to compute'})"
            f" and {self.megabytes:.0f} MB in the store, by a few timed steps of each network."
        )


class Pilot:
    """The paces of requests, measured when they are first asked for."""

    def __init__(self, ctx: Context, store: Path) -> None:
        self.ctx = replace(ctx, tracker=Tracker(), mirrored={}, runs={})
        self.file = store / FILE
        self.known: dict[str, Pace | None] = {}
        with suppress(TypeError):  # a damaged file: the paces are measured again
            self.known = {key: Pace(**values) for key, values in listing.read(self.file).items()}

    def pace(self, name: str, request: Request) -> Pace | None:
        """The pace of a request; None if an input that it needs is missing, such as a teacher."""
        shape = {key: request[key] for key in SHAPE if key in request}
        machine = [platform.node(), platform.machine(), str(self.ctx.device), pool.cores()]
        key = json.dumps([machine, name, plain(shape)], sort_keys=True)
        if key not in self.known:
            self.known[key] = self.measured(name, request)
            if self.file.parent.is_dir():
                measured = {k: asdict(p) for k, p in self.known.items() if p and not p.crowded}
                atomic_io.write_json(self.file, measured)
        return self.known[key]

    def measured(self, name: str, request: Request) -> Pace | None:
        """Measure the pace of a request by trainings of a few steps; None if one fails."""
        short = shortened(request)
        with TemporaryDirectory() as place, quiet():
            try:
                if not request["stop"]:  # a head in closed form
                    return self.timed(Path(place) / "timed", name, short)
                # with the first calls of all functions, which are slower, and the monitors
                few = {"steps": min(LOOKS, short["steps"]), "stop": min(LOOKS, short["stop"])}
                looking = {**short, **few, "_monitor": request.get("_monitor")}
                began = time.perf_counter()
                self.timed(Path(place) / "first", name, looking)
                first = time.perf_counter() - began
                pace = self.timed(Path(place) / "timed", name, short)
                if several_threads(name, request, self.ctx):
                    with one_thread(True):
                        alone = self.timed(Path(place) / "alone", name, short).step
                    pace = replace(pace, one_thread=alone)
                looked = first - pace.fixed - few["stop"] * pace.step
                watched = request.get("_monitor") is not None
                return replace(pace, fixed=pace.fixed + max(0.0, looked)) if watched else pace
            except Interrupted:
                raise
            except (Failure, OSError, RuntimeError):
                return None

    def timed(self, folder: Path, name: str, request: Request) -> Pace:
        """Run a request's stage in a folder and measure its pace."""
        atomic_io.folder(folder)
        clock = _Clock()
        about: Any = None  # a base class's run is opened with nothing
        ctx = replace(self.ctx, mirrored={folder.name: about}, runs={folder.name: clock})
        function = FUNCTIONS["finetune" if name in ("search", "validate") else name]
        began = time.perf_counter()
        try:
            with one_thread(on_one_thread(name, request, ctx)):
                function(folder, request, ctx)
        except _Enough:
            pass
        seconds = time.perf_counter() - began
        steps = len(clock.ends)
        step = (clock.ends[-1] - clock.ends[0]) / (steps - 1) if steps > 1 else 0.0
        predict = 0.0
        if (folder / "model.json").exists() and STORED not in request:
            predict = self.predicting(folder, request)
        size = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()) / 1e6
        return Pace(step, max(0.0, seconds - steps * step), predict, size)

    def predicting(self, folder: Path, request: Request) -> float:
        """Seconds that the model in a folder takes to predict an image; training images are used."""
        images = self.ctx.corpus(request["dataset"]).train
        model = models.load(folder, self.ctx.device)
        rows = torch.arange(min(len(images), models.at_once(images), PREDICTED))
        (batch,) = images.batches([rows], self.ctx.device)
        began = time.perf_counter()
        model.predict(batch["x"])
        return (time.perf_counter() - began) / len(rows)


def several_threads(name: str, request: Request, ctx: Context) -> bool:
    """Whether the program chose several CPU threads for a request."""
    own = ctx.device.type != "cpu" or ctx.hardware.threads != "auto"
    return not own and torch.get_num_threads() > 1 and not on_one_thread(name, request, ctx)


def shortened(request: Request) -> Request:
    """The request with few steps, on images in place of stored features.

    It starts from random weights if the pretrained ones do not exist yet.
    """
    few: Request = {**request, "_after": None, "_monitor": None, "patience": None}
    few |= {"steps": min(STEPS, request["steps"]), "stop": min(STEPS, request["stop"])}
    few.pop(STORED, None)
    start = request.get("start")
    if isinstance(start, Path) and not (start / atomic_io.SEAL).exists():
        few["start"] = None
        if request["encoder"].starts_fitted:  # a projection: as many features as there are pixels
            few["encoder"] = Pixels()
    optim = request.get("optim")
    if optim is not None and not isinstance(optim.options["lr"], float):
        few["optim"] = with_rate(optim, 1e-4)
    if "val" in few:
        few["val"] = "none"
    return few


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress progress bars and messages inside the block."""
    before, console.quiet = console.quiet, True
    try:
        yield
    finally:
        console.quiet = before


def estimate(
    job: Job, ctx: Context, pilot: Pilot | None = None, solved: float | None = None
) -> Estimate:
    """Estimate the cost of a job's missing results.

    Args:
        job: the job.
        ctx: the context in which it will run.
        pilot: measures paces; jobs that share a pilot time each network once.
        solved: seconds that a head in closed form is assumed to take; None = it is timed.
    """
    store = Store(Path(job.experiment.store))
    pilot = pilot or Pilot(ctx, store.root)
    by_folder: dict[str, float] = {}
    seconds: dict[str, float] = {}
    megabytes, unknown, in_workers = 0.0, 0, 0.0
    predict: dict[Path, float] = {}  # of the model in a folder, for an image
    pooled = pool.pooled_requests(job, ctx)
    for name in job.requests:
        missing = {folder: r for folder, r in job.named(name).items() if not store.has(folder)}
        for folder, request in missing.items():
            if name in TRAINED:
                in_closed_form = name != "pretrain" and not request["stop"]
                if in_closed_form and solved is not None:
                    pace: Pace | None = Pace(0.0, solved, 0.0, 0.0)
                else:
                    pace = pilot.pace(name, request)
                if pace is None:
                    unknown += 1
                    continue
                duration_s = pace.fixed + pace.step * request["stop"]
                predict[store.root / folder] = pace.predict
                megabytes += pace.megabytes
            elif name == "evaluate":
                duration_s = len(job.corpus.tested) * predict.get(request["model"], 0.0)
            elif name in ("data", "test"):
                duration_s = HASHED * len(job.corpus.train if name == "data" else job.corpus.tested)
            elif name in ("features", "test_features"):
                continue  # a pass over the images, which is part of what the pilots of its users take
            else:
                unknown += 1
                continue
            by_folder[folder], seconds[name] = duration_s, seconds.get(name, 0.0) + duration_s
            in_workers += duration_s if folder in pooled else 0.0
    workers = pool.count_of(job, ctx)
    together = START + sum(seconds.values()) - in_workers * (1 - 1 / workers)
    return Estimate(seconds, by_folder, together, megabytes, unknown)


def announce(job: Job, ctx: Context) -> None:
    """Print the estimate of a job that is long enough for the timing to be a small part of it."""
    store = Store(Path(job.experiment.store))
    missing = (
        request
        for name in TRAINED
        for folder, request in job.named(name).items()
        if not store.has(folder)
    )
    work = (
        small_steps(r, ctx.corpus(r["dataset"]).spec) * r["batch_size"] / BATCH for r in missing
    )
    if sum(work) > WORTH:
        pilot = Pilot(ctx, store.root)
        console.message(estimate(job, ctx, pilot, SOLVED).sentence)
        for pace in pilot.known.values():
            if pace and pace.crowded:
                console.message(advice(pace))


def advice(pace: Pace) -> str:
    """What makes a training faster whose threads wait for each other."""
    return (
        "Several threads are slower than one here, as they are while another program uses a core: a "
        f"step takes {pace.step:.2g} s on {torch.get_num_threads()} threads and "
        f"{pace.one_thread:.2g} s on one. End such a program, or give hardware.threads=1."
    )


def duration(seconds: float) -> str:
    """A duration as text: `45 s`, `3.2 min`."""
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.1f} min"
