"""A comparison for use from Python: shown as tables and pictures by notebooks, and read as a data frame."""

import csv
import io
from collections.abc import Iterable
from glob import glob, has_magic
from html import escape
from pathlib import Path
from typing import Any

from sft_exp.compare import page
from sft_exp.compare.comparison import Comparison, collect


class RichComparison(Comparison):
    """A comparison that a notebook shows as compare.html does."""

    def to_pandas(self) -> Any:
        """One row a job, as in compare.csv: a DataFrame, or where pandas is not installed a list of dicts."""
        text = io.StringIO(self.csv())
        try:
            import pandas
        except ImportError:
            rows = csv.DictReader(text)
            return [{key: parsed(cell) for key, cell in row.items()} for row in rows]
        return pandas.read_csv(text)

    def _repr_html_(self) -> str:
        parts = [f"<p><strong>{escape(self.verdict())}</strong></p>", page.grid(self.table())]
        parts += [f"<p>{escape(note)}</p>" for note in self.notes()]
        return "\n".join([*parts, page.charts(self)])


def parsed(cell: str) -> float | int | str | None:
    """A cell of a CSV as the number that it is; None of an empty one."""
    for kind in (int, float):
        try:
            return kind(cell)
        except ValueError:
            continue
    return cell or None


def compare(runs: Iterable[str | Path]) -> RichComparison:
    """Compare sweep folders and run folders, also by globs. DataError for a folder that is neither."""
    folders: list[Path] = []
    for run in map(str, runs):
        folders += [Path(folder) for folder in (sorted(glob(run)) if has_magic(run) else [])] or [
            Path(run)
        ]
    return RichComparison(collect(folders))
