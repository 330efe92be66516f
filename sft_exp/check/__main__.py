"""Grade results against docs/standard.md.

Runs, sweeps and studies are graded by the artefacts in the store: the label budget by the images
learnt from, "frozen" by the weights, scores by predictions. Predictions of other frameworks are
graded on the points that predictions can show. Exit code 0: every point that can be graded is
passed; 3: a point failed, or the input cannot be read; 2: wrong arguments.

    sft_exp check outputs/latest
    sft_exp check predictions.csv truth=truth.csv
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from rich.box import SIMPLE_HEAD
from rich.table import Table

from sft_exp.check.standard import POINTS, VERSION, Grade, unknown
from sft_exp.config import args
from sft_exp.errors import DataError
from sft_exp.progress import Screen


@dataclass
class Arguments:
    positional: ClassVar[tuple[str, ...]] = ("run",)

    run: list[Path]  # run, sweep and study folders; or CSV files of predictions
    truth: Path | None = None  # CSV id,label, for predictions without a column label
    baseline: str = "scratch"  # for predictions: the arm that the others are compared with
    again: bool = False  # also read the data set and predict again (point 6.5)


PIPED = 200  # columns where there is no terminal
WORDS = {True: "passed", False: "failed", None: "cannot tell"}


def grade(paths: Sequence[Path], again: bool = False) -> list[Grade]:
    """The grades of all runs in these run, sweep and study folders.

    Args:
        paths: the folders.
        again: whether to read the data sets and predict again (point 6.5).

    Raises:
        DataError: no folder holds a finished job, or a file of a run cannot be read.
    """
    from sft_exp.check import again as repetition
    from sft_exp.check import artefacts, runs, sweeps

    grades, all_runs, missing = [], [], []
    for path in paths:
        path_runs = [artefacts.read(folder) for folder in sweeps.jobs(path)]
        missing += sweeps.unfinished(path)
        all_runs += path_runs
        study = (path / "study.json").exists()
        job_grades: list[Grade] = []
        for run in path_runs:
            name = run.folder.name if len(paths) > 1 or len(path_runs) > 1 else ""
            without_data = unknown("6.5", "needs the data set: again=true")
            points = [*runs.grade(run), repetition.grade(run) if again else without_data]
            job_grades += [replace(g, of=name) for g in points]
        grades += sweeps.job_grades(path, job_grades) if study else job_grades
        if study and path_runs:
            grades += [replace(g, of="study") for g in sweeps.study(path, path_runs)]
    if not all_runs:
        raise DataError(f"{', '.join(map(str, paths))}: no job is done")
    return [*grades, sweeps.seeds(all_runs, missing)]


def merge(grades: Sequence[Grade]) -> list[Grade]:
    """One grade for each point.

    A point is failed if any run failed it, with the runs and reasons; else it is passed if it could
    be graded in any run.
    """
    merged = []
    for point in POINTS:
        of_point = [g for g in grades if g.point == point]
        failed = [g for g in of_point if g.passed is False]
        reasons = list(dict.fromkeys(f"{g.of}: {g.reason}" if g.of else g.reason for g in failed))
        if failed:
            more = f" (and {len(reasons) - 2} more)" if len(reasons) > 2 else ""
            merged.append(Grade(point, False, "; ".join(reasons[:2]) + more))
        elif any(g.passed for g in of_point):
            merged.append(Grade(point, True))
        else:
            merged.append(unknown(point, next((g.reason for g in of_point), "nothing shows it")))
    return merged


def print_grades(grades: Sequence[Grade], sentences: Sequence[str]) -> None:
    screen = Screen(highlight=False, markup=False, width=None if sys.stdout.isatty() else PIPED)
    table = Table(box=SIMPLE_HEAD)
    for head in ("", "point", "", "reason"):
        table.add_column(head, no_wrap=head == "")
    for g in grades:
        style = {False: "bold", None: "dim", True: None}[g.passed]
        table.add_row(g.point, POINTS[g.point], WORDS[g.passed], g.reason, style=style)
    screen.print(table)
    for sentence in sentences:
        screen.print(sentence, soft_wrap=True)
    passed, failed, ungraded = (
        sum(g.passed is value for g in grades) for value in (True, False, None)
    )
    screen.print(
        f"Standard {VERSION}: {passed} points passed, {failed} failed, "
        f"{ungraded} cannot be graded from this."
    )


def main(arguments: list[str] | None = None) -> int:
    return args.run("check", __doc__ or "", Arguments, work, arguments)


def work(arguments: Arguments) -> int:
    if all(p.suffix == ".csv" for p in arguments.run):
        from sft_exp.check import predictions

        grades, sentences = predictions.grade(arguments.run, arguments.truth, arguments.baseline)
    else:
        grades, sentences = grade(arguments.run, arguments.again), []
    merged = merge(grades)
    print_grades(merged, sentences)
    return DataError.code if any(g.passed is False for g in merged) else 0


if __name__ == "__main__":
    sys.exit(main())
