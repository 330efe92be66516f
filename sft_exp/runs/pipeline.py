"""The whole line of one job: describe, pretrain, fine-tune, validate, evaluate, compress, export."""

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


def run(job: Job, ctx: Context, others: Sequence[Job] = ()) -> Results:
    """Everything of the job that is missing, once; then its results. What of `others` fits the same call comes along."""
    store = Store(Path(job.experiment.store), lambda: Stop.asked)
    for name, requests in job.requests.items():
        ctx.mirrored |= run_metadata.runs(job, name, ctx)
        job.results[name] = run_stage(
            store, stage(name, ctx), requests, [r for o in others for r in o.requests[name]]
        )
        run_metadata.after(job, name, ctx)
        if name == "bill":
            tolerated(job)
    return results(job, ctx.config)


def tolerated(job: Job) -> None:
    """ToleranceError if a compressed form lost more accuracy than compress.tolerance. The bill stays in the store."""
    most: float | None = getattr(job.experiment.compress, "tolerance", None)
    if most is None:
        return
    for result in job.results["bill"]:
        original, *variants = read(result, "bill.json")["rows"]
        lost = {row["form"]: original["accuracy"] - row["accuracy"] for row in variants}
        if worse := {
            name: loss for name, loss in lost.items() if loss > most and not name.endswith(ALONE)
        }:
            named = ", ".join(
                f"{name} lost {100 * loss:.2f} points" for name, loss in worse.items()
            )
            raise ToleranceError(
                f"{named} of accuracy, compress.tolerance={most} allows {100 * most:g}: {result.folder}/bill.json"
            )


def names(job: Job) -> list[str]:
    """Every store folder the job uses."""
    return [stage(name).folder_name(r) for name, requests in job.requests.items() for r in requests]


def run_stage(
    store: Store, what: Stage, requests: list[Request], others: list[Request]
) -> list[Result]:
    """`store.run` for the job's requests and what of the others' one call can serve with them."""
    missing = {name: r for r in requests if not store.has(name := what.folder_name(r))}
    wanted = {what.batch_key(r) for r in missing.values()} - {None} if what.batch_key else set()
    also = [r for r in others if what.batch_key and what.batch_key(r) in wanted]
    try:
        return shown(store, what, [*requests, *also], list(missing))[: len(requests)]
    except NonFiniteError:
        if not also:
            raise
        # another job's head diverged: ours alone
        return shown(store, replace(what, batch_key=None), requests, list(missing))


def shown(
    store: Store, what: Stage, requests: list[Request], missing: Sequence[str]
) -> list[Result]:
    """`store.run` under one progress bar, if more than one folder is missing.

    The bar also counts the folders that other workers of this run have published.
    """
    if len(missing) < 2:
        return store.run(what, requests)
    with bar(what.name, len(missing)) as advance:

        def counted(folders: list[Path], group: list[Request]) -> None:
            what.run(folders, group)
            own = {folder.name for folder in folders}
            advance(sum(name in own or store.has(name) for name in missing), "")

        return store.run(replace(what, run=counted), requests)
