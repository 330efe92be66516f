"""One job from its requests to its run folder: results.json, report.html, plots, status.json."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sft_exp import durable, gc, pipeline, report
from sft_exp.errors import Failure
from sft_exp.pipeline import Job
from sft_exp.stages.context import Context, Stop

LATEST = Path("outputs/latest")


def work(job: Job, folder: Path, config: dict[str, Any], command: list[str], others: Sequence[Job] = ()) -> dict[str, Any]:
    """Run what is missing, write the run folder; status.json says how it ended, whatever happens.

    `others` are jobs of the same sweep: heads of theirs that can be trained together with this one's are.
    """
    Stop.listen()
    ctx = Context.on(job.experiment.hardware, job.experiment.tracker)
    durable.folder(folder)
    durable.link(LATEST, folder)
    gc.refer(Path(job.experiment.store), folder, pipeline.names(job))
    status = {"state": "running", "exit_code": None, "started": time.strftime("%Y-%m-%dT%H:%M:%S")}
    durable.write_json(folder / "status.json", status)
    try:
        result = {**pipeline.run(job, ctx, others), "choices": job.experiment.choices, "config": config}
        durable.write_json(folder / "results.json", result)
        report.write(job, result, folder, command)
    except BaseException as error:
        code = error.code if isinstance(error, Failure) else 1
        state = "interrupted" if code == 75 else "failed"
        ended = {**status, "state": state, "exit_code": code, "resumable": True, "error": f"{type(error).__name__}: {error}"}
        durable.write_json(folder / "status.json", ended)
        raise
    durable.write_json(folder / "status.json", {**status, "state": "done", "exit_code": 0, "resumable": False})
    return result
