"""A comparison for use from Python: notebooks show it, and it converts to a data frame."""

import csv
import io
from collections.abc import Iterable
from glob import glob, has_magic
from html import escape
from pathlib import Path
from typing import Any

from sft_exp.compare import charts, page
from sft_exp.compare.comparison import Comparison, collect

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
        parts = [f"<p><strong>{escape(self.verdict())}</strong></p>", page.grid(self.table())]
        parts += page.found(self)
        parts += [f"<p>{escape(note)}</p>" for note in self.notes()]
        tables = charts.shown_first(self)
        parts += [
            f"<h3>{escape(chart.title)}</h3>{charts.svg(chart, tables, WIDTH)}"
            for chart in charts.charts(self)
        ]
        return "\n".join(parts)


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
