"""A run's report: table, verdict and pictures on the terminal and as an HTML page; and the plan
before a run."""

import json
import platform
import shlex
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from sft_exp.core.arms import LABELS_ONLY, MAIN, SCRATCH, SINGLE
from sft_exp.core.score import BALANCED, UNEQUAL, commonest
from sft_exp.data import splits
from sft_exp.errors import StorageError
from sft_exp.jobs import prepare
from sft_exp.jobs.prepare import further
from sft_exp.jobs.stage_requests import FUNCTIONS, Job
from sft_exp.progress import Screen
from sft_exp.reports import advice, classification, inputs, model_card, page, plots
from sft_exp.reports.classification import Classified, HeldOut
from sft_exp.reports.drawing import Picture, style
from sft_exp.runs import results
from sft_exp.stages import finetune, logits
from sft_exp.store import atomic_io
from sft_exp.store.listing import bytes_, folders, totals
from sft_exp.store.requests import plain
from sft_exp.store.results import Bill, Results, Stage
from sft_exp.store.store import Request, Store
from sft_exp.training import health
from sft_exp.training.context import pick

if TYPE_CHECKING:
    from markupsafe import Markup

OF = "Of the first labelled split's model, on the test images. The command evaluate scores other images likewise."
MEANING = {
    MAIN: "pretrained, then fine-tuned",
    SCRATCH: "the same model, never pretrained",
    "random_frozen": "its randomly initialised encoder, frozen, with a linear head",
    "raw_pixels": "a linear model of the pixels, in closed form",
    "raw_svm": "an RBF support-vector machine on the pixels",
    "pca_svm": "an RBF support-vector machine on principal components of the pixels",
    "raw_knn": "nearest neighbours among the pixels",
    "raw_spread": "label spreading among the pixels, unlabelled images included",
    "frozen_svm": "an RBF support-vector machine on the frozen pretrained encoder",
    "frozen_linear": "a linear model on the frozen pretrained encoder",
    "frozen_spread": "label spreading among the features of the frozen pretrained encoder, unlabelled images included",
    "scratch_long": "never pretrained, but fine-tuned on as many more images as the pretraining saw",
    LABELS_ONLY: "the same start, without the unlabelled images",
}
BILL = (
    "accuracy",
    "difference",
    "agrees",
    "size",
    "params",
    "MACs",
    "memory",
    "p50 ms",
    "p95 ms",
    "images/s",
)
PLANNED = Path("outputs/plan")  # folder of the pictures of plan=true
SCALED = ("pretrain", "search", "finetune", "validate")  # their time is proportional to their steps
# two requests of a stage that agree in these take about the same time
ALIKE = ("dataset", "method", "encoder", "task", "strategy")


def show(job: Job, result: Results, folder: Path, command: list[str]) -> None:
    """Print the table, the verdict, the notes on it, the next command and the run folder."""
    screen = Screen(highlight=False, markup=False)
    table = Table(box=SIMPLE_HEAD)
    table.add_column("")
    for head in heads(job):
        table.add_column(head, justify="right")
    for arm, cells in rows(job, result):
        table.add_row(
            advice.called(job, arm, result.faults), *cells, style="bold" if arm == MAIN else None
        )
    following, why = advice.next_command(job, result, command)
    # a pipe's reader looks for whole sentences; commands are never wrapped
    whole = not screen.is_terminal
    screen.print(title(job), style="bold", soft_wrap=whole)
    screen.print(table)
    screen.print(footing(job), style="dim", soft_wrap=whole)
    if result.benchmark:
        show_benchmark(result.benchmark, screen)
    # notes on the verdict itself are on the page
    on_page = result.judgement.notes if result.judgement else []
    notes = [note for note in advice.notes(job, result) if note not in on_page]
    for sentence in filter(None, (advice.sentence(result), *notes)):
        screen.print(sentence, soft_wrap=whole)
    screen.print(f"Next: {following}", soft_wrap=True)
    screen.print(f"      ({why})", soft_wrap=whole)
    if result.stages.export:
        screen.print(
            f"Exported: {folder / model_card.FOLDER / result.stages.export.file}",
            soft_wrap=True,
        )
    screen.print(f"Results: {folder}", soft_wrap=True)


def show_benchmark(benchmark: Bill, screen: Console) -> None:
    # each part fits a terminal of 80 columns
    for columns in (slice(0, 3), slice(3, 7), slice(7, None)):
        screen.print(benchmark_table(benchmark, columns))
    screen.print(benchmark_caption(benchmark), style="dim", soft_wrap=not screen.is_terminal)


def classified(job: Job, folder: Path) -> Classified:
    """What the logits in a store folder say of the test images, for the first labelled split's
    model."""
    first = job.arms[MAIN][0]
    known = logits.read(folder)
    held_out = HeldOut(
        known.held_out.double().numpy(),
        known.held_out_y.numpy(),
        logits.why_none(job.experiment.val),
    )
    return classification.classified(
        splits.make(job.corpus, job.labels, 0).test,
        known.test.double().numpy(),
        job.corpus.classes,
        held_out,
        probabilistic=job.requests["finetune"][first]["strategy"].probabilistic,
    )


def write(
    job: Job,
    result: Results,
    folder: Path,
    command: list[str],
    found: Classified | None = None,
) -> dict[str, Path]:
    """Write the pictures and report.html into the run folder; returns the pictures' files by
    title. `found` are the first labelled split's predictions, of a classifier."""
    pictures = plots.draw(job, result, found)
    files = {p.title: folder / f"{p.name}.png" for p in pictures}
    for picture, file in zip(pictures, files.values(), strict=True):
        atomic_io.write(file, picture.png)
    text = page.whole(title(job), body(job, result, command, pictures, found))
    atomic_io.write(folder / "report.html", text)
    return files


def movements(job: Job) -> tuple[Table, list[dict[str, Any]]]:
    """The main arm's parameter groups and their learning rates before fine-tuning, as a table and
    as JSON."""
    request = job.requests["finetune"][job.arms[MAIN][0]]
    begins, groups = finetune.groups(request, job.corpus.spec)
    rate = request["optim"].options["lr"] if request["optim"] else None
    table = Table(
        box=SIMPLE_HEAD,
        title=f"strategy={job.experiment.choices.get('strategy', '')}",
        title_justify="left",
    )
    heads = ["learning rate"] if len(begins) == 1 else [f"from {100 * b:.0f} %" for b in begins]
    for head in ("group", "parameters", *heads):
        table.add_column(head, justify="left" if head == "group" else "right")
    for g in groups:
        table.add_row(g.name, f"{g.parameters:,}", *(speed(r, rate) for r in g.rates))
    if job.experiment.strategy.closed_form:
        table.add_row("head", "", "solved")
    return table, [
        {"group": g.name, "parameters": g.parameters, "from": begins, "rates": g.rates}
        for g in groups
    ]


def speed(share: float | None, rate: float | Path | None) -> str:
    """`frozen`, the learning rate, or a multiple of the rate that another stage will find."""
    if share is None:
        return "frozen"
    return f"{share * rate:.3g}" if isinstance(rate, float) else f"{share:.3g} x lr"


def title(job: Job) -> str:
    e = job.experiment
    what = " ".join(
        f"{group}={e.choices[group]}"
        for group in ("pretrainer", "encoder", "strategy", "optim", "dataset")
    )
    return f"{e.name}: {what}" if e.name else what


def footing(job: Job) -> str:
    """The footnote of every table: what its numbers are, and departures from the standard
    protocol."""
    e = job.experiment
    scores = "accuracies" if e.score == "accuracy" else prepare.columns(e)[e.score]
    draws = f"mean over {e.draws} draws, sd of their {scores}" if e.draws > 1 else "one draw"
    lines = ["; ".join(filter(None, [f"Test, %, {draws}", about_scores(job)]))]
    lines += [f"val=full: {advice.OUTSIDE}"] if e.val == "full" else []
    lines += [advice.TRANSDUCTIVE] if e.protocol.transductive else []
    return "\n".join(lines)


def about_scores(job: Job) -> str:
    """What the columns are, and why the first is balanced accuracy if it is."""
    e, data = job.experiment, job.corpus
    if e.score != BALANCED:
        return e.task.footing
    splits = {"training": data.train, "test": data.tested}
    of = {name: commonest(images.y.tolist()) for name, images in splits.items()}
    which, (share, label) = max(of.items(), key=lambda item: item[1])
    why = f", because {100 * share:.0f} % of the {which} labels are {data.classes[label]}"
    return f"judged by balanced accuracy{why if share > UNEQUAL else ''}; macro precision and F1"


def columns(job: Job) -> dict[str, str]:
    """Score in results.json -> column head, for the task's scores and those of `metrics`."""
    keys = [metric.key for metric in further(job.experiment)]
    known = prepare.columns(job.experiment)
    return {**known, **{key: key for key in keys if key not in known}}


def heads(job: Job) -> list[str]:
    score, *others = columns(job).values()
    return [score, "sd", *others]


def rows(job: Job, result: Results) -> list[tuple[str, list[str]]]:
    """(arm, cells under `heads`), with `-` for scores that an arm lacks."""
    task = job.experiment.task
    score, *others = columns(job)
    result_rows = []
    for arm, scores in {MAIN: result.test, **result.controls}.items():
        cells = [
            shown(scores.get(name), name in task.raw) for name in (score, f"{score}_sd", *others)
        ]
        if len(result.draws[arm]) == 1:
            cells[1] = "-"
        result_rows.append((arm, cells))
    return result_rows


def shown(value: float | None, raw: bool) -> str:
    """A fraction in per cent; a `raw` value in its own units."""
    return "-" if value is None else f"{value:.3g}" if raw else f"{100 * value:.1f}"


def benchmark_table(benchmark: Bill, columns: slice) -> Table:
    table = Table(box=SIMPLE_HEAD)
    table.add_column("", no_wrap=True)
    for head in BILL[columns]:
        table.add_column(head, justify="right", no_wrap=True)
    for name, cells in benchmark_rows(benchmark):
        table.add_row(name, *cells[columns])
    return table


def benchmark_rows(benchmark: Bill) -> list[tuple[str, list[str]]]:
    """(form, cells under BILL)"""
    rows = []
    for n, row in enumerate(benchmark.rows):
        cells = [
            f"{100 * row.accuracy:.2f}",
            model_card.difference(row) if n else "-",
            f"{100 * row.agreement:.1f}" if n else "-",
            bytes_(row.bytes),
            counted(row.parameters),
            counted(row.macs),
            bytes_(row.memory),
            f"{1000 * row.latency_p50:.3g}",
            f"{1000 * row.latency_p95:.3g}",
            f"{row.throughput:,.0f}",
        ]
        rows.append((row.form, cells))
    return rows


def benchmark_caption(benchmark: Bill) -> str:
    return (
        "Test accuracy, %; its difference from the original, points, with a 95 % interval over this one model's "
        f"{benchmark.images:,} test images; images with the same prediction, %. "
        f"ONNX Runtime, one thread of {benchmark.machine}, runs of the forms interleaved; "
        "memory: what loading it and a batch of 64 add to a process; p50, p95: of one image; images/s: of 64"
    )


def counted(n: float) -> str:
    """`1.2 M`"""
    for unit in ("", " k", " M"):
        if n < 1000:
            return f"{n:.3g}{unit}"
        n /= 1000
    return f"{n:.3g} G"


def body(
    job: Job,
    result: Results,
    command: list[str],
    pictures: list[Picture],
    found: Classified | None = None,
) -> "Markup":
    """The HTML body of report.html; `found` are the first labelled split's predictions."""
    e, notes = job.experiment, advice.notes(job, result)
    following, why = advice.next_command(job, result, command)
    verdict = advice.sentence(result) or notes.pop(0)
    data, outside = result.data, f"; {advice.OUTSIDE}" if e.val == "full" else ""
    facts = {
        "Data": f"{job.corpus.name}: {data.train:,} training images, {data.labelled:,} of them labelled "
        f"({job.labels}), {unlabelled(job)}{data.test:,} test images, {len(job.corpus.classes)} classes",
        "Manifest": f"{data.manifest} (SHA-256, training), {data.test_manifest} (test)",
        "Protocol": f"{job.labels}, draws={e.draws}, {advice.VALIDATION[e.val]}. {results.design(job)}",
        "Weights": advice.weights(result),
        "Pretraining": advice.pretraining(job),
        "Validation": "none"
        if result.validated is None
        else f"{100 * result.validated:.1f} % on {data.val:,} images{outside}",
        "Stages": ", ".join(stage_facts(*item) for item in result.stages.present().items()),
        "Command": shlex.join(command),
        "Environment": environment(job),
    }
    return page.part(
        "reports/report.html",
        title=title(job),
        verdict=verdict,
        notes=notes,
        footing=footing(job).split("\n"),
        heads=heads(job),
        arms=arm_rows(job, result),
        benchmark=benchmark_part(result.benchmark) if result.benchmark else None,
        following=following,
        why=why,
        drawn=pictures,
        classified=classes_part(found) if found else None,
        of_classes=classification.table_of_classes(
            result.test, e.task.of(job.corpus.spec).classes, e.task.of_class
        )
        if e.task.of_class
        else None,
        numbers=classification.NUMBERS,
        facts=facts,
        config=json.dumps(result.config, indent=1),
    )


def unlabelled(job: Job) -> str:
    """`120 further images without labels, `; "" where there are none."""
    extra = job.corpus.extra
    return f"{len(extra):,} further images without labels, " if extra is not None else ""


def arm_rows(job: Job, result: Results) -> list[dict[str, Any]]:
    """The rows of the table of arms, for the template."""
    table_rows = []
    for arm, values in rows(job, result):
        why = health.said(result.faults.get(arm, []))
        what = (
            MEANING[SCRATCH]
            if arm == MAIN and advice.no_pretraining(job.experiment)
            else meaning(arm)
        )
        name = advice.called(job, arm, result.faults)
        about = f"{what}; {why}" if why else what
        table_rows.append({"main": arm == MAIN, "name": name, "about": about, "cells": values})
    return table_rows


def meaning(arm: str) -> str:
    single = f"the same, learning {arm.removeprefix(SINGLE)} only" if arm.startswith(SINGLE) else ""
    return MEANING.get(arm, single)


def benchmark_part(benchmark: Bill) -> dict[str, Any]:
    """The table of compressed forms, for the template."""
    caption = benchmark_caption(benchmark)
    return {"caption": caption, "heads": BILL, "rows": benchmark_rows(benchmark)}


def classes_part(found: Classified) -> dict[str, Any]:
    """Tables of classes, scores and mistakes, for the template."""
    return {
        "what": OF,
        "numbers": classification.NUMBERS,
        "classes": classification.classes_table(found),
        "calibration": classification.about_calibration(found),
        "scores": classification.scores_table(found),
        "mistakes": classification.mistakes_table(found, plots.MISTAKES),
    }


def stage_facts(name: str, stage: Stage) -> str:
    return f"{name} {stage.seconds:.1f} s{' (from the store)' if stage.cached else ''}"


def environment(job: Job) -> str:
    """The environment that wrote the page; stages from the store may have been computed
    elsewhere."""
    import torch

    device = pick(job.experiment.hardware.device)
    return f"torch {torch.__version__}, Python {platform.python_version()}, {torch.get_num_threads()} threads, device {device}"


def plan(jobs: list[Job], timed: Mapping[str, float] | None = None, total_of: str = "") -> None:
    """Print which stages would run, which are cached, and the expected time. Runs nothing, and writes
    nothing but a picture of images and targets for each data set.

    Args:
        jobs: the jobs.
        timed: seconds by name of the folder, where a pilot has measured them.
        total_of: a sentence about the whole.
    """
    store, known = Store(Path(jobs[0].experiment.store)), timed or {}
    table = Table(box=SIMPLE_HEAD)
    for head in ("stage", "requests", "cached", "to compute", "time"):
        table.add_column(head, justify="left" if head == "stage" else "right")
    total: list[float | None] = []
    for name in FUNCTIONS:
        requests = {folder: r for job in jobs for folder, r in job.named(name).items()}
        if not requests:
            continue
        missing = {folder: r for folder, r in requests.items() if not store.has(folder)}
        past = finished(store, name) if missing else []
        seconds = [
            known_seconds
            if (known_seconds := expected(r, past, name in SCALED)) is not None
            else known.get(folder)
            for folder, r in missing.items()
        ]
        total += seconds
        table.add_row(
            name,
            str(len(requests)),
            str(len(requests) - len(missing)),
            str(len(missing)),
            added(seconds),
        )
    table.add_section()
    table.add_row("all", "", "", str(len(total)), added(total))
    screen = Screen(highlight=False, markup=False)
    screen.print(table)
    how = "Time: what finished stages like these took, scaled by their steps"
    screen.print(f"{how}{', or some timed steps' if known else ''}.", style="dim")
    if total_of:
        screen.print(total_of, soft_wrap=True)
    used = totals(list(folders(store.root)))
    screen.print(f"Store {store.root}: {used}; {atomic_io.free(store.root)} free", style="dim")
    for file in pictured(jobs):
        screen.print(f"Images and targets as the network sees them: {file}", soft_wrap=True)
    if any(job.experiment.val == "full" for job in jobs):
        screen.print(f"val=full: {advice.OUTSIDE}", style="dim")
    if any(job.experiment.protocol.transductive for job in jobs):
        screen.print(advice.TRANSDUCTIVE, style="dim")


def pictured(jobs: list[Job]) -> list[Path]:
    """Write the network's inputs of each data set into PLANNED; returns the files.

    Without pictures of images, or where the folder cannot be written, there are none.
    """
    from matplotlib import rc_context

    one_of_each = {id(job.corpus): job for job in reversed(jobs) if job.experiment.report_images}
    files = []
    with suppress(StorageError), rc_context(style()):
        for number, job in enumerate(reversed(one_of_each.values())):
            file = PLANNED / f"inputs{f'-{number + 1}' * (number > 0)}.png"
            atomic_io.folder(PLANNED)
            atomic_io.write(file, inputs.seen(job).png)
            files.append(file)
    return files


def finished(store: Store, name: str) -> list[tuple[Any, float]]:
    """(request as JSON, seconds) of the stage's finished folders."""
    examples = []
    for seal in store.root.glob(f"{name}-*/{atomic_io.SEAL}"):
        try:
            request = json.loads((seal.parent / "request.json").read_text())
            examples.append((request, atomic_io.read_seal(seal.parent)["seconds"]))
        except (OSError, ValueError, StorageError):
            continue  # the folder is damaged or being removed
    return examples


def expected(request: Request, past: list[tuple[Any, float]], scaled: bool) -> float | None:
    """Seconds that a request will take, judged by finished ones with the same parts; None if there
    are none."""
    if not past:
        return None
    wanted, steps = kinds(plain(request)), request.get("stop") if scaled else None
    alike = [(r.get("stop"), seconds) for r, seconds in past if kinds(r) == wanted]
    if steps:
        rates = [seconds / n for n, seconds in alike if n]
        return median(rates) * steps if rates else None
    return median(seconds for _, seconds in alike) if alike else None


def kinds(request: Any) -> list[str | None]:
    return [(request.get(key) or {}).get("is") for key in ALIKE]


def added(seconds: list[float | None]) -> str:
    """`12 s`, `12 s and 3 unknown`, `unknown`"""
    known = [s for s in seconds if s is not None]
    unknown = len(seconds) - len(known)
    if unknown and not known:
        return "unknown"
    return duration(sum(known)) + (f" and {unknown} unknown" if unknown else "")


def duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
