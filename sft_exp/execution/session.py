"""Runs one job and writes its run folder: results.json, report.html, pictures, status.json."""

import shlex
import time
import traceback
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from sft_exp.core.arms import MAIN
from sft_exp.distributed.group import missing, present
from sft_exp.errors import Failure, Interrupted, StorageError, ToleranceError
from sft_exp.execution import followers, ownership, pilot, pool
from sft_exp.jobs.stage_requests import Job, model_parts, place, stage
from sft_exp.progress import LOG, console
from sft_exp.reports import model_card, report
from sft_exp.runs import pipeline, results, run_metadata
from sft_exp.stages import familiarity
from sft_exp.store import atomic_io, collect
from sft_exp.store import results as result_file
from sft_exp.store.results import Results
from sft_exp.store.store import Request, Store
from sft_exp.training.context import Context, Stop


def work(
    job: Job,
    folder: Path,
    config: dict[str, Any],
    command: list[str],
    others: Sequence[Job] | None = None,
    varying: Sequence[str] = (),
) -> Results:
    """Run the missing stages of a job and write its run folder.

    status.json records how the job ended, also after a failure.

    Args:
        job: the job.
        folder: the run folder.
        config: the job's plain config.
        command: the command line, for reports.
        others: the other jobs of a sweep, whose heads are trained together with this job's where
            possible; None outside of a sweep.
        varying: the overrides that distinguish this job within its sweep.
    """
    with ownership.holding(folder) as token:
        ownership.refuse_other_results(folder, config, job.experiment.choices)
        hardware = job.experiment.hardware
        if (hardware.processes > 1 or hardware.engine == "fsdp") and not present():
            sweep = others is not None
            return followers.launch(job, folder, config, command, varying, sweep, token)
        # signals are handled until the last file is written
        with Stop.handle_signals():
            return _run(job, folder, config, command, others, varying)


def _run(
    job: Job,
    folder: Path,
    config: dict[str, Any],
    command: list[str],
    others: Sequence[Job] | None,
    varying: Sequence[str],
) -> Results:
    ctx = Context.on(job.experiment.hardware, job.experiment.tracker, config, command, varying)
    atomic_io.folder(folder)
    atomic_io.link(ownership.LATEST, folder)
    status = {"state": "running", "exit_code": None, "started": time.strftime("%Y-%m-%dT%H:%M:%S")}
    atomic_io.write_json(folder / "status.json", status)
    LOG.info("command: %s", shlex.join(command))
    try:
        followers.init_group(job, ctx)
        table, rows = report.movements(job)
        if others is None:
            console.print(table)
        atomic_io.write_json(folder / "strategy.json", rows)
        with_report = others is None if job.experiment.report == "auto" else job.experiment.report
        requests = report_requests(job) if with_report else {}
        names = [stage(name).folder_name(request) for name, request in requests.items()]
        used = {*pipeline.folder_names(job), *names, *collect.named(config)}
        collect.refer(Path(job.experiment.store), folder, used)
        if others is None and ctx.group is None:
            pilot.announce(job, ctx)
        with missing(ctx.group), pool.workers(job, ctx, config, others or ()):
            result = pipeline.run(job, ctx, others or ())
        ownership.require(folder)
        result_file.write(folder, result)
        folders = {name: computed(job, name, request, ctx) for name, request in requests.items()}
        classified = report.classified(job, folders["logits"]) if "logits" in folders else None
        pictures = report.write(job, result, folder, command, classified) if with_report else {}
        model_card.publish(job, result, folder, command)
        if (
            "familiarity" in folders
            and (file := folders["familiarity"] / familiarity.FILE).is_file()
        ):
            # the store keeps it for other folders of the run
            atomic_io.write(folder / file.name, file.read_bytes())
        for name, run in list(ctx.runs.items()):
            run.summary(run_metadata.summary(result, run_metadata.start_url(job, ctx)))
            run.pictures({title: file.read_bytes() for title, file in pictures.items()})
            for title, rows_of_table in run_metadata.tables(job, result).items():
                run.table(title, rows_of_table)
            ctx.finish(name)
    except BaseException as error:
        if isinstance(error, ToleranceError) and others is None:
            benchmark = result_file.parse_bill(results.read(job.results["bill"][0], "bill.json"))
            report.show_benchmark(benchmark, console)
        code = exit_code(error)
        for name in list(ctx.runs):
            ctx.finish(name, code)
        state = "interrupted" if isinstance(error, Interrupted) else "failed"
        ended = {
            **status,
            "state": state,
            "exit_code": code,
            "resumable": True,
            "error": f"{type(error).__name__}: {error}",
        }
        if code == 1:  # a bug, whose report needs the traceback
            ended["traceback"] = "".join(traceback.format_exception(error))
        # a full disk, or another process that has taken the folder over, must not hide the error
        with suppress(StorageError):
            ownership.require(folder)
            atomic_io.write_json(folder / "status.json", ended)
        followers.shutdown(ctx, code)
        raise
    ownership.require(folder)
    atomic_io.write_json(
        folder / "status.json", {**status, "state": "done", "exit_code": 0, "resumable": False}
    )
    validated = "" if result.validated is None else f"validation {100 * result.validated:.2f}, "
    if others is None:  # a sweep does so at its end
        collect.shrink(Path(job.experiment.store), folder, job.experiment.store_max_gb)
    LOG.info("done: %stest %s %.2f %%", validated, result.score_name, 100 * result.tested)
    followers.shutdown(ctx, 0)
    return result


def report_requests(job: Job) -> dict[str, Request]:
    """The requests of a classifier's report beside the job's own, by stage: all outputs of the first
    labelled split's model, and features by which `predict` tells images that are unlike those it
    learnt from. Other tasks have none."""
    if job.experiment.task.predicts != "classes":
        return {}
    first = job.arms[MAIN][0]
    main, scored = job.requests["finetune"][first], job.requests["evaluate"][first]
    shared = {key: main[key] for key in ("dataset", "data", "labels", "draw")}
    of_model = {"model": place(job, "finetune", main), "parts": model_parts(main)}
    held_out = job.experiment.val == "holdout"  # val=full holds out labels outside the budget
    return {
        "logits": {**scored, "held_out": held_out},
        "familiarity": {**shared, **of_model},
    }


def computed(job: Job, name: str, request: Request, ctx: Context) -> Path:
    """The folder of a request's result."""
    store = Store(Path(job.experiment.store), lambda: Stop.requested)
    return store.run(stage(name, ctx), [request])[0].folder


def exit_code(error: BaseException) -> int:
    """The exit code of a process that an exception ends; 1 for a bug."""
    if isinstance(error, KeyboardInterrupt):
        return 130
    if isinstance(error, Failure | SystemExit) and isinstance(error.code, int):
        return error.code
    return 1
