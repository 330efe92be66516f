"""The mirror: what a stage writes to metrics.jsonl, also in a tracker. The disk is the record; a tracker may fail."""

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
    """Files of a finished store folder, which runs make and use: data manifest -> pretrained encoder -> fine-tuned model."""

    name: str  # of all its versions, e.g. encoder-vae-digits; the folder's name says which one
    kind: str  # dataset or model
    folder: Path
    files: tuple[str, ...]
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class About:
    """What a tracker is told of a run when it begins."""

    kind: str  # pretrain or finetune
    # in the store, finished or to be; its name is the run's identity, so that a killed one is
    # continued
    folder: Path
    name: str
    tags: list[str]
    config: dict[str, Any]  # as resolved, nested, with the options taken under `choices`
    uses: list[Artifact] = field(default_factory=list)
    makes: list[Artifact] = field(default_factory=list)  # in the folder, when it is finished


class Logged:
    """Which scalars a run has by now, so that a record may be logged again from its beginning."""

    def __init__(self, step: int = -1):
        """`step`: the newest one that the run has, with all its scalars."""
        self.step, self.names = step, set[str]()
        self.complete = True

    def new(self, row: dict[str, Any]) -> dict[str, Any]:
        """What of the row the run does not have; nothing for a step before the newest one."""
        if row["step"] < self.step or (row["step"] == self.step and self.complete):
            return {}
        if row["step"] > self.step:
            self.step, self.names, self.complete = row["step"], set(), False
        found = {name: value for name, value in row.items() if name not in self.names}
        self.names |= found.keys()
        return found


class Run:
    """One run of a tracker; this one keeps nothing."""

    where: str = ""  # where a person finds it: an address or a folder

    def log(self, row: dict[str, Any]) -> None:
        """Scalars of the step `row["step"]`. Rows of the same step are merged, and what the run has already is passed
        over, so whoever continues a training logs its whole record again."""

    def summary(self, values: dict[str, Any]) -> None:
        """Final numbers, lists of numbers, and words. They stand as given: no scalar that is logged replaces them."""

    def pictures(self, pngs: dict[str, bytes]) -> None:
        """PNG images by title."""

    def table(self, title: str, rows: list[dict[str, Any]]) -> None:
        """Rows of the same columns: numbers and words."""

    def finish(self, code: int = 0) -> None:
        """No more will come. `code` is the job's exit code; with 0 the folder is finished, and what it makes is there."""


@dataclass
class Tracker:
    """Where runs are mirrored."""

    def open(self, about: About, stop: Callable[[], None]) -> Run:
        """A new run, or the one of the same folder continued. Never raises, never asks, and never waits long.

        Calls `stop`, from any thread, if somebody asks the tracker to stop the run.
        """
        return Run()

    def shown(self, folder: Path) -> str:
        """Where this tracker shows a store folder; empty if it never has."""
        try:
            return str(json.loads(self.link(folder).read_text())["shown"])
        except (OSError, ValueError, KeyError):
            return ""

    def show(self, folder: Path, where: str) -> None:
        with suppress(StorageError):  # a store that others may only read
            atomic_io.write_json(self.link(folder), {"shown": where})

    def link(self, folder: Path) -> Path:
        return folder.parent / "links" / f"{folder.name}.{type(self).__name__.lower()}.json"
