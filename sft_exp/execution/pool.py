"""Workers: processes that compute trainings beside the process that walks through a run's stages.

Each request is a folder of the store with a lock, so no process needs to hand out work. The main
process computes what is missing from the front, as it does without workers. After a pretraining
that uses all cores, a worker computes from the back those requests that no other process computes
and whose inputs exist, pretrainings first. Where they meet, the main process waits for the lock.
Workers write only into the store, so a run that loses a worker takes longer and has the same
results.
"""

import atexit
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from sft_exp.config import build
from sft_exp.core.tracker import Tracker
from sft_exp.errors import Failure, Interrupted
from sft_exp.jobs import prepare
from sft_exp.jobs.stage_requests import POOLED, Job, on_one_thread, stage
from sft_exp.progress import console
from sft_exp.stages.cost import small_steps
from sft_exp.store.store import Request, Store
from sft_exp.training.context import Context, Stop

# Steps of a small network's training that must be missing for each further worker. They take about
# 25 s of a core, and a worker's start some seconds.
STEPS = 15_000
POLL = 0.2  # seconds between two looks for work that has become possible
GRACE = 3.0  # seconds that a worker has to write a checkpoint


# The workers of this process. They live as long as it does and serve one job after another.
_running: list[subprocess.Popen[str]] = []


@contextmanager
def workers(
    job: Job, ctx: Context, config: dict[str, Any], others: Sequence[Job] = ()
) -> Iterator[None]:
    """Start worker processes, which compute what they can of a job while the block runs.

    There are none where one process is enough.

    Args:
        job: the job.
        ctx: the context of the main process.
        config: the job's plain config.
        others: the further jobs of a sweep, for which the workers stay alive.
    """
    message = json.dumps({"config": config, "choices": job.experiment.choices})
    count = count_of(job, ctx, others)
    try:
        for n in range(count - 1):
            send(n, message)
        yield
    except BaseException:
        stop()  # they may be computing results that are not needed now
        raise


def send(n: int, message: str) -> None:
    """Give the n-th worker its next job, and start it if it is not running."""
    if n < len(_running) and _running[n].poll() is None:
        process = _running[n]
    else:
        process = start()
        _running[n : n + 1] = [process]
    assert process.stdin is not None
    with suppress(BrokenPipeError):
        process.stdin.write(message + "\n")
        process.stdin.flush()


def start() -> subprocess.Popen[str]:
    """Start a worker, which ends with this process."""
    arguments = [str(os.getpid()), "sft_exp.execution.pool"]  # of `execution.child`
    return subprocess.Popen(  # noqa: S603 - our own interpreter and module
        [sys.executable, "-m", "sft_exp.execution.child", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )


@atexit.register
def stop() -> None:
    """End the workers. Each has `GRACE` seconds to write a checkpoint."""
    for process in _running:
        assert process.stdin is not None
        with suppress(BrokenPipeError):
            process.stdin.close()  # ends one that waits for a job
        process.terminate()
    for process in _running:
        try:
            process.wait(GRACE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    _running.clear()


def count_of(job: Job, ctx: Context, others: Sequence[Job] = ()) -> int:
    """The number of processes that compute the job's fine-tunings, the main one included."""
    hardware = job.experiment.hardware
    if hardware.workers != "auto":
        return hardware.workers
    if ctx.device.type != "cpu" or ctx.group is not None:
        return 1
    spare = cores() // (1 if hardware.threads == "auto" else hardware.threads) - 1
    if spare < 1:
        return 1
    store = Store(Path(job.experiment.store))
    requests = {
        name: r
        for other_job in (job, *others)
        for name, (_, r) in pooled_requests(other_job, ctx).items()
    }
    work = sum(
        small_steps(r, ctx.corpus(r["dataset"]).spec)
        for name, r in requests.items()
        if not store.has(name)
    )
    return 1 + min(spare, int(work / STEPS))


def cores() -> int:
    """Cores that this process may use: its affinity, and its share where jobs run side by side."""
    affinity = getattr(os, "sched_getaffinity", None)  # absent on macOS and Windows
    own = len(affinity(0)) if affinity else os.cpu_count() or 1
    return min(own, int(os.environ.get("OMP_NUM_THREADS", own)))


def pooled_requests(job: Job, ctx: Context) -> dict[str, tuple[str, Request]]:
    """Folder name -> (stage, request) of all requests that workers may compute, in order of stages.

    These are the requests whose number of threads does not follow from how many cores there are.
    Heads that one call trains together are left to the main process, which knows the groups.
    """
    result = {}
    for name in POOLED:
        what = stage(name, ctx)
        for folder, request in job.named(name).items():
            fixed = job.experiment.hardware.threads != "auto" or on_one_thread(name, request, ctx)
            if fixed and not (what.batch_key and what.batch_key(request)):
                result[folder] = (name, request)
    return result


def main() -> None:
    """Compute requests of jobs, which come as JSON on stdin, one a line; `execution.child` calls it."""
    console.quiet = True
    with Stop.handle_signals(), suppress(Interrupted):
        for line in sys.stdin:
            message = json.loads(line)
            try:
                job = prepare.prepare(build.experiment(message["config"], message["choices"]))
                ctx = Context.on(job.experiment.hardware, Tracker())
            except Failure as error:
                print(f"a worker cannot help with this run: {error}", file=sys.stderr)
                continue
            work(job, ctx)


def work(job: Job, ctx: Context) -> None:
    """Compute, from the back, the missing requests whose inputs exist and that no process computes.

    A worker begins when pretrainings that use all cores are done: threads that shared a core with a
    worker made them up to four times slower.
    """
    store = Store(Path(job.experiment.store), lambda: Stop.requested)
    backwards = reversed(pooled_requests(job, ctx).items())
    # most other requests wait for a pretraining
    remaining = dict(sorted(backwards, key=lambda item: item[1][0] != "pretrain"))
    pretrainings = job.named("pretrain").items()
    on_all_cores = [name for name, r in pretrainings if r["optim"] and name not in remaining]
    while not Stop.requested and not all(map(store.has, on_all_cores)):
        time.sleep(POLL)
    while remaining and not Stop.requested:
        idle = True
        for folder, (name, request) in list(remaining.items()):
            if store.has(folder):
                del remaining[folder]
            elif not Stop.requested and all(path.exists() for path in inputs(request)):
                try:
                    idle &= not store.run_if_free(stage(name, ctx), request)
                except Interrupted:
                    raise
                except Failure:
                    del remaining[folder]  # the main process meets the same failure, and reports it
        if idle:
            time.sleep(POLL)


def inputs(value: Any, key: str = "") -> Iterator[Path]:
    """The folders and files that a request reads; those under keys that begin with `_` are optional."""
    if key.startswith("_"):
        return
    if isinstance(value, Path):
        yield value
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield from inputs(inner, str(name))
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from inputs(inner)
    elif is_dataclass(value) and not isinstance(value, type):
        for field in fields(value):
            yield from inputs(getattr(value, field.name), field.name)
