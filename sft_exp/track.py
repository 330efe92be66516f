"""The mirror: what a stage writes to metrics.jsonl, also in a tracker. The disk is the record; a tracker may fail."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any


class Run:
    """One run of a tracker; this one keeps nothing."""

    def log(self, row: dict[str, Any]) -> None:
        """Scalars of one step."""

    def summary(self, values: dict[str, Any]) -> None:
        """Final numbers and words."""

    def pictures(self, files: dict[str, Path]) -> None:
        """PNG files by title."""

    def finish(self, failed: bool = False) -> None:
        """No more will come."""


@dataclass
class Tracker:
    """Where runs are mirrored."""

    def open(self, kind: str, identity: str, config: dict[str, Any]) -> Run:
        """A run of `kind` pretrain or finetune; the same identity continues the same run. Never raises, never asks.

        `config` is the job's resolved config, with the options taken under `choices`.
        """
        return Run()
