"""compare.html: tables and charts of a comparison in one self-contained page."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from sft_exp.compare import charts, findings
from sft_exp.compare.charts import Chart
from sft_exp.compare.comparison import NUMBERS, SENTENCES, Comparison, Job
from sft_exp.reports.page import Grid, part, table, whole

if TYPE_CHECKING:
    from markupsafe import Markup

SCRIPTS = [Path(__file__).with_name(name) for name in ("table.js", "charts.js")]
# what the row of a job links to: the first of these that its folder has
LINKED = ("report.html", "results.json", "status.json")


def page(comparison: Comparison, title: str, folder: Path) -> str:
    """The page, as valid HTML 5.

    Args:
        comparison: the jobs.
        title: names of the sweeps.
        folder: where the page will lie, from which it links to the jobs.
    """
    drawn = charts.charts(comparison)
    scripts = [script.read_text() for script in SCRIPTS]
    body = part(
        "compare/compare.html",
        title=title,
        verdict=findings.summary(comparison),
        jobs=table(
            comparison.table(), NUMBERS, SENTENCES, "interactive", links(comparison, folder)
        ),
        notes=comparison.notes(),
        charts=drawn,
        tables=[
            ("Best setting of each pretrainer, by validation", comparison.chosen()),
            ("Not done", comparison.failures()),
        ],
        numbers=NUMBERS,
        sentences=SENTENCES,
        found=found(comparison),
        known=known(comparison, drawn, folder) if drawn else None,
        scripts=[charts.library(), *scripts] if drawn else scripts,
    )
    return whole(title, body, kind="dashboard")


def known(comparison: Comparison, drawn: list[Chart], folder: Path) -> dict[str, Any]:
    """What the page's scripts read: rows, charts and colours."""
    data = charts.data(comparison)
    jobs = [job for row in comparison.rows for job in row.jobs]
    for record, job in zip(data["jobs"], jobs, strict=True):
        record["link"] = address(job, folder)
    data["specs"] = {chart.name: chart.spec for chart in drawn}
    data["themes"] = {name: charts.theme(name) for name in ("light", "dark")}
    return data


def links(comparison: Comparison, folder: Path) -> list["Markup"]:
    """HTML for the first cell of each row: the names of its jobs, linked to their reports."""
    from markupsafe import Markup, escape

    cells = []
    for row in comparison.rows:
        places = [(job.name, address(job, folder)) for job in row.jobs]
        names = [
            escape(name) if to is None else Markup('<a href="{}">{}</a>').format(to, name)
            for name, to in places
        ]
        cells.append(Markup(", ").join(names))
    return cells


def address(job: Job, folder: Path) -> str | None:
    """The job's report, or what there is of it, as seen from a folder; None if there is nothing."""
    file = next((f for name in LINKED if (f := job.folder / name).exists()), None)
    if file is None:
        return None
    return quote(Path(os.path.relpath(file, folder.resolve())).as_posix())


def found(comparison: Comparison) -> "Markup":
    """What the sweep found (`findings`), as HTML."""
    return part(
        "compare/findings.html",
        sections=findings.sections(comparison),
        numbers=findings.NUMBERS,
        sentences=(*SENTENCES, "verdict"),
    )


def grid(cells: Grid) -> "Markup":
    return table(cells, NUMBERS, SENTENCES)
