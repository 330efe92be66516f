"""A study: a question, the sweep that answers it, and what is concluded from the sweep's results.

`python -m sft_exp study=label_efficiency` is a multirun whose grid the study lays out itself. Its jobs are jobs like any
others, so they are cached, resumed and compared like any others.
"""

import json
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from html import escape
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, ClassVar

from rich.console import Console

from sft_exp.compare import comparison
from sft_exp.errors import ConfigError, require
from sft_exp.reports import page
from sft_exp.reports.drawing import Picture
from sft_exp.reports.page import Grid
from sft_exp.reports.terminal_table import fitted
from sft_exp.runs.results import is_proportion
from sft_exp.store import atomic_io
from sft_exp.verdict import Archive, Report, Setting, from_folder, frozen
from sft_exp.verdict.sequential import Look

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

    budget: str | None = None  # computing time after which no further look is begun: 90s, 30min, 2h
    # earlier studies whose spread counts too: frozen (the package's), none, or a folder of them
    archive: str = "frozen"

    def __post_init__(self) -> None:
        known = self.archive in ("frozen", "none") or Path(self.archive).is_dir()
        valid = "frozen, none, or a folder that holds finished studies (study.json files)"
        require(known, "archive", self.archive, valid)
        if self.budget is not None:
            seconds_of(self.budget)

    def jobs(self, corpus: "Corpus", base: "Experiment") -> list[list[str]]:
        """The overrides of each job, which the study adds to the base experiment. Empty where a sweeper chooses among
        `grid`. ConfigError for what the data set cannot give."""
        return []

    def looks(self, corpus: "Corpus", base: "Experiment") -> list[list[tuple[str, list[str]]]]:
        """Of a study that goes on until it is decided, the jobs of each look: (the comparison that a job belongs to, overrides).
        Empty for a study whose design is fixed."""
        return []

    def look(
        self, jobs: list[comparison.Job], history: Sequence[Look], design: tuple[int, int]
    ) -> Look:
        """Judge the study as it is at a look's seeds and draws, given the looks before."""
        raise NotImplementedError

    def grid(self) -> dict[str, str]:
        """Key -> comma-separated values that a sweeper chooses among."""
        return {}

    def conclude(self, jobs: list[comparison.Job], looks: Sequence[Look] = ()) -> Conclusion:
        """Only from results of jobs that are done; what is missing is named in the notes. `looks` are those taken, where the
        study went on until it was decided."""
        raise NotImplementedError


# in the sweep's folder: the looks taken, and the alpha that each has spent
LOOKS_FILE = "looks.json"
UNITS = {"s": 1.0, "min": 60.0, "h": 3600.0}


def looks_in(folder: Path) -> list[Look]:
    """The looks taken in a sweep's folder, the first one first."""
    file = folder / LOOKS_FILE
    return [Look.read(record) for record in json.loads(file.read_text())] if file.is_file() else []


def seconds_of(budget: str) -> float:
    """Seconds of a budget such as 90s, 30min or 2.5h.

    Raises:
        ConfigError: it is none.
    """
    read = re.fullmatch(r"(\d+\.?\d*)(s|min|h)", budget)
    if not read:
        raise ConfigError("budget", budget, "must be a time such as 90s, 30min or 2h")
    return float(read[1]) * UNITS[read[2]]


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
    return Setting(
        tested=jobs[0].outcome.data.test,
        ratio=fmean(j.outcome.data.ratio for j in jobs),
        score=jobs[0].score_name,
        proportion=is_proportion(jobs[0].score),
        points=True,
        margin=margin,
    )


def dataset_of(jobs: list[comparison.Job]) -> str:
    """The data set's name, by which its own results are left out of the archive."""
    return str(jobs[0].outcome.data.name or jobs[0].settings.get("dataset"))


def stated(report: Report[Any], jobs: list[comparison.Job]) -> dict[str, Any]:
    """What study.json says of its judgement, for the checker and for archives that are made of it."""
    tested = jobs[0].outcome.data.test
    return {"dataset": dataset_of(jobs), "tested": tested, "judgement": report.record()}


def cost(jobs: list[comparison.Job]) -> float:
    """Seconds of the stages' computing, each folder once."""
    stages = (s for j in jobs for s in j.outcome.stages.present().values())
    return sum({stage.folder: stage.seconds for stage in stages}.values())


def finish(study: Study, folder: Path, command: str) -> None:
    """Concludes, writes study.html, study.md, study.json and the pictures into the sweep's folder, and tells it."""
    jobs = comparison.collect([folder])
    found = study.conclude([j for j in jobs if j.result], looks_in(folder))
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
    words = [name for name in found.table[0] if name not in found.numbers]
    screen.print(found.title, style="bold")
    screen.print(fitted(found.table, screen, found.numbers, words))
    for sentence in found.sentences:
        screen.print(sentence, soft_wrap=whole)
    if found.command:
        # a command that is broken over lines cannot be copied
        screen.print(f"Run it: {found.command}", soft_wrap=True)
    for note in found.notes:
        screen.print(note, style="dim", soft_wrap=whole)
