"""compare.html: tables and pictures of a comparison in one self-contained page."""

import math
import os
from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from sft_exp.compare import findings
from sft_exp.compare.comparison import NUMBERS, SENTENCES, Comparison, Job, Row, show
from sft_exp.reports.drawing import LINES, WIDTH, Picture, png, style
from sft_exp.reports.page import Grid, pictures, table, whole
from sft_exp.training import metrics_log

SCALE = colormaps["viridis"]
RULE = "#b5b5b5"
RATES = 12  # largest number of learning rates in a heat map; more are not a grid
CURVES = len(LINES)  # largest number of trainings in a picture of curves

SCRIPT = Path(__file__).with_name("table.js")
# what the row of a job links to: the first of these that its folder has
LINKED = ("report.html", "results.json", "status.json")


def page(comparison: Comparison, title: str, folder: Path) -> str:
    """The page, as valid HTML 5.

    Args:
        comparison: the jobs.
        title: names of the sweeps.
        folder: where the page will lie, from which it links to the jobs.
    """
    parts = [
        f"<h1>Comparison of {escape(title)}</h1>",
        f'<p class="verdict">{escape(comparison.verdict())}</p>',
        table(comparison.table(), NUMBERS, SENTENCES, "interactive", links(comparison, folder)),
    ]
    parts += [f'<p class="soft">{escape(note)}</p>' for note in comparison.notes()]
    for heading, cells in (
        ("Best setting of each pretrainer, by validation", comparison.chosen()),
        ("Not done", comparison.failures()),
    ):
        if cells[1]:
            parts += [f"<h2>{heading}</h2>", grid(cells)]
    parts += found(comparison)
    if drawn := charts(comparison):
        parts += ["<h2>Pictures</h2>", drawn]
    parts.append(f"<script>{SCRIPT.read_text()}</script>")
    return whole(title, "\n".join(parts))


def links(comparison: Comparison, folder: Path) -> list[str]:
    """HTML for the first cell of each row: the names of its jobs, linked to their reports."""
    cells = []
    for row in comparison.rows:
        names = []
        for job in row.jobs:
            file = next((f for name in LINKED if (f := job.folder / name).exists()), None)
            name = escape(job.name)
            if file is not None:
                address = quote(Path(os.path.relpath(file, folder.resolve())).as_posix())
                name = f'<a href="{address}">{name}</a>'
            names.append(name)
        cells.append(", ".join(names))
    return cells


def found(comparison: Comparison) -> list[str]:
    """What the sweep found (`findings`), as HTML."""
    parts = []
    for section in findings.sections(comparison):
        parts.append(f"<h2>{escape(section.title)}</h2>")
        if section.table[1]:
            parts.append(table(section.table, findings.NUMBERS, (*SENTENCES, "verdict")))
        parts += [f'<p class="soft">{escape(sentence)}</p>' for sentence in section.sentences]
    return parts


def charts(comparison: Comparison) -> str:
    """The pictures for which the jobs have enough data, as HTML; empty if there are none."""
    with rc_context(style()):
        drawn = [
            Picture("", *about, png(figure))
            for draw, about in PICTURES.items()
            if (figure := draw(comparison))
        ]
    return pictures(drawn)


def grid(cells: Grid) -> str:
    return table(cells, NUMBERS, SENTENCES)


def heat(comparison: Comparison) -> Figure | None:
    """The validation score over learning rate and optimizer, a heat map for each pretrainer."""
    rows = [
        r
        for r in comparison.rows
        if "optim" in r.settings and isinstance(r.settings.get("optim.lr"), float | int)
    ]
    rates = sorted({r.settings["optim.lr"] for r in rows})
    if not comparison.validated or not 1 < len(rates) <= RATES:
        return None
    optims, pretrainers = distinct(rows, "optim"), distinct(rows, "pretrainer")
    norm = Normalize(*limits([r.val for r in rows if r.val is not None]))
    panels = grid_of(len(pretrainers), 0.75 + 0.36 * len(optims))
    for axes, pretrainer in zip(panels, pretrainers, strict=True):
        axes.set(xlim=(-0.5, len(rates) - 0.5), ylim=(len(optims) - 0.5, -0.5))
        for y, optim in enumerate(optims):
            for x, rate in enumerate(rates):
                here = {"pretrainer": pretrainer, "optim": optim, "optim.lr": rate}
                cell(
                    axes,
                    x,
                    y,
                    [r for r in rows if all(r.settings.get(k) == v for k, v in here.items())],
                    norm,
                )
        axes.set_xticks(range(len(rates)), [f"{r:g}" for r in rates])
        axes.set_yticks(range(len(optims)), optims)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.set_title(pretrainer)
    panels[-1].set_xlabel("learning rate")
    return figure_of(panels)


def cell(axes: Axes, x: int, y: int, rows: list[Row], norm: Normalize) -> None:
    """Draw one square of a heat map: the first row, which is the best; nothing without rows."""
    if not rows:
        return
    val = rows[0].val
    height = None if val is None else float(norm(val))
    axes.add_patch(
        Rectangle(
            (x - 0.48, y - 0.46),
            0.96,
            0.92,
            facecolor="#eeeeee" if height is None else SCALE(height),
        )
    )
    text = rows[0].jobs[0].state if val is None else f"{100 * val:.1f}"
    axes.text(
        x,
        y,
        text,
        ha="center",
        va="center",
        size=8,
        color="white" if height is not None and height < 0.6 else "black",
    )


def parallel(comparison: Comparison) -> Figure | None:
    """Parallel coordinates: one line a job over the settings that differ and the validation score,
    which is also its colour; the best job is on top."""
    jobs = sorted(
        (j for r in comparison.rows for j in r.done if j.val is not None),
        key=lambda j: j.val or 0.0,
    )
    keys = [*comparison.keys, *(["seed"] if comparison.seeds else [])]
    if len(jobs) < 2 or not keys:
        return None
    norm = Normalize(*limits([j.val for j in jobs if j.val is not None]))
    (axes,) = grid_of(1, 3.8)
    columns: list[list[float]] = []
    for x, key in enumerate(keys):
        heights, ticks = placed([j.settings.get(key) for j in jobs])
        columns.append(heights)
        axes.axvline(x, color=RULE, linewidth=1, zorder=1)
        for text, y in ticks:
            frame = {
                "boxstyle": "square,pad=0.1",
                "facecolor": "white",
                "edgecolor": "none",
                "alpha": 0.75,
            }
            axes.annotate(
                text,
                (x, y),
                (3, 0),
                textcoords="offset points",
                va="center",
                size=8,
                zorder=4,
                bbox=frame,
            )
    columns.append([float(norm(j.val or 0.0)) for j in jobs])
    for line in zip(*columns, strict=True):
        axes.plot(
            range(len(keys) + 1),
            line,
            color=SCALE(line[-1]),
            linewidth=1.4,
            alpha=0.8,
            zorder=2,
            clip_on=False,
        )
    axes.set(xlim=(-0.1, len(keys)), ylim=(0, 1), yticks=[])
    axes.set_xticks(
        range(len(keys)), [comparison.names[k] for k in keys], rotation=20 if len(keys) > 4 else 0
    )
    axes.tick_params(length=0, pad=8)
    axes.spines[:].set_visible(False)
    figure = figure_of([axes])
    bar = figure.colorbar(
        ScalarMappable(norm, SCALE), ax=axes, pad=0, aspect=30, format=lambda v, _: f"{100 * v:.4g}"
    )
    bar.set_label(f"validation {comparison.score_name} (%)")
    bar.outline.set_visible(False)
    return figure


def placed(values: list[Any]) -> tuple[list[float], list[tuple[str, float]]]:
    """Heights in [0, 1] of the values on their axis, and its ticks.

    Numbers are placed to scale, on a logarithmic one if they span a decade; texts are evenly spaced.
    """
    if all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
        logarithmic = min(values) > 0 and max(values) / min(values) >= 10
        at = {v: math.log(v) if logarithmic else float(v) for v in sorted(set(values))}
    else:
        values = [show(v) or "null" for v in values]
        at = {v: float(n) for n, v in enumerate(sorted(set(values), reverse=True))}
    low, high = min(at.values()), max(at.values())
    height = {v: (a - low) / (high - low) if high > low else 0.5 for v, a in at.items()}
    ticks = list(height) if len(height) <= 12 else [min(height), max(height)]
    return [height[v] for v in values], [(show(v), height[v]) for v in ticks]


def finetuning(comparison: Comparison) -> Figure | None:
    trained = records(comparison, "finetune")
    return losses(comparison, {"": trained}) if trained else None


def pretraining(comparison: Comparison) -> Figure | None:
    """A panel for each pretrainer, because losses of different pretrainers cannot be compared."""
    panels: dict[str, dict[Path, list[Job]]] = {}
    for folder, jobs in records(comparison, "pretrain").items():
        panels.setdefault(str(jobs[0].settings.get("pretrainer")), {})[folder] = jobs
    return losses(comparison, panels) if panels else None


def records(comparison: Comparison, stage: str) -> dict[Path, list[Job]]:
    """Folders of a stage with a training log, and the jobs that share them.

    They are those of the first seed and draw of the best rows.
    """
    jobs: dict[Path, list[Job]] = {}
    for job in (row.done[0] for row in comparison.rows if row.done):
        folder = located(job, stage)
        if folder and (folder in jobs or (len(jobs) < CURVES and metrics_log.read(folder))):
            jobs.setdefault(folder, []).append(job)
    return jobs


def losses(comparison: Comparison, panels: dict[str, dict[Path, list[Job]]]) -> Figure:
    """All losses of the training logs over the steps, with the panels below each other."""
    axes_of = grid_of(len(panels), 2.4 if len(panels) > 1 else 3.8)
    figure = figure_of(axes_of)
    for axes, (title, trained) in zip(axes_of, panels.items(), strict=True):
        drawn: list[float] = []
        names: dict[str, None] = {}
        for (folder, jobs), colour in zip(trained.items(), LINES, strict=False):
            rows = metrics_log.read(folder)
            for name, dash in zip(
                (n for n in rows[-1] if n.endswith("loss")), ("-", "--", ":"), strict=False
            ):
                steps, values = metrics_log.column(rows, name)
                axes.plot(
                    steps,
                    values,
                    dash,
                    color=colour,
                    linewidth=1.4,
                    label=common(comparison, jobs) if dash == "-" else None,
                )
                drawn += values
                names[name.replace("_", " ")] = None
        if min(drawn, default=0) > 0 and max(drawn) > 100 * min(drawn):
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_formatter("")
        axes.set_title(title)
        axes.set_ylabel("\ndashed: ".join(names))
        axes.grid(axis="y")
        if len(panels) > 1 and len(trained) > 1:
            axes.legend()
    if len(panels) == 1:
        figure.legend(loc="outside lower center", ncols=2)
    axes_of[-1].set_xlabel("step")
    return figure


def located(job: Job, stage: str) -> Path | None:
    """A stage's folder, whose path in results.json is relative to the folder where the run started:
    the current one, or a parent of the run's."""
    done = job.result.stages.present().get(stage) if job.result else None
    if done is None:
        return None
    places = (root / done.folder for root in (Path(), *job.folder.parents))
    return next((place for place in places if place.is_dir()), None)


def common(comparison: Comparison, jobs: list[Job]) -> str:
    """The settings that the jobs share, of those that differ in the sweep."""
    keys = [k for k in comparison.keys if len({repr(j.settings.get(k)) for j in jobs}) == 1]
    return " ".join(show(jobs[0].settings.get(k)) for k in keys) or "all jobs"


def grid_of(rows: int, height: float) -> list[Axes]:
    """Axes of the standard width below each other, each of this height."""
    return list(Figure((WIDTH, 0.4 + rows * height)).subplots(rows, squeeze=False)[:, 0])


def figure_of(axes: list[Axes]) -> Figure:
    figure = axes[0].figure
    assert isinstance(figure, Figure)
    return figure


def distinct(rows: list[Row], key: str) -> list[str]:
    return sorted({str(r.settings.get(key)) for r in rows})


def limits(values: list[float]) -> tuple[float, float]:
    """The ends of a colour scale, which always differ."""
    low, high = min(values), max(values)
    return (low, high) if high > low else (low - 0.005, high + 0.005)


PICTURES: dict[Callable[[Comparison], Figure | None], tuple[str, str]] = {
    heat: (
        "Learning rate and optimizer",
        "Validation score (%), mean over seeds; the best over all other settings.",
    ),
    parallel: (
        "One line a job",
        "The settings that differ between the jobs, from left to right, and the validation score.",
    ),
    finetuning: (
        "Fine-tuning loss",
        f"At most the best {CURVES} rows, each with its first seed and label draw.",
    ),
    pretraining: (
        "Pretraining loss",
        "Pretrainings that the rows above began from. Losses of different pretrainers differ.",
    ),
}
