"""The study that `sft_exp start` runs, and the page that it leaves."""

import json
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sft_exp.api import RunResult
from sft_exp.config import recipe
from sft_exp.errors import DataError
from sft_exp.reports import page
from sft_exp.reports.drawing import Picture
from sft_exp.store import results
from sft_exp.sweep import timed

if TYPE_CHECKING:
    from markupsafe import Markup

STUDY = "choose"  # folder of the study, below that of the page


def choose(
    folder: Path,
    unlabelled: Sequence[Path],
    labels: str,
    minutes: float,
    out: Path,
    plan: bool = False,
) -> int:
    """Run the study in a process of its own, whose output is shown; returns its exit code.

    With `plan` it checks the images and says what it would do.
    """
    paths: dict[str, Any] = {"dataset.root": str(folder), "hydra.sweep.dir": str(out / STUDY)}
    if unlabelled:
        paths["dataset.unlabelled"] = [str(path) for path in unlabelled]
    words = [
        "study=choose",
        f"minutes={minutes:g}",
        "dataset=image_folder",
        f"labels={labels}",
        f"plan={str(plan).lower()}",
        "tracker=none",
        *(f"{key}={recipe.quoted(value)}" for key, value in paths.items()),
    ]
    return subprocess.run([sys.executable, "-m", "sft_exp", *words]).returncode  # noqa: S603


def chosen(out: Path) -> Path:
    """The run folder of the model that the study chose and trained. DataError if there is none."""
    trials = timed.read(out / STUDY)
    finals = [n for n, t in enumerate(trials.jobs) if t.phase == "final"] if trials else []
    if not finals:
        raise DataError(f"{out / STUDY}: no method was trained to its end")
    return out / STUDY / str(finals[-1])


def page_of(run: Path, out: Path, to_label: Path | None) -> str:
    """The page as HTML.

    Args:
        run: the run folder of the chosen model.
        out: the folder of the page.
        to_label: folder of the images chosen for labelling; None if no image is unlabelled.
    """
    result = results.read(run)
    study = json.loads((out / STUDY / "study.json").read_text())
    title = f"{result.data.name}: what works on these images"
    command = shlex.quote(str(run))
    labelling = f"sft_exp label {command} out={shlex.quote(str(to_label))}" if to_label else ""
    places = {
        "report": run / "report.html",
        "study": out / STUDY / "study.html",
        "sheet": to_label / "label.html" if to_label else None,
    }
    body = page.part(
        "start/start.html",
        title=title,
        sentences=study["sentences"],
        images=images(result),
        drawn=pictures(run),
        tried=tried(study["trials"]["jobs"]),
        # the sentences have the study's verdict, on the pick and scratch at its own best
        result=RunResult(run, result).rich(verdict=False),
        files={k: f.relative_to(out).as_posix() if f else "" for k, f in places.items()},
        label=labelling,
        use=[
            f"sft_exp predict {command} new_images > classes.csv",
            f"sft_exp evaluate {command} dataset.root=later_photos",
            f"sft_exp serve {command}",
        ],
        command=study["run"],
    )
    return page.whole(title, body)


def images(result: results.Results) -> str:
    """How many images there are, and for what they were used."""
    data = result.data
    copies = f" {data.copies:,} test images are copies of training images." if data.copies else ""
    if data.ratio:
        return (
            f"{data.train:,} images of {data.classes} classes. Without a test folder they are tested "
            f"in folds: in each labelled split {data.test:,} of them, by a model that was trained on "
            f"the labels of {data.labelled:,} others.{copies}"
        )
    return (
        f"{data.train:,} training images of {data.classes} classes, of which {data.labelled:,} "
        f"were used with their labels in each labelled split, and {data.test:,} test images.{copies}"
    )


def pictures(run: Path) -> list[Picture]:
    """The images as the network sees them, if the report has them."""
    file = run / "inputs.png"
    if not file.is_file():
        return []
    caption = "Some labelled images at the size that the network sees."
    return [Picture("inputs", "Images", caption, file.read_bytes(), photographs=True)]


def tried(trials: Sequence[dict[str, Any]]) -> "Markup":
    """The table of the candidates by validation accuracy, of the longest comparison of each."""
    scores = {t["name"]: t["score"] for t in trials if t["score"] is not None}
    ranked = sorted(scores.items(), key=lambda pair: -pair[1])
    head = ["method", "validation accuracy, %"]
    return page.table((head, [[name, f"{100 * score:.1f}"] for name, score in ranked]), head[1:])
