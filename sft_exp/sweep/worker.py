"""The worker process of a sweep: it runs the jobs one after the other, and imports, data and
compiled code are reused.

It reads one JSON message per line from a socket, and answers each with one line. `execution.child`
starts it, so that it ends with its parent. If a job kills it (`sys.exit`, SIGKILL, out of memory),
that job has failed, and the parent starts another worker.
"""

import json
import logging.config
import socket
import sys
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sft_exp.config import build
from sft_exp.errors import ConfigError, DeviceMemoryError, Failure, beyond_memory
from sft_exp.progress import LOG

_jobs: dict[str, Any] = {}  # prepared by this process, by their configuration


def main() -> None:
    # before the first message, as the parent may compose its jobs meanwhile
    from sft_exp.execution import session  # noqa: F401

    # the parent may be gone
    with suppress(ConnectionError), channel(sys.argv[1]).makefile("rw") as line:
        for message in line:
            line.write(json.dumps(answer(json.loads(message))) + "\n")
            line.flush()


def channel(word: str) -> socket.socket:
    """The socket of the inherited file descriptor `word`; `-`, on Windows, means that stdin
    describes the socket."""
    if word != "-":
        return socket.socket(fileno=int(word))
    shared: Any = socket
    return shared.fromshare(sys.stdin.buffer.read())


def answer(message: dict[str, Any]) -> dict[str, Any]:
    """Answer one message: {"code": 0, ...} or {"code": exit code, "error": one message}.

    `check` prepares a job, `run` runs it, `follow` joins it as another rank, `plan` prints what
    several jobs would compute, and `lay out` lists a study's jobs.
    """
    from sft_exp.execution import followers, session

    try:
        if message["do"] == "lay out":
            return {"code": 0, **laid_out(message)}
        if message["do"] == "plan":
            from sft_exp.core.tracker import Tracker
            from sft_exp.execution import pilot
            from sft_exp.reports import report
            from sft_exp.training.context import Context

            jobs = [prepared(job) for job in message["jobs"]]
            ctx = Context.on(jobs[0].experiment.hardware, Tracker())
            pace = pilot.Pilot(ctx, Path(jobs[0].experiment.store))
            report.plan(
                jobs,
                {k: v for job in jobs for k, v in pilot.estimate(job, ctx, pace).by_folder.items()},
            )
            return {"code": 0}
        job = prepared(message)
        if message["do"] == "check":
            return {"code": 0}
        if message["do"] == "run" and message["logging"]:
            logging.config.dictConfig(message["logging"])
        if message["do"] == "follow":
            return {"code": followers.run_follower(job), "error": "left with the first process"}
        others = [prepared(sibling) for sibling in siblings(message)]
        folder, varying = Path(message["folder"]), message["varying"]
        result = session.work(job, folder, message["config"], message["command"], others, varying)
        scores = {"val": result.validated, "test": result.tested, "kind": result.kind}
        return {"code": 0, **scores}
    except Failure as error:
        LOG.error("%s", error)
        return {"code": error.code, "error": str(error)}
    except Exception as error:  # noqa: BLE001 - the other jobs go on
        if said := beyond_memory(error):
            LOG.error("%s", said)
            return {"code": DeviceMemoryError.code, "error": said}
        import traceback

        traceback.print_exc()
        LOG.exception("a bug, please report it with what `sft_exp doctor RUN` packs")
        return {"code": 1, "error": f"{type(error).__name__}: {error}"}


def laid_out(message: dict[str, Any]) -> dict[str, Any]:
    """A study's jobs, looks and grid, and those of its reserved keys that they set."""
    from sft_exp.training.context import corpus

    study = build.part(message["study"], "study", "sft_exp.sweep.study.Study")
    base = build.experiment(message["config"], message["choices"])
    try:
        images = corpus(base.dataset)
        jobs, looks, grid = study.jobs(images, base), study.looks(images, base), study.grid()
        candidates = study.candidates(images, base)
    except ConfigError as error:
        raise error.under("study") from error
    every = [*jobs, *(job for look in looks for _, job in look), *(c.overrides for c in candidates)]
    keys = {o.partition("=")[0] for job in every for o in job} | set(grid)
    if candidates:
        keys |= set(study.timed_keys)
    return {
        "jobs": jobs,
        "looks": [[{"key": key, "overrides": job} for key, job in look] for look in looks],
        "candidates": [asdict(c) for c in candidates],
        "grid": grid,
        "reserved_keys": {key: hint for key, hint in study.reserved_keys.items() if key in keys},
    }


def prepared(job: dict[str, Any]) -> Any:
    from sft_exp.jobs import prepare

    key = json.dumps([job["config"], job["choices"]])
    if key not in _jobs:
        _jobs[key] = prepare.prepare(build.experiment(job["config"], job["choices"]))
    return _jobs[key]


def siblings(message: dict[str, Any]) -> list[dict[str, Any]]:
    """The sweep's other jobs, whose heads may be trained together with this job's."""
    file = Path(message["siblings"])
    jobs = json.loads(file.read_text()) if file.exists() else []
    own = (message["choices"], message["config"])
    return [job for job in jobs if (job["choices"], job["config"]) != own]
