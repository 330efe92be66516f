"""What a person reads at the end: the table, the verdict, the pictures, one self-contained page."""

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from sft_exp.pipeline import Job

COLUMNS = ("accuracy", "precision", "recall", "f1")


def write(job: Job, result: dict[str, Any], folder: Path, command: list[str]) -> None:
    """Pictures and report.html into the run folder."""


def plan(jobs: list[Job]) -> None:
    """What would run and what is there already."""


def show(job: Job, result: dict[str, Any], folder: Path) -> None:
    """The table and the verdict, on the terminal."""
    table = Table()
    for name in ("arm", *COLUMNS):
        table.add_column(name)
    for name, scores in [("pretrained", result["test"]), *result["controls"].items()]:
        table.add_row(name, *(f"{100 * scores[k]:.1f}" for k in COLUMNS))
    screen = Console()
    screen.print(table)
    screen.print(result["verdict"].get("text", ""))
    screen.print(str(folder))
