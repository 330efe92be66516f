"""Training failures: the definition of *diverged* and *collapsed* (docs/standard.md, 4.6).

They are judged from training losses, parameter norms and predictions for training images, never
from test images. Two files of a fine-tuning's folder are read: metrics.jsonl, whose first row is
the first step, and training.json (`stages.outcome`). Folders of older versions have no
training.json and are judged by their losses and accuracies in training alone.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sft_exp.training import metrics_log
from sft_exp.verdict import Comparison

STEPS = 20  # a shorter training may still be at chance level because it has hardly begun
GROWTH = 100.0  # factor on the initial norm of the parameters
# share of the way from the commonest class's share to 100 %; accuracy below it is chance level
SKILL = 0.1
UNINFORMED = 0.9  # share of the labels' entropy; a log loss below it carries information
FEW = 3  # predicting a third of the classes or fewer counts as few
MISSED = 0.5  # share of the training images whose class is never predicted
DIVERGED, COLLAPSED = "diverged", "collapsed"


def of(folder: Path) -> str:
    """`fault` of the folder of a finished fine-tuning."""
    file = folder / "training.json"
    return fault(metrics_log.read(folder), json.loads(file.read_text()) if file.exists() else {})


def fault(rows: Sequence[Mapping[str, float]], outcome: Mapping[str, Any]) -> str:
    """`diverged (<evidence>)` or `collapsed (<evidence>)`; empty without evidence of either.

    rows     of metrics.jsonl: step, loss and, where the task has one, the batch's accuracy
    outcome  of training.json: norms of the parameters, and the finished model's predictions for
             training images
    """
    losses = [row["loss"] for row in rows if "loss" in row]
    if not losses:
        return ""  # solved in closed form, or never trained
    accuracies = [row["accuracy"] for row in rows if "accuracy" in row]
    first, last = losses[0], outcome.get("log_loss", metrics_log.final_mean(losses))
    for evidence in (loss_rise(losses, outcome), norm_growth(first, last, outcome)):
        if evidence:
            return f"{DIVERGED} ({evidence})"
    if rows[-1]["step"] < STEPS:
        return ""
    for evidence in (
        accuracy_loss(accuracies, outcome),
        few_classes(outcome),
        chance_level(outcome),
    ):
        if evidence:
            return f"{COLLAPSED} ({evidence})"
    return ""


def loss_rise(losses: list[float], outcome: Mapping[str, Any]) -> str:
    """Evidence that the loss ended far above its start.

    For classes it must also be far above the loss of the best constant prediction.
    """
    first, last = losses[0], outcome.get("log_loss", metrics_log.final_mean(losses))
    if "log_loss" in outcome:  # a mean over images, without the training loss's other terms
        rose = last > min(
            max(
                abs(first),
                metrics_log.RISE_FACTOR * max(outcome["entropy"], metrics_log.MIN_FIRST_LOSS),
            ),
            metrics_log.EXPLODED,
        )
    else:
        rose = metrics_log.exploded(losses)
    return f"loss {first:.3g} -> {last:.3g}" if rose else ""


def norm_growth(first: float, last: float, outcome: Mapping[str, Any]) -> str:
    """Evidence that the norm of the parameters has multiplied without reducing the loss."""
    start, now = outcome.get("norm", (0.0, 0.0))
    if start > 0 and now > GROWTH * start and last >= first:
        return f"norm of the parameters {start:.3g} -> {now:.3g}"
    return ""


def accuracy_loss(accuracies: Sequence[float], outcome: Mapping[str, Any]) -> str:
    """Evidence that accuracy on training images fell to less than half of its initial value."""
    if not accuracies:
        return ""
    first, last = accuracies[0], outcome.get("accuracy", metrics_log.final_mean(accuracies))
    return (
        f"accuracy on training images {percent(first)} -> {percent(last)} %"
        if last < first / 2 and first > 0.5
        else ""
    )


def chance_level(outcome: Mapping[str, Any]) -> str:
    """Evidence that training images are predicted no better than by a constant."""
    if outcome.get("r2", 1.0) <= 0:
        return f"R2 {outcome['r2']:.2g} on training images: their mean predicts them as well"
    if outcome.get("classes", 0) < 2:
        return ""
    accuracy, majority = outcome["accuracy"], outcome["majority"]
    at_chance = accuracy < majority + SKILL * (1 - majority)
    if at_chance and outcome["log_loss"] >= UNINFORMED * outcome["entropy"]:
        return (
            f"accuracy {percent(accuracy)} % on training images,"
            f" their commonest class is {percent(majority)} % of them"
        )
    return ""


def few_classes(outcome: Mapping[str, Any]) -> str:
    """Evidence that few of the training images' classes are predicted. Rare ones may be missed."""
    classes = outcome.get("classes", 0)
    if classes < 2 or outcome["missed"] < MISSED or outcome["predicted"] > max(1, classes // FEW):
        return ""
    return f"{outcome['predicted']} of {classes} classes are predicted for training images"


def percent(share: float) -> str:
    return f"{100 * share:.3g}"


def said(faults: Sequence[str], unit: str = "draws") -> str:
    """The failures of an arm in words, given the fault of each draw; empty if none failed.

    `diverged in 2 and collapsed in 1 of 10 draws (loss 0.06 -> 1.5e+07)`, with the first evidence.
    `unit` is what there is a fault of.
    """
    states = [s for s in (DIVERGED, COLLAPSED) if any(f.startswith(s) for f in faults)]
    if not states:
        return ""
    counts = [f"{s} in {sum(f.startswith(s) for f in faults)}" for s in states]
    evidence = next(f for f in faults if f.startswith(states[0])).partition(" ")[2]
    return (
        f"{' and '.join(counts)} of {len(faults)} {unit} {evidence}"
        if len(faults) > 1
        else f"{states[0]} {evidence}"
    )


def noted(
    comparison: Comparison,
    pretrained: Sequence[Sequence[str]],
    scratch: Sequence[Sequence[str]],
) -> Comparison:
    """The comparison with the failed trainings of its two arms, faults [S][D] by seed and draw.

    Of several seeds, those in which a training of either arm collapsed are left out, and the
    sentence names them. A scratch arm that diverged, or collapsed in every seed, leaves nothing to
    compare with. A pretrained arm that diverged, or collapsed in every seed, counts as it is. If
    nothing failed, collapsed seeds are recognised by the scores.
    """
    pretrained_faults = [fault for draws in pretrained for fault in draws]
    scratch_faults = [fault for draws in scratch for fault in draws]
    if not any(pretrained_faults + scratch_faults):
        return comparison
    trained = [
        not any(fault.startswith(COLLAPSED) for fault in (*pretrained_draws, *scratch_draws))
        for pretrained_draws, scratch_draws in zip(pretrained, scratch, strict=True)
    ]
    if not any(trained):
        trained = [True] * len(trained)
    failed = any(any(draws) for draws, ok in zip(scratch, trained, strict=True) if ok)
    unit = "fine-tunings" if len(trained) > 1 else "draws"
    return replace(
        comparison,
        trained=trained,
        pretrained_failed=said(pretrained_faults, unit),
        scratch_failed=said(scratch_faults, unit) if failed else "",
    )


def state(faults: Sequence[str]) -> str:
    """`diverged` if any draw diverged, else `collapsed` if any collapsed: for cells of a table."""
    return said(faults).partition(" ")[0]
