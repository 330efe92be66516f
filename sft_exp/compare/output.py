"""A comparison written as compare.csv and compare.html, and printed on the terminal."""

import sys
from pathlib import Path

from sft_exp.compare import findings
from sft_exp.compare.comparison import NUMBERS, SENTENCES, Comparison, collect
from sft_exp.progress import Screen
from sft_exp.reports.terminal_table import fitted
from sft_exp.store import atomic_io

OPTIONAL = ("± test", "± val")  # columns that a narrow terminal does without


def write(comparison: Comparison, folder: Path, title: str) -> None:
    """Write compare.csv and compare.html into the folder."""
    from sft_exp.compare import page

    atomic_io.write(folder / "compare.csv", comparison.csv())
    atomic_io.write(folder / "compare.html", page.page(comparison, title, folder))


def print_comparison(comparison: Comparison) -> None:
    """Print the tables; lines are not broken in a pipe."""
    screen = Screen(highlight=False, markup=False, width=None if sys.stdout.isatty() else 1000)
    tables = {
        "": comparison.table(),
        "Best setting of each pretrainer, by validation": comparison.chosen(),
        "Not done": comparison.failures(),
    }
    for title, (head, body) in tables.items():
        if body:
            if title:
                screen.print(title, style="bold")
            settings = [comparison.names[key] for key in comparison.keys]
            sentences = (*SENTENCES, "verdict", "state", "")
            screen.print(fitted((head, body), screen, NUMBERS, sentences, settings, OPTIONAL))
    for section in findings.sections(comparison):
        screen.print(section.title, style="bold")
        if section.table[1]:
            names = [comparison.names[key] for key in comparison.keys]
            words = ("verdict", "best setting", "")
            screen.print(fitted(section.table, screen, findings.NUMBERS, words, names))
        for sentence in section.sentences:
            screen.print(sentence)
        screen.print()
    for note in comparison.notes():
        screen.print(note, style="dim")
    screen.print(findings.summary(comparison))


def finish(folder: Path) -> int:
    """End a sweep: print its table and write it to compare.csv and compare.html.

    Returns:
        The number of jobs that are not done.
    """
    sweep = Comparison(collect([folder]))
    write(sweep, folder, folder.name)
    print_comparison(sweep)
    print(folder / "compare.html")
    return len(sweep.undone)
