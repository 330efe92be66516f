"""A study: a question, the sweep that answers it, and what is concluded from the sweep's results.

`python -m sft_exp study=label_efficiency` is a multirun whose grid the study lays out itself. Its jobs are jobs like any
others, so they are cached, resumed and compared like any others.
"""

import sys
from dataclasses import asdict, dataclass, field
from html import escape
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, ClassVar

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from sft_exp.compare import comparison
from sft_exp.errors import require
from sft_exp.reports import page
from sft_exp.reports.drawing import Picture
from sft_exp.reports.page import Grid
from sft_exp.runs.results import is_proportion
from sft_exp.store import atomic_io
from sft_exp.verdict import Archive, Report, Setting, from_folder, frozen

if TYPE_CHECKING:
    from sft_exp.config.schema import Experiment
    from sft_exp.data.corpus import Corpus


@dataclass
class Conclusion:
    """What a study found, ready to be read."""

    title: str
    sentences: list[str]  # the answers, most important first
    table: Grid
    # heads of the table's columns that hold numbers
    numbers: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # what must be known beside them
    pictures: list[Picture] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)  # for study.json
    files: dict[str, str] = field(default_factory=dict)  # others to write beside it: name -> text
    command: str = ""  # a complete command that is worth running next


@dataclass
class Study:
    """A question, as hyperparameters."""

    # key that the study ranges over -> where its values are given
    reserved_keys: ClassVar[dict[str, str]] = {}

    # earlier studies whose spread counts too: frozen (the package's), none, or a folder of them
    archive: str = "frozen"

    def __post_init__(self) -> None:
        known = self.archive in ("frozen", "none") or Path(self.archive).is_dir()
        valid = "frozen, none, or a folder that holds finished studies (study.json files)"
        require(known, "archive", self.archive, valid)

    def jobs(self, corpus: "Corpus", base: "Experiment") -> list[list[str]]:
        """The overrides of each job, which the study adds to the base experiment. Empty where a sweeper chooses among
        `grid`. ConfigError for what the data set cannot give."""
        return []

    def grid(self) -> dict[str, str]:
        """Key -> comma-separated values that a sweeper chooses among."""
        return {}

    def conclude(self, jobs: list[comparison.Job]) -> Conclusion:
        """Only from results of jobs that are done; what is missing is named in the notes."""
        raise NotImplementedError


def archive_of(name: str) -> Archive | None:
    """The archive that `study.archive` names.

    Raises:
        DataError: the folder's studies hold fewer than two comparisons.
    """
    if name == "none":
        return None
    return frozen() if name == "frozen" else from_folder(Path(name))


def setting_of(jobs: list[comparison.Job], margin: float) -> Setting:
    """What the comparisons of a study have in common, whose jobs have one data set and one task."""
    data = jobs[0].result.get("data", {})
    return Setting(
        tested=data.get("test"),
        ratio=fmean(j.result.get("data", {}).get("ratio", 0.0) for j in jobs),
        score=jobs[0].score_name,
        proportion=is_proportion(jobs[0].score),
        points=True,
        margin=margin,
    )


def dataset_of(jobs: list[comparison.Job]) -> str:
    """The data set's name, by which its own results are left out of the archive."""
    given = jobs[0].result.get("data", {}).get("name")
    return str(given or jobs[0].settings.get("dataset"))


def stated(report: Report[Any], jobs: list[comparison.Job]) -> dict[str, Any]:
    """What study.json says of its judgement, for the checker and for archives that are made of it."""
    tested = jobs[0].result.get("data", {}).get("test")
    return {"dataset": dataset_of(jobs), "tested": tested, "judgement": report.record()}


def cost(jobs: list[comparison.Job]) -> float:
    """Seconds of the stages' computing, each folder once."""
    folders = {
        s["folder"]: s["seconds"]
        for j in jobs
        for s in j.result["stages"].values()
        if "folder" in s
    }
    return sum(folders.values())


def finish(study: Study, folder: Path, command: str) -> None:
    """Concludes, writes study.html, study.md, study.json and the pictures into the sweep's folder, and tells it."""
    jobs = comparison.collect([folder])
    found = study.conclude([j for j in jobs if j.result])
    undone = [j.name for j in jobs if not j.result]
    if undone:
        found.notes.append(
            f"{len(undone)} of {len(jobs)} jobs are not done; the same command completes them."
        )
    for picture in found.pictures:
        atomic_io.write(folder / f"{picture.name}.png", picture.png)
    for name, text in found.files.items():
        atomic_io.write(folder / name, text)
    about = {
        "title": found.title,
        "study": asdict(study),
        "sentences": found.sentences,
        "notes": found.notes,
        **found.facts,
    }
    atomic_io.write_json(folder / "study.json", {**about, "command": command})
    atomic_io.write(folder / "study.html", page.whole(found.title, body(found, command)))
    atomic_io.write(folder / "study.md", markdown(found, command))
    print_conclusion(found)
    print(folder / "study.html")


def body(found: Conclusion, command: str) -> str:
    answer, *others = found.sentences
    return "\n".join(
        [
            f"<h1>{escape(found.title)}</h1>",
            f'<p class="verdict">{escape(answer)}</p>',
            *(f"<p>{escape(sentence)}</p>" for sentence in others),
            *(
                [f'<p>Run it:</p><pre class="command">{escape(found.command)}</pre>']
                if found.command
                else []
            ),
            page.table(found.table, found.numbers, ()),
            *(f'<p class="soft">{escape(note)}</p>' for note in found.notes),
            page.pictures(found.pictures),
            "<h2>Command</h2>",
            f'<pre class="command">{escape(command)}</pre>',
        ]
    )


def markdown(found: Conclusion, command: str) -> str:
    """What study.html says, for a repository's pages; the pictures are the files beside it."""
    answer, *others = found.sentences
    head, rows = found.table
    lines = [
        f"# {found.title}",
        f"**{answer}**",
        "\n".join(f"* {sentence}" for sentence in others),
        f"Run it:\n\n    {found.command}" if found.command else "",
        *(
            f"![{picture.title}]({picture.name}.png)\n\n{picture.caption}"
            for picture in found.pictures
        ),
        "\n".join(
            [
                f"| {' | '.join(head)} |",
                f"| {' | '.join('---:' if h in found.numbers else '---' for h in head)} |",
                *(f"| {' | '.join(row)} |" for row in rows),
            ]
        ),
        "\n".join(f"* {note}" for note in found.notes),
        f"    {command}",
    ]
    return "\n\n".join(filter(None, lines)) + "\n"


def print_conclusion(found: Conclusion) -> None:
    screen = Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else 1000)
    whole = not screen.is_terminal  # what reads a pipe looks for sentences
    table = Table(box=SIMPLE_HEAD)
    head, rows = found.table
    for name in head:
        table.add_column(
            name,
            justify="right" if name in found.numbers else "left",
            no_wrap=name in found.numbers,
        )
    for row in rows:
        table.add_row(*row)
    screen.print(found.title, style="bold")
    screen.print(table)
    for sentence in found.sentences:
        screen.print(sentence, soft_wrap=whole)
    if found.command:
        # a command that is broken over lines cannot be copied
        screen.print(f"Run it: {found.command}", soft_wrap=True)
    for note in found.notes:
        screen.print(note, style="dim", soft_wrap=whole)
