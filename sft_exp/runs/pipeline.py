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
    """Compute all missing results of a job and return its `Results`.

    Args:
        job: the job.
        ctx: device, tracker and processes.
        others: further jobs of a sweep. Those of their requests that a call for this job can
            compute as well are computed with it.

    Raises:
        Interrupted: a stop was requested; a further call continues.
        ToleranceError: a compressed variant lost more accuracy than is tolerated.
    """
    store = Store(Path(job.experiment.store), lambda: Stop.requested)
    for name, requests in job.requests.items():
        ctx.mirrored |= run_metadata.runs(job, name, ctx)
        batched = [r for other in others for r in other.requests[name]]
        job.results[name] = run_stage(store, stage(name, ctx), requests, batched)
        run_metadata.after(job, name, ctx)
        if name == "bill":
            require_tolerance(job)
    return results(job, ctx.config)


def require_tolerance(job: Job) -> None:
    """ToleranceError if a compressed variant lost more accuracy than compress.tolerance.

    Its benchmark stays in the store.
    """
    tolerance: float | None = getattr(job.experiment.compress, "tolerance", None)
    if tolerance is None:
        return
    for result in job.results["bill"]:
        original, *variants = read(result, "bill.json")["rows"]
        losses = {row["form"]: original["accuracy"] - row["accuracy"] for row in variants}
        worse = ", ".join(
            f"{name} lost {100 * loss:.2f} points"
            for name, loss in losses.items()
            if loss > tolerance and not name.endswith(ALONE)
        )
        if worse:
            raise ToleranceError(
                f"{worse} of accuracy, compress.tolerance={tolerance} allows {100 * tolerance:g}:"
                f" {result.folder}/bill.json"
            )


def folder_names(job: Job) -> list[str]:
    """Names of all store folders that the job uses."""
    return [folder for name in job.requests for folder in job.named(name)]


def run_stage(
    store: Store, this_stage: Stage, requests: list[Request], others: list[Request]
) -> list[Result]:
    """Run a stage for the job's requests, and for those of `others` that the same call computes."""
    folder_name, batch_key = this_stage.folder_name, this_stage.batch_key
    missing = {name: r for r in requests if not store.has(name := folder_name(r))}
    keys = {batch_key(r) for r in missing.values()} - {None} if batch_key else set()
    batched = [r for r in others if batch_key and batch_key(r) in keys]
    LOG.debug("%s: %d of %d results are missing", this_stage.name, len(missing), len(requests))
    try:
        results = run_with_bar(store, this_stage, [*requests, *batched], list(missing))
        return results[: len(requests)]
    except NonFiniteError:
        if not batched:
            raise
        # another job's head diverged: compute only ours
        return run_with_bar(store, replace(this_stage, batch_key=None), requests, list(missing))


def run_with_bar(
    store: Store, this_stage: Stage, requests: list[Request], missing: Sequence[str]
) -> list[Result]:
    """Run a stage, with a progress bar if more than one folder is missing.

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
