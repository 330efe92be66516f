"""An evaluation for people: evaluation.html, predictions.csv, evaluation.json, and the terminal."""

import io
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from sft_exp.core.score import ACCURACY, NAMES, UNEQUAL
from sft_exp.data import tables
from sft_exp.evaluate.evaluation import Evaluation
from sft_exp.reports import classification, page, plots
from sft_exp.reports.classification import Predictions
from sft_exp.reports.drawing import Picture, style
from sft_exp.store import atomic_io

if TYPE_CHECKING:
    from markupsafe import Markup


def write(evaluation: Evaluation, folder: Path, mistakes: int, images: bool) -> None:
    """evaluation.html, evaluation.json, and of a classifier predictions.csv.

    Args:
        mistakes: how many of the most confident mistakes the page shows.
        images: whether it shows images.
    """
    atomic_io.folder(folder)
    title = f"{evaluation.data}: {evaluation.run}"
    atomic_io.write(
        folder / "evaluation.html", page.whole(title, body(evaluation, mistakes, images))
    )
    atomic_io.write_json(folder / "evaluation.json", record(evaluation))
    if evaluation.predictions:
        atomic_io.write(folder / "predictions.csv", csv(evaluation, evaluation.predictions))


def record(evaluation: Evaluation) -> dict[str, Any]:
    """The content of evaluation.json: every field but the predictions."""
    content = asdict(replace(evaluation, predictions=None))
    del content["predictions"]
    return content


def csv(evaluation: Evaluation, predictions: Predictions) -> str:
    """A row for each image: file, label, predicted class, and the probability of each class."""
    names = [c.name for c in evaluation.classes]
    p_NK = predictions.probabilities
    text = io.StringIO()
    writer = tables.Writer(text)
    numbers = [f"p({name})" for name in names] if evaluation.probabilistic else []
    writer.writerow(["file", "label", "predicted", "correct", *numbers])
    for name, y, k, p_K in zip(
        predictions.ids, predictions.true, predictions.predicted, p_NK, strict=True
    ):
        shown = [f"{p:.6g}" for p in p_K] if evaluation.probabilistic else []
        writer.writerow([name, names[y], names[k], int(y == k), *shown])
    return text.getvalue()


def headline(evaluation: Evaluation) -> str:
    """`accuracy 91.2 % (89.0 to 93.1) on 500 images of photos, all its labelled images`"""
    value = evaluation.scores.get(evaluation.score)
    number = "undefined" if value is None else f"{100 * value:.1f} %"
    if evaluation.interval:
        low, high = (100 * end for end in evaluation.interval)
        number += f" ({low:.1f} to {high:.1f})"
    return (
        f"{NAMES.get(evaluation.score, evaluation.score)} {number} on {evaluation.images:,} images of {evaluation.data}, "
        f"{evaluation.which}"
    )


def notes(evaluation: Evaluation) -> Iterator[str]:
    """What must be known beside the scores."""
    if evaluation.interval:
        yield "The interval is Wilson's at 95 % over images, of this one model."
    counts = [c.images for c in evaluation.classes]
    there = [c for c in evaluation.classes if c.images]
    if len(there) < len(evaluation.classes):
        mean = sum(c.recall for c in there) / len(there)
        yield (
            f"The mean recall of the classes with images ({len(there)} of {len(counts)}) is "
            f"{100 * mean:.1f} %; the means over all classes count those that are predicted and have "
            "no image as 0."
        )
    elif (
        evaluation.score == ACCURACY
        and counts
        and max(counts) > UNEQUAL * sum(counts)
        and "recall" in evaluation.scores
    ):
        name = evaluation.classes[counts.index(max(counts))].name
        yield (
            f"{100 * max(counts) / sum(counts):.0f} % of the images are {name}: judge by balanced "
            f"accuracy, the mean recall, which is {100 * evaluation.scores['recall']:.1f} %."
        )
    if evaluation.splits > 1:
        yield (
            f"The run has {evaluation.splits} labelled splits; this is the first one's model, "
            "chosen by its number."
        )
    if evaluation.copies:
        name, learnt, alike = evaluation.copies[0]
        apart = evaluation.scores.get("accuracy_apart")
        without = f" Without them accuracy is {100 * apart:.1f} %." if apart is not None else ""
        yield (
            f"{len(evaluation.copies)} of the images are copies, exact or near, of images that the "
            f"run learnt from, such as {name} of {learnt} (correlation {alike:.3f}).{without}"
        )
    if evaluation.unchecked:
        yield (
            f"Not checked for copies of images that the run learnt from: {evaluation.unchecked}."
        )
    if evaluation.absent:
        yield f"Classes without an image: {', '.join(evaluation.absent)}."
    if evaluation.classes:
        yield classification.about_calibration(evaluation)


def body(evaluation: Evaluation, mistakes: int, images: bool) -> "Markup":
    """The page's content, HTML."""
    from matplotlib import rc_context

    with rc_context(style()):
        drawn = list(pictures(evaluation, mistakes if images else 0))
    return page.part(
        "evaluate/evaluation.html",
        evaluation=evaluation,
        headline=headline(evaluation),
        notes=[*notes(evaluation)],
        numbers=classification.NUMBERS,
        classes=classification.classes_table(evaluation)
        if evaluation.classes
        else evaluation.of_classes,
        drawn=drawn,
        mistakes=classification.mistakes_table(evaluation, mistakes),
        scores=classification.scores_table(overall(evaluation)),
    )


def overall(evaluation: Evaluation) -> Evaluation:
    """The evaluation without the scores that its table of classes shows."""
    if evaluation.of_classes is None:
        return evaluation
    names = [row[0] for row in evaluation.of_classes[1]]
    shown = {k: v for k, v in evaluation.scores.items() if k.partition("/")[2] not in names}
    return replace(evaluation, scores=shown)


def pictures(evaluation: Evaluation, mistakes: int) -> Iterator[Picture]:
    """Confusions, and where there are probabilities: calibration, precision and recall, mistakes."""
    if evaluation.classes:
        names = [c.name for c in evaluation.classes]
        caption = "Of each true class (row), per cent by predicted class."
        yield plots.confusion(torch.tensor(evaluation.confusion), names, caption)
        yield from classification.pictures(evaluation, mistakes)


def text(evaluation: Evaluation) -> str:
    """What the terminal shows: the scores, what must be known beside them, the headline."""
    scores = overall(evaluation).scores.items()
    lines = [f"{name:24} {classification.shown(name, value)}" for name, value in scores]
    return "\n".join([*lines, *notes(evaluation), headline(evaluation)])
