"""The pictures of a run: scores by arm, loss curves, pretraining examples, confusion matrix,
features."""

import itertools
import json
from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from sft_exp.core.arms import LABELS_ONLY, MAIN, SCRATCH
from sft_exp.core.rng import seed_global
from sft_exp.data import splits
from sft_exp.data.images import Images
from sft_exp.jobs.stage_requests import Job
from sft_exp.models import transfer
from sft_exp.reports import advice, classification
from sft_exp.reports.classification import Classified
from sft_exp.reports.drawing import FAINT, INK, PALETTE, WIDTH, Picture, new_figure, png, style
from sft_exp.reports.inputs import inputs
from sft_exp.runs import results
from sft_exp.stages import model as models
from sft_exp.stages.pretrain import strip
from sft_exp.store.results import Results
from sft_exp.training import metrics_log
from sft_exp.verdict import WITHHELD

COLOURS = {  # of the arms on every picture: the Okabe-Ito palette, safe for colour blindness
    MAIN: "#0072B2",
    SCRATCH: "#D55E00",
    "random_frozen": "#009E73",
    "raw_pixels": "#6E6E6E",
    "raw_svm": "#C0579A",
    "pca_svm": "#A87900",
    LABELS_ONLY: "#56B4E9",
}
OTHER = "#4D4D4D"  # of arms with names of their own
OBJECTIVES = ("#0072B2", "#D55E00", "#009E73", "#C0579A")
CLASSES = (  # ten colours of arXiv:2107.02270; each class also has its name beside its points
    "#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6", "#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd",
)  # fmt: skip
NUMBERED = 20  # classes whose cells of the confusion matrix have room for a number
NAMED = 40  # classes that there is room to name
SHOWN = 6  # test images whose predictions are shown
MISTAKES = 12  # wrong predictions that are shown
SCATTERED = 2_000  # test images at most among the features


def draw(job: Job, result: Results, found: Classified | None = None) -> list[Picture]:
    """Every picture that applies to the job; `found` are the first labelled split's predictions."""
    from matplotlib import rc_context

    makers: list[Callable[[Job, Results], Picture | None]] = [
        accuracies, pretraining, monitors, finetuning, range_test, benchmark, inputs, examples, predictions, confusions,
        features,
    ]  # fmt: skip
    images = job.experiment.report_images
    if not images:
        makers = [make for make in makers if make not in SHOWING]
    with rc_context(style()):
        drawn = [picture for make in makers if (picture := make(job, result))]
        more = classification.pictures(found, MISTAKES if images else 0) if found else ()
        return [*drawn, *more]


def accuracies(job: Job, result: Results) -> Picture:
    draws = {arm: [100 * a for a in values] for arm, values in result.draws.items()}
    height = {arm: -i for i, arm in enumerate(draws)}
    figure, axes = new_figure(1.0 + 0.4 * len(draws))
    if SCRATCH in draws:
        for pair in zip(draws[MAIN], draws[SCRATCH], strict=True):
            axes.plot(pair, (height[MAIN], height[SCRATCH]), color=FAINT, linewidth=0.8, alpha=0.6)
    for arm, values in draws.items():
        axes.scatter(
            values,
            [height[arm]] * len(values),
            s=26,
            color=COLOURS.get(arm, OTHER),
            alpha=0.5,
            linewidths=0,
            zorder=2,
        )
        axes.plot(
            [fmean(values)] * 2,
            (height[arm] - 0.3, height[arm] + 0.3),
            color=COLOURS.get(arm, OTHER),
            linewidth=2.5,
        )
        place: Any = {
            "xy": (1.02, height[arm]),
            "xycoords": ("axes fraction", "data"),
            "annotation_clip": False,
        }
        axes.annotate(
            f"{fmean(values):.1f}",
            **place,
            va="center",
            weight="bold",
            color=COLOURS.get(arm, OTHER),
        )
    axes.set_yticks(
        list(height.values()), [advice.called(job, arm, result.faults) for arm in height]
    )
    axes.set_ylim(0.5 - len(draws), 0.5)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x")
    score = result.score_name
    axes.set_xlabel(f"test {score} (%)")
    seeds = f" over {job.experiment.seeds} seeds" if result.other_seeds else ""
    difference = (
        f", {100 * result.verdict.difference:+.1f} points against scratch{seeds}"
        if result.verdict and result.verdict.word != WITHHELD
        else ""
    )
    axes.set_title(f"{part(job, 'pretrainer')}: {100 * result.tested:.1f} %{difference}")
    first = ", of the first pretraining seed" if result.other_seeds else ""
    caption = (
        f"A dot is one labelled split{first}, a bar and its number their mean. "
        "Lines join the same split, pretrained and from scratch."
    )
    return Picture(result.score, f"Test {score} by arm", caption, png(figure))


def pretraining(job: Job, result: Results) -> Picture | None:
    runs = [rows for start in starts(job) if (rows := metrics_log.read(start))]
    if not runs:
        return None
    figure, axes = new_figure(3.3)
    changes = []
    objectives = job.experiment.pretrainer.objectives
    for name, colour in zip(objectives, OBJECTIVES, strict=False):
        lines = [metrics_log.column(rows, name) for rows in runs]
        for steps, values in lines:
            axes.plot(
                steps, values, color=colour, linewidth=1.3, alpha=1 if len(runs) == 1 else 0.4
            )
        steps, values = lines[0]
        if not len(steps):  # the training was too short for this objective
            continue
        if len(objectives) > 1:
            place: Any = {
                "xy": (steps[-1], values[-1]),
                "xytext": (4, 0),
                "textcoords": "offset points",
            }
            axes.annotate(name.replace("_", " "), **place, color=colour, va="center")
        changes.append(f"{name.removesuffix('_loss')} {number(values[0])} to {number(values[-1])}")
    axes.grid(axis="y")
    axes.set_xlabel("step")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_ylabel("pretraining loss of the batch")
    axes.set_title(f"{part(job, 'pretrainer')}: {', '.join(changes)}")
    caption = "Each objective on the batches it was trained on, without labels." + (
        " There is one line per fold." if len(runs) > 1 else ""
    )
    return Picture("pretraining", "Pretraining loss", caption, png(figure))


def monitors(job: Job, result: Results) -> Picture | None:
    files = [file for start in starts(job) if (file := start / metrics_log.MONITORS).exists()]
    if not files:
        return None
    baseline, *rows = [json.loads(line) for line in files[0].read_text().splitlines()]
    lines = {
        "probe": "linear probe",
        "knn": "nearest neighbours",
        "cluster_accuracy": "clusters, no label",
    }
    shown = [(name, label) for name, label in lines.items() if rows and name in rows[0]]
    if not shown:
        return None
    figure, axes = new_figure(3.3)
    for (name, label), colour in zip(shown, OBJECTIVES, strict=False):
        axes.plot(
            [r["step"] for r in rows],
            [100 * r[name] for r in rows],
            color=colour,
            marker="o",
            markersize=3,
            label=label,
        )
        axes.axhline(100 * baseline[name], color=colour, linewidth=1, linestyle=":")
    axes.grid(axis="y")
    axes.legend(fontsize=8)
    axes.set_xlabel("pretraining step")
    axes.set_ylabel("accuracy (%)")
    axes.set_title(
        f"Features use {rows[-1]['rank']:.0f} dimensions "
        f"(pixels {baseline['rank']:.0f}, at the start {rows[0]['rank']:.0f})"
    )
    caption = (
        f"Accuracy on held-out labels of one draw ({baseline['labels']}); dotted: the same from raw pixels; "
        f"step 0: the initial encoder. Dimensions: effective rank (arXiv:2210.02885)."
    )
    return Picture("monitors", "Feature quality during pretraining", caption, png(figure))


def finetuning(job: Job, result: Results) -> Picture | None:
    trained = {
        arm: lines for arm in (MAIN, SCRATCH) if arm in job.arms and (lines := losses(job, arm))
    }
    if not trained:
        return None
    figure, axes = new_figure(3.3)
    low, high = float("inf"), 0.0
    for arm, lines in trained.items():
        length = min(len(steps) for steps, _ in lines)
        steps, values = lines[0][0][:length], torch.tensor([v[:length] for _, v in lines]).numpy()
        axes.fill_between(
            steps,
            values.min(0),
            values.max(0),
            color=COLOURS.get(arm, OTHER),
            alpha=0.15,
            linewidth=0,
        )
        axes.plot(steps, values.mean(0), color=COLOURS.get(arm, OTHER), linewidth=1.6, label=arm)
        low, high = min(low, values.min().item()), max(high, values.max().item())
    if 0 < 10 * low < high:  # a decade, so that there is a number to read
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("")
    axes.grid(axis="y")
    axes.legend()
    axes.set_xlabel("step")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_ylabel("training loss (nats)")
    falling = results.falling(job)
    axes.set_title(
        "Fine-tuning: "
        + (f"still falling ({' and '.join(falling)})" if falling else "the loss no longer falls")
    )
    caption = "Mean over the labelled splits; the band reaches from the lowest to the highest."
    return Picture("finetuning", "Fine-tuning loss", caption, png(figure))


def range_test(job: Job, result: Results) -> Picture | None:
    """The range test of optim.lr=auto: the loss against the learning rate, for the main arm's first
    draw."""
    if not job.results["lr_find"]:
        return None
    test = json.loads((job.results["lr_find"][0].folder / "lr.json").read_text())
    figure, axes = new_figure(3.0)
    axes.plot(test["rates"], test["losses"], color=COLOURS[MAIN], linewidth=1.6)
    axes.axvline(test["lr"], color=INK, linewidth=1, linestyle="--")
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.grid(axis="y")
    axes.set_xlabel("learning rate")
    axes.set_ylabel("training loss (nats)")
    axes.set_title(f"The loss falls fastest at a learning rate of {test['lr']:.2g}")
    caption = "Learning-rate range test of the pretrained model, first draw: the running mean of the loss while the rate rises."
    return Picture("lr_find", "Learning-rate range test", caption, png(figure))


def examples(job: Job, result: Results) -> Picture | None:
    file = next(
        (file for start in starts(job) if (file := start / "pictures.safetensors").exists()), None
    )
    images = transfer.read_own(file) if file else {}
    if not images:
        return None
    names = sorted(images, key=lambda name: (name != "input", name))
    columns = min(10, len(images[names[0]]))
    figure, grid = new_rows(len(names), columns, images[names[0]])
    for axes, name in zip(grid, names, strict=True):
        show_strip(axes, name, strip(images[name][:columns]), cmap="gray", vmin=0, vmax=255)
    grid[0].set_title(f"What {part(job, 'pretrainer')} makes of unlabelled images")
    caption = "A column is one image of the pool; samples are drawn from the model and belong to no column."
    return Picture("examples", "Pretraining on images", caption, png(figure), photographs=True)


def new_rows(count: int, columns: int, x_BCHW: Tensor) -> tuple[Any, list[Any]]:
    """A figure of so many rows, each with so many images of this size, and the axes of each row."""
    _, _, high, wide = x_BCHW.shape
    figure, rows = new_figure(0.6 + count * high / wide * (WIDTH - 1.2) / columns, rows=count)
    return figure, rows if count > 1 else [rows]


def show_strip(axes: Any, name: str, strip_HW: Any, **shading: Any) -> None:
    """One named row of images, without ticks or frame."""
    axes.imshow(strip_HW, interpolation="nearest", **shading)
    axes.set_ylabel(name, rotation=0, ha="right", va="center")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)


@torch.no_grad()
def predictions(job: Job, result: Results) -> Picture | None:
    """Predictions on some test images of the first draw beside their targets, for tasks that can
    draw them."""
    test, cpu = splits.make(job.corpus, job.labels, 0).test, torch.device("cpu")
    model = models.load(job.results["finetune"][job.arms[MAIN][0]].folder)
    (batch,) = test.batches([torch.arange(len(test))[:: max(1, len(test) // SHOWN)][:SHOWN]], cpu)
    images = model.task.show(model.predict(batch["x"]), batch, model.spec)
    if not images:
        return None
    columns = min(SHOWN, len(batch["row"]))
    figure, grid = new_rows(len(images), columns, next(iter(images.values())))
    for axes, (name, x_BCHW) in zip(grid, images.items(), strict=True):
        show_strip(axes, name, strip((x_BCHW * 255).round().to(torch.uint8)))
    figure.suptitle(f"{part(job, 'task')}: test images")
    caption = "Some test images, evenly spaced, with the first draw's model."
    return Picture("predictions", "Predictions", caption, png(figure), photographs=True)


def confusions(job: Job, result: Results) -> Picture | None:
    if job.experiment.task.predicts != "classes":
        return None
    count = len(job.corpus.classes)
    counts_YY = torch.zeros(count, count, dtype=torch.long)
    for draw, i in enumerate(job.arms[MAIN]):
        y_N = splits.make(job.corpus, job.labels, draw).test.y
        counts_YY += torch.bincount(y_N * count + predicted(job, i), minlength=count**2).view_as(
            counts_YY
        )
    caption = "Of each true class (row), per cent by predicted class: the pretrained, fine-tuned model, all draws together."
    return confusion(counts_YY, job.corpus.classes, caption)


def confusion(counts_YY: Tensor, classes: Sequence[str], caption: str) -> Picture:
    """The confusion matrix: images by true class (row) and predicted class (column)."""
    from matplotlib.colors import PowerNorm

    names = [name[:14] for name in classes]
    share_YY = 100 * counts_YY / counts_YY.sum(1, keepdim=True).clamp_min(1)
    figure, axes = new_figure(5.2)
    # the square root makes rare confusions visible
    image = axes.imshow(share_YY.numpy(), cmap="Blues", norm=PowerNorm(0.5, 0, 100), aspect="equal")
    if len(names) <= NUMBERED:
        for i, j in share_YY.round().nonzero().tolist():
            axes.text(
                j,
                i,
                f"{share_YY[i, j]:.0f}",
                ha="center",
                va="center",
                size=8,
                color="white" if share_YY[i, j] > 35 else INK,
            )
    else:
        figure.colorbar(image, ax=axes, label="% of the true class", shrink=0.8)
    ticks = range(len(names)) if len(names) <= NAMED else []
    axes.set_xticks(
        ticks, [names[t] for t in ticks], rotation=0 if max(map(len, names)) < 4 else 90
    )
    axes.set_yticks(ticks, [names[t] for t in ticks])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    wrong_YY = share_YY.clone().fill_diagonal_(0)
    i, j = divmod(int(wrong_YY.argmax()), len(names))
    most = f"{wrong_YY[i, j]:.0f} % of class {classes[i]} taken for {classes[j]}"
    axes.set_title(f"Most frequent confusion: {most}" if wrong_YY.any() else "No confusions")
    return Picture("confusion", "Confusion matrix", caption, png(figure))


@torch.no_grad()
def features(job: Job, result: Results) -> Picture | None:
    """Principal components of the test features of the first draw's model."""
    from matplotlib.patheffects import withStroke

    if job.experiment.task.predicts != "classes":
        return None
    test: Images = splits.make(job.corpus, job.labels, 0).test
    rows = torch.arange(min(len(test), SCATTERED))
    encoder = models.load(job.results["finetune"][job.arms[MAIN][0]].folder).encoder
    batches = test.batches(rows.split(models.at_once(test)), torch.device("cpu"))
    f_ND = torch.cat([encoder(batch["x"]) for batch in batches]).flatten(1)
    y_N, wrong_N = test.y[rows].cpu(), (predicted(job, job.arms[MAIN][0]) != test.y.cpu())[rows]
    if min(f_ND.shape) < 2:
        return None
    seed_global(0, torch.device("cpu"))  # the decomposition starts at random vectors
    _, spread_Q, axes_DQ = torch.pca_lowrank(f_ND, q=min(6, *f_ND.shape), niter=4)
    xy_N2 = (f_ND - f_ND.mean(0)) @ axes_DQ[:, :2]
    first, second = (100 * spread_Q[:2].square() / (f_ND - f_ND.mean(0)).square().sum()).tolist()
    figure, axes = new_figure(4.6)
    names = job.corpus.classes
    for c in y_N.unique().tolist():
        axes.scatter(
            *xy_N2[y_N == c].T.numpy(),
            s=15,
            color=CLASSES[c % len(CLASSES)],
            alpha=0.8,
            linewidths=0,
        )
    axes.scatter(*xy_N2[wrong_N].T.numpy(), s=20, color=INK, marker="x", linewidths=0.8)
    for c in y_N.unique().tolist() if len(names) <= NAMED else ():
        middle = xy_N2[y_N == c].median(0).values.tolist()
        name = axes.text(*middle, names[c], size=12, weight="bold", ha="center", va="center")
        name.set_path_effects([withStroke(linewidth=3.5, foreground="white")])
    axes.set_xlabel(f"first principal component ({first:.0f} % of the variance)")
    axes.set_ylabel(f"second ({second:.0f} %)")
    axes.set_title(f"Features of the test images; x: {int(wrong_N.sum())} of {len(rows)} are wrong")
    caption = "Features of the first draw's fine-tuned model for test images, by true class; x: a wrong prediction."
    return Picture("features", "Features", caption, png(figure))


def starts(job: Job) -> list[Any]:
    """Folders of the main arm's pretrainings: one, or one per fold."""
    folders = (job.requests["finetune"][i]["start"] for i in job.arms[MAIN])
    return list(dict.fromkeys(folder for folder in folders if folder))


def losses(job: Job, arm: str) -> list[tuple[list[int], list[float]]]:
    """(steps, training losses) of each draw that was trained by gradient."""
    lines = [
        metrics_log.column(metrics_log.read(job.results["finetune"][i].folder), "loss")
        for i in job.arms[arm]
    ]
    return [(steps, values) for steps, values in lines if steps]


def predicted(job: Job, i: int) -> Tensor:
    """The test images' classes as predicted by fine-tuning `i`, int64 [N]."""
    file = job.results["evaluate"][i].folder / "predictions.safetensors"
    return transfer.read_own(file)["predicted"].long()


def benchmark(job: Job, result: Results) -> Picture | None:
    if result.benchmark is None:
        return None
    rows = result.benchmark.rows
    figure, axes = new_figure(3.3)
    top = 100 * rows[0].accuracy
    accuracies = [top]
    for row, colour in zip(rows, itertools.cycle((INK, *PALETTE)), strict=False):
        x, y, late = 1000 * row.latency_p50, 100 * row.accuracy, 1000 * row.latency_p95
        _, low, high = (top + 100 * d for d in row.difference)
        axes.plot([x, x], [low, high], color=colour, linewidth=1.2, alpha=0.5)
        axes.plot([x, late], [y, y], color=colour, linewidth=1.2, alpha=0.5)
        axes.scatter(
            [x],
            [y],
            s=20 + 180 * row.bytes / rows[0].bytes,
            color=colour,
            alpha=0.8,
            linewidths=0,
            zorder=2,
        )
        axes.plot([], [], "o", color=colour, label=row.form)
        accuracies += [low, high]
    axes.grid()
    # the 95th percentile of a busy machine may lie beyond
    axes.set_xlim(0, 1500 * max(row.latency_p50 for row in rows))
    figure.legend(loc="outside right center", fontsize=8.5)
    # the axis spans at least 1.2 points, so that hundredths of a point look small
    least, most = min(accuracies), max(accuracies)
    middle, half = (least + most) / 2, max(0.6, 0.65 * (most - least))
    axes.set_ylim(middle - half, middle + half)
    axes.set_xlabel("milliseconds for one image, one thread (line to the 95th percentile)")
    axes.set_ylabel("test accuracy (%)")
    axes.set_title("Accuracy against latency")
    caption = "A dot is a form of the model, sized by its file; the vertical line is the interval of its difference."
    return Picture("bill", "Accuracy against latency", caption, png(figure))


def part(job: Job, group: str) -> str:
    """The option taken in a group, as the user wrote it."""
    return job.experiment.choices.get(group, group)


def number(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


SHOWING = (inputs, examples, predictions)  # pictures that hold the user's images
