"""A job's runs in a tracker: their names, tags, lineage, summary and tables.

A job has two runs: its pretraining and its fine-tuning. The latter is the main arm on the first
labelled split and has the job's results. Jobs that share a pretraining share its run.
"""

import io
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sft_exp.config import compose
from sft_exp.core.arms import MAIN
from sft_exp.core.tracker import About, Artifact
from sft_exp.data import splits
from sft_exp.errors import StorageError
from sft_exp.jobs.stage_requests import Job, stage
from sft_exp.models import transfer
from sft_exp.stages.features import STORED
from sft_exp.stages.model import ENCODER
from sft_exp.stages.pretrain import strip
from sft_exp.store import atomic_io
from sft_exp.store.results import Bill, Results
from sft_exp.training import metrics_log
from sft_exp.training.context import Context
from sft_exp.verdict import WITHHELD

# configuration groups and keys that a pretraining depends on
OF_PRETRAINING = (
    "pretrainer", "encoder", "dataset", "pretrain", "pretrain_optim", "pretrain_schedule",
    "pretrain_dataset", "augment", "transfer", "seed", "hardware", "tracker",
)  # fmt: skip
NAMED = ("pretrainer", "dataset", "strategy", "optim")  # a run's name begins with these options
# fields of `Results` that are settings, paths and the format
NO_RESULT = ("config", "choices", "folders", "version")
MOST_PREDICTIONS = 1_000  # maximum number of rows in the table of predictions
# keys that do not describe a run
SILENT = (
    "tracker", "hydra", "hardware", "store", "store_max_gb", "report", "report_images", "plan",
    "name",
)  # fmt: skip


def runs(job: Job, name: str, ctx: Context) -> dict[str, About]:
    """Folder name -> description of the runs of that stage."""
    request = job.requests["finetune"][job.arms[MAIN][0]]
    if name == "pretrain" and request["start"]:
        about = pretraining(job, request["start"], ctx)
    elif name == "finetune":
        folder = Path(job.experiment.store) / stage("finetune").folder_name(request)
        about = finetuning(job, folder, request["start"], ctx)
    else:
        return {}
    return {about.folder.name: about}


def after(job: Job, name: str, ctx: Context) -> None:
    """Log what the run of a finished stage lacks, also if another process computed the folder.

    The run of a pretraining ends here.
    """
    for about in runs(job, name, ctx).values():
        begun = about.folder.name in ctx.runs
        if name == "pretrain" and not begun and ctx.tracker.shown(about.folder):
            continue
        run = ctx.watch(about.folder.name)
        if not run.where:
            continue
        for row in metrics_log.read_with_monitors(about.folder):
            run.log(row)
        if name == "pretrain":
            run.pictures(images(about.folder))
            ctx.finish(about.folder.name)


def pretraining(job: Job, folder: Path, ctx: Context) -> About:
    """The description of a pretraining's run."""
    resolved = {k: v for k, v in ctx.config.items() if k in OF_PRETRAINING}
    choices = {k: v for k, v in job.experiment.choices.items() if k in OF_PRETRAINING}
    separate = job.experiment.pretrain_dataset is not None
    data = manifest(job, "pretrain_dataset" if separate else "dataset")
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
    """The description of a fine-tuning's run; `start` is the folder of its pretraining."""
    choices, uses = job.experiment.choices, [manifest(job)]
    lineage = {"data": linked(uses[0])}
    if start:
        uses.append(encoder(job, start))
        lineage["pretrain"] = {
            **linked(uses[1]),
            "run": start.name,
            "url": ctx.tracker.shown(start),
        }
    frozen = STORED in job.requests["finetune"][job.arms[MAIN][0]]
    encoder_file = (ENCODER,) if frozen else ()
    files = ("model.json", "model.safetensors", *encoder_file, "labels.json", "request.json")
    model = artifact("model", job, folder, files)
    resolved = {**ctx.config, "choices": choices, "lineage": lineage}
    return About("finetune", folder, title(ctx, choices), tags(choices), resolved, uses, [model])


def title(ctx: Context, choices: dict[str, str]) -> str:
    """The name of a run.

    In a sweep it is the overrides that vary: `optim=adam optim.lr=0.01`. Otherwise, or if those do
    not concern the run, it is the main options and the user's other overrides:
    `vae digits full adam optim.lr=0.01`.
    """
    if varying := [o for o in ctx.varying if concerns(o, choices)]:
        return " ".join(varying)
    options = [choices[group] for group in NAMED if group in choices]
    typed = [w.lstrip("+~") for w in ctx.typed if "=" in w and not w.startswith("-")]
    others = [w for w in typed if w.partition("=")[0] not in NAMED and concerns(w, choices)]
    return " ".join([*options, *others])


def concerns(override: str, choices: dict[str, str]) -> bool:
    """Whether the override describes a run of these choices, a pretraining's or a fine-tuning's."""
    group = override.lstrip("+~").partition("=")[0].partition(".")[0]
    return group not in SILENT and ("strategy" in choices or group in OF_PRETRAINING)


def tags(choices: dict[str, str]) -> list[str]:
    """`group:option` for each option that is not the default."""
    default = compose.default_choices()
    return [
        f"{group}:{option}"
        for group, option in choices.items()
        if group not in ("hardware", "tracker") and default.get(group) != option
    ]


def manifest(job: Job, group: str = "dataset") -> Artifact:
    """The manifest and hash of `dataset` or `pretrain_dataset` as an artifact."""
    dataset = getattr(job.experiment, group)
    request = next(r for r in job.requests["data"] if r["dataset"] is dataset)
    folder = Path(job.experiment.store) / stage("data").folder_name(request)
    name, files = f"data-{option(job, group)}", ("manifest.json", "request.json")
    return Artifact(name, "dataset", folder, files, {"sha256": request["sha256"]})


def encoder(job: Job, folder: Path) -> Artifact:
    return artifact("encoder", job, folder, ("encoder.safetensors", "request.json"))


def artifact(prefix: str, job: Job, folder: Path, files: tuple[str, ...]) -> Artifact:
    """Weights that a run makes or uses as an artifact, with checksums once the folder is sealed."""
    facts = {}
    # before its stage, the folder may be damaged, and is computed again
    with suppress(StorageError):
        if (folder / atomic_io.SEAL).exists():
            facts = {"sha256": atomic_io.read_seal(folder)["sha256"]}
    name = f"{prefix}-{option(job, 'pretrainer')}-{option(job, 'dataset')}"
    return Artifact(name, "model", folder, files, facts)


def option(job: Job, group: str) -> str:
    """The chosen option of a configuration group, or the class of an object given from Python."""
    e = job.experiment
    return e.choices.get(group) or type(getattr(e, group)).__name__.lower()


def linked(artifact: Artifact) -> dict[str, Any]:
    """The lineage entry of an artifact in a run's config, which needs no server."""
    checksums = artifact.facts.get("sha256", "")
    sha256 = checksums.get("encoder.safetensors", "") if isinstance(checksums, dict) else checksums
    return {
        "artifact": f"{artifact.name}:{artifact.folder.name}",
        "sha256": sha256,
        "folder": str(artifact.folder),
    }


def summary(result: Results, url: str) -> dict[str, Any]:
    """The results as a tracker's summary: all values by path, such as `test/accuracy`.

    It also has `test/score`, `val/score` and `gain_vs_scratch`, which have the same name for every
    task, and `pretrain/url`, the tracker's address of the pretraining.
    """
    common: dict[str, Any] = {"test/score": result.tested}
    if result.validated is not None:
        common["val/score"] = result.validated
    # runs must not be sorted by the difference to an arm whose training failed
    if result.verdict and result.verdict.word != WITHHELD:
        common["gain_vs_scratch"] = result.verdict.difference
    if url:
        common["pretrain/url"] = url
    reported = {k: v for k, v in asdict(result).items() if k not in NO_RESULT}
    return {**flattened(reported), **common}


def start_url(job: Job, ctx: Context) -> str:
    """The tracker's address of the first labelled split's pretraining; empty if there is none."""
    start = job.requests["finetune"][job.arms[MAIN][0]]["start"]
    return ctx.tracker.shown(start) if start else ""


def flattened(value: Any, path: str = "") -> dict[str, Any]:
    """Values by path, without missing ones.

    A list of plain values is one value. A record in a list is named by its first value if that is a
    string (`bill/rows/int8/accuracy`), else by its position.
    """
    if isinstance(value, dict):
        items = [(str(name), inner) for name, inner in value.items()]
    elif isinstance(value, list) and any(isinstance(inner, dict | list) for inner in value):
        items = [(record_name(inner, str(n)), inner) for n, inner in enumerate(value)]
    else:
        return {} if value is None or value == [] else {path: value}
    values: dict[str, Any] = {}
    for name, inner in items:
        values |= flattened(inner, f"{path}/{name}" if path else name)
    return values


def record_name(record: Any, default: str) -> str:
    first = next(iter(record.values()), None) if isinstance(record, dict) else None
    return first if isinstance(first, str) else default


def tables(job: Job, result: Results) -> dict[str, list[dict[str, Any]]]:
    """Title -> rows: test scores by labelled split, predictions, and the benchmark if any."""
    rows_of = {
        "splits": splits_table(result),
        "predictions": predictions(job),
        "bill": benchmark(result.benchmark) if result.benchmark else [],
    }
    return {title: rows for title, rows in rows_of.items() if rows}


def splits_table(result: Results) -> list[dict[str, Any]]:
    """A row for each arm and labelled split: its test score, and the failure of its training."""
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
    """A row for each of the first test images of the main arm's first labelled split.

    Images are named, not shown. Empty for tasks that do not classify images.
    """
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
    """A row for each variant of the model, with plain values only."""
    return [
        {**asdict(row), **dict(zip(("difference", "low", "high"), row.difference, strict=True))}
        for row in benchmark.rows
    ]


def images(folder: Path) -> dict[str, bytes]:
    """The pictures of a pretraining as PNGs by name."""
    from PIL import Image

    pngs = {}
    for name, x_BCHW in transfer.read_own(folder / "pictures.safetensors").items():
        buffer = io.BytesIO()
        Image.fromarray(strip(x_BCHW)).save(buffer, format="PNG")
        pngs[name] = buffer.getvalue()
    return pngs
