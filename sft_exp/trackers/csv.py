"""Tracker that writes CSV files: `outputs/csv/<run>/metrics.csv` and `summary.csv`."""

import io
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sft_exp.core.tracker import About, Run, Tracker
from sft_exp.data.tables import Writer
from sft_exp.errors import StorageError
from sft_exp.progress import console
from sft_exp.store import atomic_io

SECONDS = 5.0  # between two writes of a growing file


@dataclass
class Csv(Tracker):
    dir: str | None = None  # folder of csv/; null: the sweep's folder, or outputs
    images: bool = True  # write pictures; false keeps private images out

    def open(self, about: About, stop: Callable[[], None]) -> Run:
        folder = Path(self.dir or "outputs") / "csv" / about.folder.name
        try:
            atomic_io.remove(folder)  # a resumed training logs all its metrics again
            return Tables(folder, about, self.images)
        except StorageError as error:
            console.print(f"tracker=csv: {error}; going on without it", markup=False)
            return Run()


class Tables(Run):
    """The files of one run. Each is replaced as a whole, so that readers find complete lines."""

    def __init__(self, folder: Path, about: About, images: bool):
        self.folder, self.images, self.where = folder, images, str(folder)
        self.rows: dict[int, dict[str, Any]] = {}  # step -> its scalars
        self.written = time.monotonic()
        about_run = {"kind": about.kind, "name": about.name, "tags": ",".join(about.tags)}
        self.write("about", [about_run])

    def log(self, row: dict[str, Any]) -> None:
        self.rows.setdefault(row["step"], {}).update(row)
        if time.monotonic() - self.written > SECONDS:
            self.flush()

    def flush(self) -> None:
        self.written = time.monotonic()
        if self.rows:
            self.write("metrics", [self.rows[step] for step in sorted(self.rows)])

    def summary(self, values: dict[str, Any]) -> None:
        self.write("summary", [{"name": name, "value": value} for name, value in values.items()])

    def pictures(self, pngs: dict[str, bytes]) -> None:
        with suppress(StorageError):
            for title, png in pngs.items() if self.images else ():
                atomic_io.write(self.folder / "pictures" / f"{title}.png", png)

    def table(self, title: str, rows: list[dict[str, Any]]) -> None:
        self.write(title, rows)

    def finish(self, code: int = 0) -> None:
        self.flush()

    def write(self, name: str, rows: list[dict[str, Any]]) -> None:
        with suppress(StorageError):  # the metrics are in the store anyway
            atomic_io.write(self.folder / f"{name}.csv", text_of(rows))


def text_of(rows: Iterable[dict[str, Any]]) -> str:
    """Rows as CSV, with a column for each key that any of them has."""
    rows = list(rows)
    text = io.StringIO()
    columns = dict.fromkeys(key for row in rows for key in row)
    writer = Writer(text)
    writer.writerow(columns)
    writer.writerows([row.get(key, "") for key in columns] for row in rows)
    return text.getvalue()
