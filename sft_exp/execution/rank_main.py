"""One rank of a job on this machine: `execution.child` runs it with the path of launch.json."""

import json
import sys
from pathlib import Path

from sft_exp.config import build
from sft_exp.distributed.group import first
from sft_exp.execution import ownership
from sft_exp.execution.followers import exit_process, run_follower
from sft_exp.jobs import prepare
from sft_exp.progress import console


def main() -> None:
    """Run rank 0 or a follower of the job that launch.json describes."""
    from sft_exp.execution import session
    from sft_exp.failures import reported
    from sft_exp.reports import report

    console.quiet = True  # the launcher has prepared the same job, and said what there is to say
    news = json.loads(Path(sys.argv[1]).read_text())
    with reported(leave=False) as codes:
        job = prepare.prepare(build.experiment(news["config"], news["choices"]))
        if first():
            console.quiet = False
            folder, command = Path(news["folder"]), news["command"]
            ownership.adopt(folder, news["token"])
            result = session.work(
                job, folder, news["config"], command, [] if news["sweep"] else None, news["varying"]
            )
            if not news["sweep"]:
                report.show(job, result, folder, command)
        else:
            codes.append(run_follower(job))
    exit_process(max(codes, default=0))
