"""Runs a sweep's jobs one after the other, and pays imports, data and compiled code once.

Reads one JSON message a line from the socket it is handed, and answers each with one line. `execution.child` starts it,
so that it ends with its parent. A job that kills it (`sys.exit`, SIGKILL, out of memory) is that job's failure: whoever
asked starts another worker.
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
from sft_exp.errors import ConfigError, Failure
from sft_exp.progress import LOG

_jobs: dict[str, Any] = {}  # prepared by this process, by their configuration


def main() -> None:
    # whoever asked may be gone
    with suppress(ConnectionError), channel(sys.argv[1]).makefile("rw") as line:
        for message in line:
            line.write(json.dumps(answer(json.loads(message))) + "\n")
            line.flush()


def channel(word: str) -> socket.socket:
    """The socket by the number that it was inherited under; `-`, on Windows, means that stdin describes it."""
    if word != "-":
        return socket.socket(fileno=int(word))
    shared: Any = socket
    return shared.fromshare(sys.stdin.buffer.read())


def answer(message: dict[str, Any]) -> dict[str, Any]:
    """{"code": 0, ...} or {"code": exit code, "error": one message}. `check` prepares a job, `run` runs it, `plan` says
    what several would compute, `lay out` which jobs a study has on the job's data."""
    from sft_exp.execution import followers, session

    try:
        if message["do"] == "lay out":
            return {"code": 0, **laid_out(message)}
        if message["do"] == "plan":
            from sft_exp.reports import report

            report.plan([prepared(job) for job in message["jobs"]])
            return {"code": 0}
        job = prepared(message)
        if message["do"] == "check":
            return {"code": 0}
        if message["do"] == "run" and message["logging"]:
            logging.config.dictConfig(message["logging"])
        if message["do"] == "follow":
            return {"code": followers.run_follower(job), "error": "left with the first process"}
        others = [prepared(s) for s in siblings(message)]
        folder, varying = Path(message["folder"]), message["varying"]
        result = session.work(job, folder, message["config"], message["command"], others, varying)
        return {
            "code": 0,
            "val": result.validated,
            "test": result.tested,
        }
    except Failure as error:
        LOG.error("%s", error)
        return {"code": error.code, "error": str(error)}
    except Exception as error:  # noqa: BLE001 - any failure of a job is that job's alone
        import traceback

        traceback.print_exc()
        LOG.exception("a bug, please report it")
        return {"code": 1, "error": f"{type(error).__name__}: {error}"}


def laid_out(message: dict[str, Any]) -> dict[str, Any]:
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
        "reserved_keys": {key: said for key, said in study.reserved_keys.items() if key in keys},
    }


def prepared(job: dict[str, Any]) -> Any:
    from sft_exp.jobs import prepare

    key = json.dumps([job["config"], job["choices"]])
    if key not in _jobs:
        _jobs[key] = prepare.prepare(build.experiment(job["config"], job["choices"]))
    return _jobs[key]


def siblings(message: dict[str, Any]) -> list[dict[str, Any]]:
    """The sweep's other jobs: heads of theirs may be trained together with this one's."""
    file = Path(message["siblings"])
    jobs = json.loads(file.read_text()) if file.exists() else []
    return [
        job
        for job in jobs
        if job["choices"] != message["choices"] or job["config"] != message["config"]
    ]
