"""The base class of trackers, which mirror what a stage writes to metrics.jsonl.

The files on disk are the record; a tracker may fail.
"""

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sft_exp.errors import StorageError
from sft_exp.store import atomic_io


@dataclass(frozen=True)
class Artifact:
    """Files of a finished store folder that one run makes and others use: the data manifest, the
    pretrained encoder, the fine-tuned model."""

    name: str  # shared by all versions, e.g. encoder-vae-digits; the folder's name is the version
    kind: str  # dataset or model
    folder: Path
    files: tuple[str, ...]
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class About:
    """The description of a run that a tracker gets at its start."""

    kind: str  # pretrain or finetune
    # folder in the store; its name is the run's identity, so that a killed run is continued
    folder: Path
    name: str
    tags: list[str]
    config: dict[str, Any]  # resolved and nested, with the chosen options under `choices`
    uses: list[Artifact] = field(default_factory=list)
    makes: list[Artifact] = field(default_factory=list)  # in the folder of a finished run


class Logged:
    """The scalars that a run has, so that a whole record can be logged again without duplicates."""

    def __init__(self, step: int = -1):
        """`step` is the newest step of the run, with all its scalars."""
        self.step, self.names = step, set[str]()
        self.complete = True

    def new(self, row: dict[str, Any]) -> dict[str, Any]:
        """The scalars of the row that the run does not have yet."""
        if row["step"] < self.step or (row["step"] == self.step and self.complete):
            return {}
        if row["step"] > self.step:
            self.step, self.names, self.complete = row["step"], set(), False
        new = {name: value for name, value in row.items() if name not in self.names}
        self.names |= new.keys()
        return new


class Run:
    """One run of a tracker; this base class records nothing."""

    where: str = ""  # where to find it: an address or a folder

    def log(self, row: dict[str, Any]) -> None:
        """Log the scalars of the step `row["step"]`. Rows of the same step are merged, and scalars
        that the run already has are skipped, so a continued training logs its whole record
        again."""

    def summary(self, values: dict[str, Any]) -> None:
        """Set final numbers, lists of numbers, and texts. Logged scalars never replace them."""

    def pictures(self, pngs: dict[str, bytes]) -> None:
        """Log PNG images by title."""

    def table(self, title: str, rows: list[dict[str, Any]]) -> None:
        """Log a table of rows with the same columns: numbers and texts."""

    def finish(self, code: int = 0) -> None:
        """End the run. `code` is the job's exit code; with 0, the artifacts are complete."""


@dataclass
class Tracker:
    """A service or a file format to which runs are mirrored."""

    def open(self, about: About, stop: Callable[[], None]) -> Run:
        """Open a new run, or continue that of the same folder. Never raises, prompts, or waits
        long.

        Calls `stop`, from any thread, if a user stops the run in the tracker.
        """
        return Run()

    def shown(self, folder: Path) -> str:
        """The address at which this tracker shows a store folder; empty if it never has."""
        try:
            return str(json.loads(self.link(folder).read_text())["shown"])
        except (OSError, ValueError, KeyError):
            return ""

    def show(self, folder: Path, where: str) -> None:
        """Record the address at which this tracker shows a store folder."""
        with suppress(StorageError):  # a store that others may only read
            atomic_io.write_json(self.link(folder), {"shown": where})

    def link(self, folder: Path) -> Path:
        """The file with that address."""
        return folder.parent / "links" / f"{folder.name}.{type(self).__name__.lower()}.json"
