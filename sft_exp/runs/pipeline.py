"""The pipeline of one job: describe, pretrain, fine-tune, validate, evaluate, compress, export."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from sft_exp.compressors.distill import ALONE
from sft_exp.errors import NonFiniteError, ToleranceError
from sft_exp.jobs.stage_requests import Job, stage
from sft_exp.progress import bar
from sft_exp.runs import run_metadata
from sft_exp.runs.results import read, results
from sft_exp.store.results import Results
from sft_exp.store.store import Request, Result, Stage, Store
from sft_exp.training.context import Context, Stop

LOG = logging.getLogger(__name__)


def run(job: Job, ctx: Context, others: Sequence[Job] = ()) -> Results:
    """Compute all missing results of the job and return its `Results`.

    Requests of `others` that the same call can compute are computed too.
    """
    store = Store(Path(job.experiment.store), lambda: Stop.asked)
    for name, requests in job.requests.items():
        ctx.mirrored |= run_metadata.runs(job, name, ctx)
        further = [r for other in others for r in other.requests[name]]
        job.results[name] = run_stage(store, stage(name, ctx), requests, further)
        run_metadata.after(job, name, ctx)
        if name == "bill":
            tolerated(job)
    return results(job, ctx.config)


def tolerated(job: Job) -> None:
    """ToleranceError if a variant lost more accuracy than compress.tolerance.

    The benchmark stays in the store.
    """
    most: float | None = getattr(job.experiment.compress, "tolerance", None)
    if most is None:
        return
    for result in job.results["bill"]:
        original, *variants = read(result, "bill.json")["rows"]
        losses = {row["form"]: original["accuracy"] - row["accuracy"] for row in variants}
        worse = ", ".join(
            f"{name} lost {100 * loss:.2f} points"
            for name, loss in losses.items()
            if loss > most and not name.endswith(ALONE)
        )
        if worse:
            raise ToleranceError(
                f"{worse} of accuracy, compress.tolerance={most} allows {100 * most:g}:"
                f" {result.folder}/bill.json"
            )


def names(job: Job) -> list[str]:
    """Names of all store folders that the job uses."""
    return [folder for name in job.requests for folder in job.named(name)]


def run_stage(
    store: Store, this_stage: Stage, requests: list[Request], others: list[Request]
) -> list[Result]:
    """`store.run` for the job's requests, and for those of `others` that the same call computes."""
    folder_name, batch_key = this_stage.folder_name, this_stage.batch_key
    missing = {name: r for r in requests if not store.has(name := folder_name(r))}
    keys = {batch_key(r) for r in missing.values()} - {None} if batch_key else set()
    further = [r for r in others if batch_key and batch_key(r) in keys]
    LOG.debug("%s: %d of %d results are missing", this_stage.name, len(missing), len(requests))
    try:
        results = run_with_bar(store, this_stage, [*requests, *further], list(missing))
        return results[: len(requests)]
    except NonFiniteError:
        if not further:
            raise
        # another job's head diverged: compute only ours
        return run_with_bar(store, replace(this_stage, batch_key=None), requests, list(missing))


def run_with_bar(
    store: Store, this_stage: Stage, requests: list[Request], missing: Sequence[str]
) -> list[Result]:
    """`store.run` with a progress bar, if more than one folder is missing.

    The bar also counts the folders that other workers of this run have published.
    """
    if len(missing) < 2:
        return store.run(this_stage, requests)
    with bar(this_stage.name, len(missing)) as advance:

        def run_counted(folders: list[Path], group: list[Request]) -> None:
            this_stage.run(folders, group)
            own = {folder.name for folder in folders}
            advance(sum(name in own or store.has(name) for name in missing), "")

        return store.run(replace(this_stage, run=run_counted), requests)
