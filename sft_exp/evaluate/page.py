"""An evaluation for people: evaluation.html, predictions.csv, evaluation.json, and the terminal."""

import io
from collections.abc import Iterator
from dataclasses import asdict, replace
from html import escape
from pathlib import Path
from typing import Any

import torch

from sft_exp.core.score import UNEQUAL
from sft_exp.data import tables
from sft_exp.evaluate.evaluation import Evaluation, Predictions
from sft_exp.reports import confidence, page, plots
from sft_exp.reports.drawing import Picture, style
from sft_exp.reports.page import Grid
from sft_exp.store import atomic_io

NUMBERS = ("images", "precision", "recall", "F1", "AUROC", "average precision", "value", "p")
UNITS = ("log_loss",)  # scores that are no fractions


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
        f"{evaluation.score} {number} on {evaluation.images:,} images of {evaluation.data}, "
        f"{evaluation.which}"
    )


def notes(evaluation: Evaluation) -> Iterator[str]:
    """What must be known beside the scores."""
    if evaluation.interval:
        yield "The interval is Wilson's at 95 % over images, of this one model."
    counts = [c.images for c in evaluation.classes]
    if counts and max(counts) > UNEQUAL * sum(counts) and "recall" in evaluation.scores:
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
    if calibration := evaluation.calibration:
        if calibration.temperature is None:
            yield f"No temperature scaling: {calibration.why}."
        else:
            yield (
                f"Temperature {calibration.temperature:.2f}, fitted on {calibration.fitted_on} "
                "labels that the run had held out: calibration error "
                f"{100 * (calibration.ece_scaled or 0):.1f} % instead of {100 * calibration.ece:.1f} %, "
                f"log loss {calibration.log_loss_scaled:.3f} instead of {calibration.log_loss:.3f}."
            )
    elif evaluation.classes:
        yield "The model has no probabilities (SVM): no AUROC, no calibration."


def shown(name: str, value: float) -> str:
    """A fraction in per cent; in its own units if it is none."""
    fraction = name not in UNITS and 0 <= value <= 1
    return f"{100 * value:.1f} %" if fraction else f"{value:.4g}"


def scores_table(evaluation: Evaluation) -> Grid:
    return ["score", "value"], [[n, shown(n, v)] for n, v in evaluation.scores.items()]


def classes_table(evaluation: Evaluation) -> Grid:
    """The scores of each class, in per cent."""
    head = ["class", "images", "precision", "recall", "F1", "AUROC", "average precision"]
    body = []
    for c in evaluation.classes:
        values = (c.precision, c.recall, c.f1, c.auroc, c.average_precision)
        body.append(
            [c.name, f"{c.images:,}", *("-" if v is None else f"{100 * v:.1f}" for v in values)]
        )
    return head, body


def mistakes_table(predictions: Predictions, names: list[str], rows: list[int]) -> Grid:
    p_NK = predictions.probabilities
    head = ["file", "label", "predicted", "p"]
    return head, [
        [
            predictions.ids[n],
            names[predictions.true[n]],
            names[k := int(predictions.predicted[n])],
            f"{100 * p_NK[n, k]:.1f} %",
        ]
        for n in rows
    ]


def body(evaluation: Evaluation, mistakes: int, images: bool) -> str:
    """The page's content, HTML."""
    from matplotlib import rc_context

    parts = [
        f"<h1>{escape(evaluation.run)} on {escape(evaluation.data)}</h1>",
        f'<p class="verdict">{escape(headline(evaluation))}</p>',
        *(f"<p>{escape(note)}</p>" for note in notes(evaluation)),
    ]
    predictions, names = evaluation.predictions, [c.name for c in evaluation.classes]
    if evaluation.classes:
        parts += ["<h2>Classes</h2>", page.table(classes_table(evaluation), NUMBERS, ())]
    if predictions:
        with rc_context(style()):
            drawn = list(pictures(evaluation, predictions, mistakes if images else 0))
        parts += ["<h2>Pictures</h2>", page.pictures(drawn)]
        if rows := predictions.mistakes()[:mistakes] if evaluation.probabilistic else []:
            table = page.table(mistakes_table(predictions, names, rows), NUMBERS, ("file",))
            parts += ["<h2>Most confident mistakes</h2>", table]
    parts += ["<h2>Scores</h2>", page.table(scores_table(evaluation), NUMBERS, ())]
    facts = {"Run": evaluation.run, "Manifest": f"{evaluation.manifest} (SHA-256)"}
    parts += [
        "<h2>Facts</h2>",
        "<dl>",
        *(f"<dt>{key}</dt><dd>{escape(value)}</dd>" for key, value in facts.items()),
        "</dl>",
    ]
    return "\n".join(parts)


def pictures(evaluation: Evaluation, predictions: Predictions, mistakes: int) -> Iterator[Picture]:
    """Confusions, and where there are probabilities: calibration, precision and recall, mistakes."""
    names = [c.name for c in evaluation.classes]
    caption = "Of each true class (row), per cent by predicted class."
    yield plots.confusion(torch.tensor(evaluation.confusion), names, caption)
    if not evaluation.probabilistic or evaluation.calibration is None:
        return
    p_NK, correct_N = predictions.probabilities, predictions.predicted == predictions.true
    curves = {"as predicted": (p_NK.max(1), correct_N)}
    title = f"Calibration error {100 * evaluation.calibration.ece:.1f} %"
    if predictions.scaled is not None and evaluation.calibration.ece_scaled is not None:
        curves["temperature-scaled"] = (predictions.scaled.max(1), correct_N)
        title += f", temperature-scaled {100 * evaluation.calibration.ece_scaled:.1f} %"
    yield confidence.calibration(curves, title)
    ranked = {
        c.name: (predictions.true == k, p_NK[:, k], c.average_precision)
        for k, c in enumerate(evaluation.classes)
        if c.average_precision is not None
    }
    if ranked:
        yield confidence.precision_recall(ranked)
    wrong = predictions.mistakes()
    if rows := wrong[:mistakes]:
        titles = [
            (names[predictions.true[n]], names[k := int(predictions.predicted[n])], p_NK[n, k])
            for n in rows
        ]
        yield confidence.mistakes(predictions.images, rows, titles, len(wrong))


def text(evaluation: Evaluation) -> str:
    """What the terminal shows: the scores, what must be known beside them, the headline."""
    lines = [f"{name:24} {shown(name, value)}" for name, value in evaluation.scores.items()]
    return "\n".join([*lines, *notes(evaluation), headline(evaluation)])
