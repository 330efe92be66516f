"""What a tracker shows of a job: which of its store folders are runs, what they are called, and what came from what.

A job has two runs: its pretraining, and its fine-tuning, which stands for the main arm on the first label draw and holds the
job's results. Jobs that share a pretraining share its run: whoever finds it in the store links to it.
"""

import io
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sft_exp.config import compose
from sft_exp.core.arms import MAIN
from sft_exp.core.tracker import About, Artifact
from sft_exp.data import splits
from sft_exp.jobs.stage_requests import Job, stage
from sft_exp.models import transfer
from sft_exp.stages.pretrain import strip
from sft_exp.store import atomic_io
from sft_exp.store.results import Bill, Results
from sft_exp.training import metrics_log
from sft_exp.training.context import Context
from sft_exp.verdict import WITHHELD

OF_PRETRAINING = (
    "pretrainer", "encoder", "dataset", "pretrain", "pretrain_optim", "pretrain_schedule", "pretrain_dataset", "augment",
    "transfer", "seed", "hardware", "tracker",
)  # fmt: skip
NAMED = ("pretrainer", "dataset", "strategy", "optim")  # whose options begin a run's name
# Fields of `Results` that say what was asked, where it lies and how it is written.
NO_RESULT = ("config", "choices", "folders", "version")
MOST_PREDICTIONS = 1_000  # rows of the table of predictions
# say nothing about a run
SILENT = ("tracker", "hydra", "hardware", "store", "report", "plan", "name")


def runs(job: Job, name: str, ctx: Context) -> dict[str, About]:
    """Folders that the stage of that name shows as runs."""
    request = job.requests["finetune"][job.arms[MAIN][0]]
    if name == "pretrain" and request["start"]:
        about = pretraining(job, request["start"], ctx)
    elif name == "finetune":
        about = finetuning(
            job,
            Path(job.experiment.store) / stage("finetune").folder_name(request),
            request["start"],
            ctx,
        )
    else:
        return {}
    return {about.folder.name: about}


def after(job: Job, name: str, ctx: Context) -> None:
    """The stage has finished: its run gets what it has not heard of, whoever computed the folder. A pretraining's ends."""
    for about in runs(job, name, ctx).values():
        if (
            name == "pretrain"
            and about.folder.name not in ctx.runs
            and ctx.tracker.shown(about.folder)
        ):
            continue
        run = ctx.watch(about.folder.name)
        if not run.where:
            continue
        for row in metrics_log.record(about.folder):
            run.log(row)
        if name == "pretrain":
            run.pictures(images(about.folder))
            ctx.finish(about.folder.name)


def pretraining(job: Job, folder: Path, ctx: Context) -> About:
    resolved = {k: v for k, v in ctx.config.items() if k in OF_PRETRAINING}
    choices = {k: v for k, v in job.experiment.choices.items() if k in OF_PRETRAINING}
    data = manifest(
        job, "pretrain_dataset" if job.experiment.pretrain_dataset is not None else "dataset"
    )
    lineage = {"data": linked(data)}
    return About(
        "pretrain",
        folder,
        title(ctx, choices),
        tags(choices),
        {**resolved, "choices": choices, "lineage": lineage},
        [data],
        [encoder(job, folder)],
    )


def finetuning(job: Job, folder: Path, start: Path | None, ctx: Context) -> About:
    choices, uses = job.experiment.choices, [manifest(job)]
    lineage = {"data": linked(uses[0])}
    if start:
        uses.append(encoder(job, start))
        lineage["pretrain"] = {
            **linked(uses[1]),
            "run": start.name,
            "url": ctx.tracker.shown(start),
        }
    made = artifact(
        "model", job, folder, ("model.json", "model.safetensors", "labels.json", "request.json")
    )
    resolved = {**ctx.config, "choices": choices, "lineage": lineage}
    return About("finetune", folder, title(ctx, choices), tags(choices), resolved, uses, [made])


def title(ctx: Context, choices: dict[str, str]) -> str:
    """In a sweep, what varies in it: `optim=adam optim.lr=0.01`. Else, or where that does not concern the run, the options
    that matter and whatever else was typed: `vae digits full adam optim.lr=0.01`."""
    if varying := [o for o in ctx.varying if concerns(o, choices)]:
        return " ".join(varying)
    options = [choices[group] for group in NAMED if group in choices]
    typed = (w.lstrip("+~") for w in ctx.typed if "=" in w and not w.startswith("-"))
    return " ".join(
        [*options, *(w for w in typed if w.partition("=")[0] not in NAMED and concerns(w, choices))]
    )


def concerns(override: str, choices: dict[str, str]) -> bool:
    """Whether the override says something about a run of these choices, which are a pretraining's or a fine-tuning's."""
    group = override.lstrip("+~").partition("=")[0].partition(".")[0]
    return group not in SILENT and ("strategy" in choices or group in OF_PRETRAINING)


def tags(choices: dict[str, str]) -> list[str]:
    """`group:option` for each option that is not the default."""
    usual = compose.default_choices()
    return [
        f"{g}:{v}"
        for g, v in choices.items()
        if g not in ("hardware", "tracker") and usual.get(g) != v
    ]


def manifest(job: Job, group: str = "dataset") -> Artifact:
    """The names and the hash of the images of `dataset` or `pretrain_dataset`."""
    request = next(
        r for r in job.requests["data"] if r["dataset"] is getattr(job.experiment, group)
    )
    folder = Path(job.experiment.store) / stage("data").folder_name(request)
    return Artifact(
        f"data-{option(job, group)}",
        "dataset",
        folder,
        ("manifest.json", "request.json"),
        {"sha256": request["sha256"]},
    )


def encoder(job: Job, folder: Path) -> Artifact:
    return artifact("encoder", job, folder, ("encoder.safetensors", "request.json"))


def artifact(what: str, job: Job, folder: Path, files: tuple[str, ...]) -> Artifact:
    """Weights that a run makes or uses; once they are there, with the checksums they were sealed with."""
    facts = {}
    if (folder / atomic_io.SEAL).exists():
        facts = {"sha256": atomic_io.read_seal(folder)["sha256"]}
    return Artifact(
        f"{what}-{option(job, 'pretrainer')}-{option(job, 'dataset')}",
        "model",
        folder,
        files,
        facts,
    )


def option(job: Job, group: str) -> str:
    return (
        job.experiment.choices.get(group) or type(getattr(job.experiment, group)).__name__.lower()
    )


def linked(found: Artifact) -> dict[str, Any]:
    """An artifact in a config, so that what came from what is known without a server too."""
    weights = found.facts.get("sha256", "")
    sha256 = weights.get("encoder.safetensors", "") if isinstance(weights, dict) else weights
    return {
        "artifact": f"{found.name}:{found.folder.name}",
        "sha256": sha256,
        "folder": str(found.folder),
    }


def summary(result: Results, url: str) -> dict[str, Any]:
    """The results as a tracker's summary: each number, list of numbers and word of each field under its path, such as
    `test/accuracy`; a new field of `Results` appears by itself.

    Beside them stand `test/score`, `val/score` and `gain_vs_scratch`, which have the same name for every task, and
    `pretrain/url`, where the tracker shows the pretraining.
    """
    alike: dict[str, Any] = {"test/score": result.tested}
    if result.validated is not None:
        alike["val/score"] = result.validated
    # Runs must not be sorted by the difference to an arm whose training failed.
    if result.verdict and result.verdict.word != WITHHELD:
        alike["gain_vs_scratch"] = result.verdict.difference
    if url:
        alike["pretrain/url"] = url
    reported = {k: v for k, v in asdict(result).items() if k not in NO_RESULT}
    return {**flattened(reported), **alike}


def start_url(job: Job, ctx: Context) -> str:
    """Where the tracker shows the pretraining that the job's first label draw started from; empty if nowhere."""
    start = job.requests["finetune"][job.arms[MAIN][0]]["start"]
    return ctx.tracker.shown(start) if start else ""


def flattened(value: Any, path: str = "") -> dict[str, Any]:
    """Values by their path. A list of plain values is one value; a record in a list is named by its first value if that is a
    word (`bill/rows/int8/accuracy`), else by its place. Nothing is said of what is missing."""
    if isinstance(value, dict):
        items = [(str(name), inner) for name, inner in value.items()]
    elif isinstance(value, list) and any(isinstance(inner, dict | list) for inner in value):
        items = [(named(inner, str(place)), inner) for place, inner in enumerate(value)]
    else:
        return {} if value is None or value == [] else {path: value}
    return {
        key: v
        for name, inner in items
        for key, v in flattened(inner, f"{path}/{name}" if path else name).items()
    }


def named(record: Any, otherwise: str) -> str:
    first = next(iter(record.values()), None) if isinstance(record, dict) else None
    return first if isinstance(first, str) else otherwise


def tables(job: Job, result: Results) -> dict[str, list[dict[str, Any]]]:
    """Title -> rows of numbers and words: test scores of each labelled split, predictions, and the bill if there is one."""
    found = {
        "splits": splits_table(result),
        "predictions": predictions(job),
        "bill": benchmark(result.benchmark) if result.benchmark else [],
    }
    return {title: rows for title, rows in found.items() if rows}


def splits_table(result: Results) -> list[dict[str, Any]]:
    """A row for each arm and labelled split: its test score, and how its training failed, if it did."""
    return [
        {
            "arm": arm,
            "split": n,
            result.score: score,
            "fault": result.faults[arm][n] if arm in result.faults else "",
        }
        for arm, scores in result.draws.items()
        for n, score in enumerate(scores)
    ]


def predictions(job: Job) -> list[dict[str, Any]]:
    """A row for each of the first test images that the main arm classified in its first labelled split. Empty for tasks that
    predict no class of an image. Images are named, not shown."""
    if job.experiment.task.predicts != "classes":
        return []
    folder = job.results["evaluate"][job.arms[MAIN][0]].folder
    stored = transfer.read_own(folder / "predictions.safetensors")
    test, classes = splits.make(job.corpus, job.labels, 0).test, job.corpus.classes
    shown = min(len(test), MOST_PREDICTIONS)
    columns: dict[str, list[Any]] = {
        "image": list(test.ids[:shown]),
        "true": [classes[y] for y in test.y[:shown].tolist()],
        "predicted": [classes[y] for y in stored["predicted"][:shown].long().tolist()],
    }
    if "confidence" in stored:
        columns["confidence"] = stored["confidence"][:shown].float().tolist()
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def benchmark(benchmark: Bill) -> list[dict[str, Any]]:
    """A row for each form of the model, numbers and words alone."""
    return [
        {**asdict(row), **dict(zip(("difference", "low", "high"), row.difference, strict=True))}
        for row in benchmark.rows
    ]


def images(folder: Path) -> dict[str, bytes]:
    """What a pretraining makes of its first images, as PNGs."""
    from PIL import Image

    found = {}
    for name, x_BCHW in transfer.read_own(folder / "pictures.safetensors").items():
        buffer = io.BytesIO()
        Image.fromarray(strip(x_BCHW)).save(buffer, format="PNG")
        found[name] = buffer.getvalue()
    return found
