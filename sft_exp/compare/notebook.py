"""A comparison for use from Python: notebooks show it, and it converts to a data frame."""

import csv
import io
from collections.abc import Iterable
from glob import glob, has_magic
from pathlib import Path
from typing import Any

from sft_exp.compare import charts, findings, page
from sft_exp.compare.comparison import Comparison, collect
from sft_exp.reports.page import part

WIDTH = 640  # pixels of a chart in a notebook


class RichComparison(Comparison):
    """A comparison that a notebook shows as the tables and, as pictures, the charts of
    compare.html."""

    def to_pandas(self) -> Any:
        """One row a job, as in compare.csv: a DataFrame, or without pandas a list of dicts."""
        text = io.StringIO(self.csv())
        try:
            import pandas
        except ImportError:
            rows = csv.DictReader(text)
            return [{key: parsed(cell) for key, cell in row.items()} for row in rows]
        return pandas.read_csv(text)

    def _repr_html_(self) -> str:
        tables = charts.shown_first(self)
        drawn = [(c.title, charts.svg(c, tables, WIDTH)) for c in charts.charts(self)]
        shown = part(
            "compare/notebook.html",
            verdict=findings.summary(self),
            jobs=page.grid(self.table()),
            found=page.found(self),
            notes=self.notes(),
            charts=drawn,
        )
        return str(shown)


def parsed(cell: str) -> float | int | str | None:
    """The value of a CSV cell: a number if it is one, None if it is empty."""
    for kind in (int, float):
        try:
            return kind(cell)
        except ValueError:
            continue
    return cell or None


def compare(runs: Iterable[str | Path]) -> RichComparison:
    """Compare sweep folders and run folders; globs are allowed.

    Raises:
        DataError: a folder is neither.
    """
    folders: list[Path] = []
    for run in map(str, runs):
        matches = sorted(glob(run)) if has_magic(run) else []
        folders += map(Path, matches or [run])
    return RichComparison(collect(folders))
