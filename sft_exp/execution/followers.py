"""A job that several processes work on: the first one is in charge and keeps everything, the others share its trainings.

torchrun or Slurm start the processes, or `launch` does by torch's elastic launcher. The first process goes through the job as
if it were alone. Before a stage that is shared it says which; the others run the same stage on the same request, with a disk
that they cannot change, and meet it in every batch.
"""

import json
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from sft_exp.distributed.group import Group, missing, present
from sft_exp.errors import ConfigError, Failure, Interrupted, LostRank
from sft_exp.jobs import stage_requests
from sft_exp.jobs.stage_requests import Job
from sft_exp.progress import console
from sft_exp.runs import pipeline
from sft_exp.store import atomic_io, results
from sft_exp.training.context import Context, Stop

NEWS = "launch.json"  # in the run folder: what its processes are to do


def init_group(job: Job, ctx: Context) -> None:
    """Give the context of the first process the others. ConfigError if they have another job, code or data."""
    if not present():
        return
    kind = job.experiment.hardware.engine
    if kind == "local":
        raise ConfigError(
            "hardware", kind, "must be ddp or fsdp where several processes are started together"
        )
    ctx.group = Group(ctx.device, job.experiment.hardware.timeout)
    mine = pipeline.names(job)
    for rank, theirs in enumerate(ctx.group.same(mine)):
        if theirs != mine:
            raise ConfigError(
                "hardware",
                kind,
                f"process {rank} has another config, other code or other data than the first",
            )


def shutdown(ctx: Context, code: int) -> None:
    """Let the others go. After a failure that they do not share they may wait for us somewhere else: leaving ends them."""
    if ctx.group:
        with suppress(RuntimeError):  # whoever passes messages on may be gone as well
            ctx.group.broadcast({"end": code})
        if code in (0, Interrupted.code):
            ctx.group.close()
        ctx.group = None


def run_follower(job: Job) -> int:
    """What all processes but the first do; the exit code."""
    atomic_io.disable_writes()
    console.quiet = True
    ctx = Context.on(job.experiment.hardware, job.experiment.tracker)
    with Stop.handle_signals():
        return followed(job, ctx)


def followed(job: Job, ctx: Context) -> int:
    """Meet the first process in every stage that it shares; the exit code that it names at the end."""
    init_group(job, ctx)
    assert ctx.group is not None
    requests = {
        stage_requests.stage(name).folder_name(r): r
        for name, rs in job.requests.items()
        for r in rs
    }
    while "end" not in (news := ctx.group.receive()):
        try:
            with missing(ctx.group):
                stage_requests.stage(news["stage"], ctx).run(
                    [Path(news["folder"])], [requests[news["request"]]]
                )
        except LostRank:
            raise
        except Failure:
            pass  # the first process has met the same, and says what follows from it
    if news["end"] in (0, Interrupted.code):
        ctx.group.close()
    return int(news["end"])


def exit_process(code: int) -> NoReturn:
    """End a process of a group. Threads of its libraries have been seen to abort a process on its way out."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def launch(
    job: Job,
    folder: Path,
    config: dict[str, Any],
    command: list[str],
    varying: Sequence[str],
    sweep: bool,
    token: str,
) -> results.Results:
    """Work on the job with hardware.processes processes of this machine; its results, or the failure of the first of them."""
    from sft_exp.distributed.launch import start

    atomic_io.folder(folder)
    what = {
        "config": config,
        "choices": job.experiment.choices,
        "folder": str(folder),
        "token": token,
    }
    news = {**what, "command": command, "varying": list(varying), "sweep": sweep}
    atomic_io.write_json(folder / NEWS, news)
    atomic_io.remove(folder / "status.json")
    arguments = [str(os.getpid()), "sft_exp.execution.rank_main", str(folder / NEWS)]
    stopped: Interrupted | None = None
    killed, cause = False, ""
    try:
        killed, cause = start(
            job.experiment.hardware.processes, "sft_exp.execution.child", *arguments
        )
    except Interrupted as stop:
        stopped = stop
    status = read(folder / "status.json")
    if stopped and status.get("state") not in ("done", "interrupted"):
        # The processes were stopped before one of them could say so.
        shutdown = {"state": "interrupted", "exit_code": stopped.code, "resumable": True}
        atomic_io.write_json(folder / "status.json", {**status, **shutdown, "error": str(stopped)})
        raise stopped
    if status.get("state") == "done":
        return results.read(folder)
    if (
        killed
        or status.get("state") not in ("failed", "interrupted")
        or status["exit_code"] == LostRank.code
    ):
        cause = cause or "its processes ended and left no word of how the run went"
        error = f"{cause}; the same command continues from the last checkpoint"
        atomic_io.write_json(
            folder / "status.json",
            {
                **status,
                "state": "failed",
                "exit_code": LostRank.code,
                "resumable": True,
                "error": error,
            },
        )
        raise LostRank(error)
    raise Reported(status["exit_code"], status["error"].partition(": ")[2])


class Reported(Failure):
    """What a process has said of its failure."""

    def __init__(self, code: int, text: str):
        super().__init__(text)
        self.code = code


def read(file: Path) -> dict[str, Any]:
    try:
        return json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
