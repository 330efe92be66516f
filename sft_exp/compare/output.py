"""A comparison written as compare.csv and compare.html, and printed on the terminal."""

import sys
from pathlib import Path

from rich.console import Console

from sft_exp.compare.comparison import NUMBERS, SENTENCES, Comparison, collect
from sft_exp.reports.terminal_table import fitted
from sft_exp.store import atomic_io


def write(found: Comparison, folder: Path, title: str) -> None:
    """compare.csv and compare.html into the folder."""
    from sft_exp.compare import page

    atomic_io.write(folder / "compare.csv", found.csv())
    atomic_io.write(folder / "compare.html", page.page(found, title))


def print_comparison(found: Comparison) -> None:
    """The tables on the terminal; what reads a pipe gets whole lines."""
    screen = Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else 1000)
    tables = {
        "": found.table(),
        "Best setting of each pretrainer, by validation": found.chosen(),
        "Not done": found.failures(),
    }
    for title, (head, body) in tables.items():
        if body:
            if title:
                screen.print(title, style="bold")
            settings = [found.names[key] for key in found.keys]
            sentences = (*SENTENCES, "verdict", "state", "")
            screen.print(fitted((head, body), screen, NUMBERS, sentences, settings))
    for note in found.notes():
        screen.print(note, style="dim")
    screen.print(found.count())


def finish(folder: Path) -> int:
    """The end of a sweep: its table on the terminal and in compare.csv and compare.html; how many jobs are not done."""
    found = Comparison(collect([folder]))
    write(found, folder, folder.name)
    print_comparison(found)
    print(folder / "compare.html")
    return len(found.undone)
