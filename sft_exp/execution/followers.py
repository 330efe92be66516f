"""A job in several processes: rank 0 runs the job and writes all files, the followers take part in
its trainings.

torchrun or Slurm start the processes, or `launch` does with torch's elastic launcher. Rank 0 runs
the job as if it were alone, and broadcasts the name of each distributed stage; the followers run
the same stage on the same request without writing files, and synchronise with rank 0 in every
batch.
"""

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from sft_exp.distributed.group import Group, missing, present
from sft_exp.errors import ConfigError, Failure, Interrupted, LostRank
from sft_exp.execution import ownership
from sft_exp.jobs import stage_requests
from sft_exp.jobs.stage_requests import Job
from sft_exp.progress import console
from sft_exp.runs import pipeline
from sft_exp.store import atomic_io, results
from sft_exp.training.context import Context, Stop

NEWS = "launch.json"  # in the run folder: the job that its processes run


def init_group(job: Job, ctx: Context) -> None:
    """Join the process group, if there is one. ConfigError if a rank has another job, code or data
    than rank 0."""
    if not present():
        return
    kind = job.experiment.hardware.engine
    if kind == "local":
        raise ConfigError(
            "hardware", kind, "must be ddp or fsdp where several processes are started together"
        )
    ctx.group = Group(ctx.device, job.experiment.hardware.timeout)
    own_names = pipeline.folder_names(job)
    for rank, names in enumerate(ctx.group.same(own_names)):
        if names != own_names:
            raise ConfigError(
                "hardware",
                kind,
                f"process {rank} has another config, other code or other data than the first",
            )


def shutdown(ctx: Context, code: int) -> None:
    """Broadcast the exit code to the followers. After a failure of this rank alone they may wait in
    another collective, which fails once this process exits."""
    if ctx.group:
        with suppress(RuntimeError):  # the rendezvous store may be gone as well
            ctx.group.broadcast({"end": code})
        if code in (0, Interrupted.code):
            ctx.group.close()
        ctx.group = None


def run_follower(job: Job) -> int:
    """Run all distributed stages of rank 0 as another rank; returns the exit code that rank 0
    broadcasts at the end."""
    atomic_io.disable_writes()
    console.quiet = True
    ctx = Context.on(job.experiment.hardware, job.experiment.tracker)
    with Stop.handle_signals():
        init_group(job, ctx)
        assert ctx.group is not None
        requests = {
            stage_requests.stage(name).folder_name(request): request
            for name, of_stage in job.requests.items()
            for request in of_stage
        }
        while "end" not in (news := ctx.group.receive()):
            stage = stage_requests.stage(news["stage"], ctx)
            try:
                with missing(ctx.group):
                    stage.run([Path(news["folder"])], [requests[news["request"]]])
            except LostRank:
                raise
            except Failure:
                pass  # rank 0 has raised the same failure, and handles it
        if news["end"] in (0, Interrupted.code):
            ctx.group.close()
        return int(news["end"])


def exit_process(code: int) -> NoReturn:
    """End a process of a group at once: library threads have aborted processes during interpreter
    shutdown."""
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
    """Run the job in hardware.processes processes of this machine; returns its results or raises
    rank 0's failure."""
    from sft_exp.distributed.launch import start

    atomic_io.folder(folder)
    news = {
        "config": config,
        "choices": job.experiment.choices,
        "folder": str(folder),
        "token": token,
        "command": command,
        "varying": list(varying),
        "sweep": sweep,
    }
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
    status = ownership.read(folder / "status.json")
    state = status.get("state")

    def record(state: str, error: Failure) -> None:
        ended = {"state": state, "exit_code": error.code, "resumable": True, "error": str(error)}
        atomic_io.write_json(folder / "status.json", {**status, **ended})

    if stopped and state not in ("done", "interrupted"):
        # the processes were stopped before rank 0 could write its status
        record("interrupted", stopped)
        raise stopped
    if state == "done":
        return results.read(folder)
    if killed or state not in ("failed", "interrupted") or status["exit_code"] == LostRank.code:
        cause = cause or "its processes ended without writing a status"
        lost = LostRank(f"{cause}; the same command continues from the last checkpoint")
        record("failed", lost)
        raise lost
    raise Reported(status["exit_code"], status["error"].partition(": ")[2])


class Reported(Failure):
    """A failure that another process has written to status.json."""

    def __init__(self, code: int, text: str):
        super().__init__(text)
        self.code = code
