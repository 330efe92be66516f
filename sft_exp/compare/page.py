"""compare.html: tables and charts of a comparison in one self-contained page."""

import json
import os
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sft_exp.compare import charts, findings
from sft_exp.compare.charts import Chart
from sft_exp.compare.comparison import NUMBERS, SENTENCES, Comparison, Job
from sft_exp.reports.page import Grid, table, whole

SCRIPTS = [Path(__file__).with_name(name) for name in ("table.js", "charts.js")]
# what the row of a job links to: the first of these that its folder has
LINKED = ("report.html", "results.json", "status.json")
# of a chart: what the user can choose
CONTROLS = {
    "curves": (
        '<label>metric <select id="metric"></select></label>'
        '<label>smoothing <input type="range" id="smoothing" min="0" max="0.99" step="0.01" value="0">'
        '<output for="smoothing">0</output></label>'
        '<label><input type="checkbox" id="logarithmic"> logarithmic</label>'
    ),
    "scatter": (
        '<label>x <select id="x"></select></label>'
        '<label>y <select id="y"></select></label>'
        '<label>colour <select id="colour"></select></label>'
    ),
}


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
    drawn = charts.charts(comparison)
    parts += [interactive(drawn)] if drawn else []
    for heading, cells in (
        ("Best setting of each pretrainer, by validation", comparison.chosen()),
        ("Not done", comparison.failures()),
    ):
        if cells[1]:
            parts += [f"<h2>{heading}</h2>", grid(cells)]
    parts += found(comparison)
    scripts = [script.read_text() for script in SCRIPTS]
    if drawn:
        known = charts.data(comparison)
        jobs = [job for row in comparison.rows for job in row.jobs]
        for record, job in zip(known["jobs"], jobs, strict=True):
            record["link"] = address(job, folder)
        known["specs"] = {chart.name: chart.spec for chart in drawn}
        known["themes"] = {name: charts.theme(name) for name in ("light", "dark")}
        parts.append(f'<script type="application/json" id="data">{embedded(known)}</script>')
        scripts.insert(0, charts.library())
    parts += [f"<script>{script}</script>" for script in scripts]
    return whole(title, "\n".join(parts), kind="dashboard")


def embedded(content: Any) -> str:
    """JSON for a script element, which ends at the first `</script`."""
    text = json.dumps(content, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c")


def interactive(drawn: list[Chart]) -> str:
    """Places for the charts, with what the user can choose."""
    figures = [
        f'<figure><h3>{escape(chart.title)}</h3><div class="controls">{CONTROLS.get(chart.name, "")}</div>'
        f'<div class="chart" id="{chart.name}"></div><figcaption>{escape(chart.caption)}</figcaption></figure>'
        for chart in drawn
    ]
    note = "<noscript><p>The charts need JavaScript.</p></noscript>"
    return "\n".join(["<h2>Charts</h2>", note, '<div class="charts">', *figures, "</div>"])


def links(comparison: Comparison, folder: Path) -> list[str]:
    """HTML for the first cell of each row: the names of its jobs, linked to their reports."""
    cells = []
    for row in comparison.rows:
        names = []
        for job in row.jobs:
            name, to = escape(job.name), address(job, folder)
            names.append(name if to is None else f'<a href="{to}">{name}</a>')
        cells.append(", ".join(names))
    return cells


def address(job: Job, folder: Path) -> str | None:
    """The job's report, or what there is of it, as seen from a folder; None if there is nothing."""
    file = next((f for name in LINKED if (f := job.folder / name).exists()), None)
    if file is None:
        return None
    return quote(Path(os.path.relpath(file, folder.resolve())).as_posix())


def found(comparison: Comparison) -> list[str]:
    """What the sweep found (`findings`), as HTML."""
    parts = []
    for section in findings.sections(comparison):
        parts.append(f"<h2>{escape(section.title)}</h2>")
        if section.table[1]:
            parts.append(table(section.table, findings.NUMBERS, (*SENTENCES, "verdict")))
        parts += [f'<p class="soft">{escape(sentence)}</p>' for sentence in section.sentences]
    return parts


def grid(cells: Grid) -> str:
    return table(cells, NUMBERS, SENTENCES)
