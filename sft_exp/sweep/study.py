"""A study: a question, the sweep that answers it, and the conclusion from the sweep's results.

`python -m sft_exp study=label_efficiency` is a multirun whose grid the study defines. Its jobs are
jobs like any others, so they are cached, resumed and compared like any others.
"""

import json
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, ClassVar

from sft_exp.compare import comparison
from sft_exp.errors import ConfigError, require
from sft_exp.execution import ownership
from sft_exp.progress import Screen
from sft_exp.reports import page
from sft_exp.reports.drawing import Picture
from sft_exp.reports.page import Grid
from sft_exp.reports.terminal_table import fitted
from sft_exp.store import atomic_io
from sft_exp.store.results import is_proportion
from sft_exp.sweep import timed
from sft_exp.sweep.timed import Candidate, Trials
from sft_exp.verdict import Archive, Report, Setting, from_folder, frozen
from sft_exp.verdict.sequential import Look

if TYPE_CHECKING:
    from sft_exp.config.schema import Experiment
    from sft_exp.data.corpus import Corpus


@dataclass
class Conclusion:
    """The answer of a study, as its page shows it."""

    title: str
    sentences: list[str]  # the answers, most important first
    table: Grid
    # heads of the table's columns that hold numbers
    numbers: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # what a reader must know beside the answers
    pictures: list[Picture] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)  # for study.json
    files: dict[str, str] = field(default_factory=dict)  # further files to write: name -> text
    command: str = ""  # a complete command to run next
    folder: Path | None = None  # the run folder of the model that the study recommends
    # notes on single answers; the page shows them, the terminal does not
    details: list[str] = field(default_factory=list)


@dataclass
class Study:
    """The base class of studies; the fields are a study's parameters."""

    # config key that the study varies -> where its values are given
    reserved_keys: ClassVar[dict[str, str]] = {}
    # the keys among these that only a study in a given time sets
    timed_keys: ClassVar[tuple[str, ...]] = ()

    # 90s, 30min, 2h: the time in which `choose` is done, or the computing time after which
    # `label_efficiency` begins no further look; `minutes=30` is short for it
    budget: str | None = None
    # earlier studies whose spread counts too: frozen (the package's), none, or a folder of studies
    archive: str = "frozen"

    def __post_init__(self) -> None:
        known = self.archive in ("frozen", "none") or Path(self.archive).is_dir()
        valid = "frozen, none, or a folder that holds finished studies (study.json files)"
        require(known, "archive", self.archive, valid)
        if self.budget is not None:
            seconds_of(self.budget)

    def jobs(self, corpus: "Corpus", base: "Experiment") -> list[list[str]]:
        """The overrides that each job adds to the base experiment.

        The list is empty where a sweeper chooses among the values of `grid`.

        Raises:
            ConfigError: the data set cannot provide what the study needs.
        """
        return []

    def looks(self, corpus: "Corpus", base: "Experiment") -> list[list[tuple[str, list[str]]]]:
        """The jobs of each look: (the comparison that a job belongs to, its overrides).

        The list is empty for a study whose design is fixed.
        """
        return []

    def candidates(self, corpus: "Corpus", base: "Experiment") -> list[Candidate]:
        """The candidates that a study in a given time tries: cheap ones, then the most promising.

        The list is empty for a study without a time limit.
        """
        return []

    def look(
        self, jobs: list[comparison.Job], history: Sequence[Look], design: tuple[int, int]
    ) -> Look:
        """Judge the study at a look's seeds and draws, given the looks before."""
        raise NotImplementedError

    def grid(self) -> dict[str, str]:
        """Key -> comma-separated values that a sweeper chooses among."""
        return {}

    def conclude(
        self,
        jobs: list[comparison.Job],
        looks: Sequence[Look] = (),
        trials: Trials | None = None,
    ) -> Conclusion:
        """Conclude from the results of finished jobs; the notes name what is missing.

        `looks` are those taken by a study that goes on until it is decided, `trials` those of a
        study in a given time.
        """
        raise NotImplementedError


# in the sweep's folder: the looks taken, and the alpha that each spent
LOOKS_FILE = "looks.json"
UNITS = {"s": 1.0, "min": 60.0, "h": 3600.0}


def looks_in(folder: Path) -> list[Look]:
    """The looks recorded in a sweep's folder, in their order."""
    file = folder / LOOKS_FILE
    return [Look.read(record) for record in json.loads(file.read_text())] if file.is_file() else []


def seconds_of(budget: str) -> float:
    """Seconds of a budget such as 90s, 30min or 2.5h.

    Raises:
        ConfigError: the text is not a time.
    """
    match = re.fullmatch(r"(\d+\.?\d*)(s|min|h)", budget)
    if not match:
        raise ConfigError("budget", budget, "must be a time such as 90s, 30min or 2h")
    return float(match[1]) * UNITS[match[2]]


def archive_of(name: str) -> Archive | None:
    """The archive that `study.archive` names.

    Raises:
        DataError: the folder's studies hold fewer than two comparisons.
    """
    if name == "none":
        return None
    return frozen() if name == "frozen" else from_folder(Path(name))


def setting_of(jobs: list[comparison.Job], margin: float) -> Setting:
    """The setting of a study's comparisons, whose jobs have one data set and one task."""
    return Setting(
        tested=jobs[0].outcome.data.test,
        ratio=fmean(j.outcome.data.ratio for j in jobs),
        score=jobs[0].score_name,
        proportion=is_proportion(jobs[0].score),
        points=True,
        margin=margin,
    )


def dataset_of(jobs: list[comparison.Job]) -> str:
    """The name of the data set, whose own results are left out of the archive."""
    return str(jobs[0].outcome.data.name or jobs[0].settings.get("dataset"))


def judgement_record(report: Report[Any], jobs: list[comparison.Job]) -> dict[str, Any]:
    """The judgement as study.json states it, for the checker and for later archives."""
    tested = jobs[0].outcome.data.test
    return {"dataset": dataset_of(jobs), "tested": tested, "judgement": report.record()}


def labels_said(labels: str) -> str:
    """`10` -> 10 labels a class, `5%` -> 5% labels, `all` -> all labels."""
    count = "1 label" if labels == "1" else f"{labels} labels"
    return f"{count} a class" if labels.isdecimal() else count


def cost(jobs: list[comparison.Job]) -> float:
    """The computing time of all stages in seconds; a stage that several jobs share counts once."""
    stages = (s for j in jobs for s in j.outcome.stages.present().values())
    return sum({stage.folder: stage.seconds for stage in stages}.values())


def finish(study: Study, folder: Path, command: str) -> None:
    """Conclude a study from the jobs in a sweep's folder.

    The conclusion is printed, and written to study.html, study.md, study.json and pictures.
    """
    jobs = comparison.collect([folder])
    done = [job for job in jobs if job.result]
    conclusion = study.conclude(done, looks_in(folder), timed.read(folder))
    if conclusion.folder:  # the last job that ran may be a control
        atomic_io.link(ownership.LATEST, conclusion.folder)
    if missing := len(jobs) - len(done):
        conclusion.notes.append(
            f"{missing} of {len(jobs)} jobs are not done; the same command completes them."
        )
    for picture in conclusion.pictures:
        atomic_io.write(folder / f"{picture.name}.png", picture.png)
    for name, text in conclusion.files.items():
        atomic_io.write(folder / name, text)
    record = {
        "title": conclusion.title,
        "study": asdict(study),
        "sentences": conclusion.sentences,
        "notes": conclusion.notes,
        **conclusion.facts,
    }
    atomic_io.write_json(folder / "study.json", {**record, "command": command})
    body = page.part("sweep/study.html", conclusion=conclusion, command=command)
    html = page.whole(conclusion.title, body)
    atomic_io.write(folder / "study.html", html)
    atomic_io.write(folder / "study.md", markdown(conclusion, command))
    print_conclusion(conclusion)
    print(folder / "study.html")


def markdown(conclusion: Conclusion, command: str) -> str:
    """The content of study.md: that of study.html, with pictures as files beside it."""
    answer, *others = conclusion.sentences
    head, rows = conclusion.table
    lines = [
        f"# {conclusion.title}",
        f"**{answer}**",
        "\n".join(f"* {sentence}" for sentence in others),
        f"Run it:\n\n    {conclusion.command}" if conclusion.command else "",
        *(
            f"![{picture.title}]({picture.name}.png)\n\n{picture.caption}"
            for picture in conclusion.pictures
        ),
        "\n".join(
            [
                f"| {' | '.join(head)} |",
                f"| {' | '.join('---:' if h in conclusion.numbers else '---' for h in head)} |",
                *(f"| {' | '.join(row)} |" for row in rows),
            ]
        ),
        "\n".join(f"* {note}" for note in (*conclusion.notes, *conclusion.details)),
        f"    {command}",
    ]
    return "\n\n".join(filter(None, lines)) + "\n"


def print_conclusion(conclusion: Conclusion) -> None:
    """Print the table and the sentences of a conclusion."""
    screen = Screen(highlight=False, markup=False, width=None if sys.stdout.isatty() else 1000)
    whole = not screen.is_terminal  # lines in a pipe stay unbroken, so that text can be searched
    words = [name for name in conclusion.table[0] if name not in conclusion.numbers]
    screen.print(conclusion.title, style="bold")
    screen.print(fitted(conclusion.table, screen, conclusion.numbers, words))
    for sentence in conclusion.sentences:
        screen.print(sentence, soft_wrap=whole)
    if conclusion.command:
        # a command broken over several lines cannot be copied
        screen.print(f"Run it: {conclusion.command}", soft_wrap=True)
    if conclusion.notes and not whole:
        screen.print()
    for note in conclusion.notes:
        screen.print(note, style="dim", soft_wrap=whole)
