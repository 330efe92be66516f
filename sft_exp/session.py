"""One job from its requests to its run folder: results.json, report.html, plots, status.json."""

import sys
import time
from pathlib import Path
from typing import Any

from sft_exp import durable, pipeline, report
from sft_exp.errors import Failure
from sft_exp.pipeline import Job
from sft_exp.stages.context import Context, Stop

LATEST = Path("outputs/latest")


def work(job: Job, folder: Path, config: Any) -> dict[str, Any]:
    """Run what is missing, write the run folder, show the table; status.json says how it ended, whatever happens."""
    e = job.experiment
    Stop.listen()
    ctx = Context.on(e.hardware, e.tracker)
    durable.folder(folder)
    durable.link(LATEST, folder)
    status = {"state": "running", "started": time.strftime("%Y-%m-%dT%H:%M:%S")}
    durable.write_json(folder / "status.json", status)
    try:
        (result,) = pipeline.run([job], ctx)
    except BaseException as error:
        code = error.code if isinstance(error, Failure) else 1
        durable.write_json(
            folder / "status.json",
            {
                **status,
                "state": "interrupted" if code == 75 else "failed",
                "exit_code": code,
                "resumable": code in (4, 5, 75) or code == 1,
                "error": f"{type(error).__name__}: {error}",
            },
        )
        raise
    result["config"] = config
    durable.write_json(folder / "results.json", result)
    report.write(job, result, folder, ["python", "-m", "sft_exp", *sys.argv[1:]])
    durable.write_json(folder / "status.json", {**status, "state": "done", "exit_code": 0, "resumable": False})
    report.show(job, result, folder)
    return result
