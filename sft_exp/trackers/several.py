"""Several independent trackers of the same metrics: `tracker=[wandb,csv]`."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sft_exp.core.tracker import About, Run, Tracker
from sft_exp.errors import require


@dataclass
class Several(Tracker):
    trackers: dict = field(default_factory=lambda: {})  # name -> tracker

    def __post_init__(self):
        parts = self.trackers.values()
        valid = "options of the group tracker: tracker=[wandb,csv]"
        require(all(isinstance(p, Tracker) for p in parts), "trackers", self.trackers, valid)

    def open(self, about: About, stop: Callable[[], None]) -> Run:
        runs = []
        for part in self.trackers.values():
            run = part.open(about, stop)
            if run.where:
                part.show(about.folder, run.where)
                runs.append(run)
        return Runs(runs)

    def shown(self, folder: Path) -> str:
        """The first tracker's address of the folder.

        It is empty until all show it, so that a tracker that is added later gets all metrics.
        """
        places = [part.shown(folder) for part in self.trackers.values()]
        return places[0] if places and all(places) else ""

    def show(self, folder: Path, where: str) -> None:
        """Nothing: each tracker has stored its own address."""


class Runs(Run):
    """The runs of several trackers, called in turn."""

    def __init__(self, runs: list[Run]):
        self.runs = runs
        self.where = runs[0].where if runs else ""

    def log(self, row: dict[str, Any]) -> None:
        for run in self.runs:
            run.log(row)

    def summary(self, values: dict[str, Any]) -> None:
        for run in self.runs:
            run.summary(values)

    def pictures(self, pngs: dict[str, bytes]) -> None:
        for run in self.runs:
            run.pictures(pngs)

    def table(self, title: str, rows: list[dict[str, Any]]) -> None:
        for run in self.runs:
            run.table(title, rows)

    def finish(self, code: int = 0) -> None:
        for run in self.runs:
            run.finish(code)
