"""Whether a training is fit to be compared: the one definition of *diverged* and *collapsed* (docs/standard.md, 4.6).

It is judged from training losses, parameter norms and predictions for training images, never from test images. Two files of
a fine-tuning's folder are read: metrics.jsonl, whose first row is the first step, and training.json (`stages.outcome`).
Folders of older versions have no training.json; they are judged by their losses and accuracies in training alone.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sft_exp.training import metrics_log
from sft_exp.verdict import Comparison

STEPS = 20  # a shorter training may still be at chance because it has hardly begun
GROWTH = 100.0  # times the norm of the parameters at the start
# share of the way from the commonest class's share to 100 %; below it, accuracy is at chance
SKILL = 0.1
UNINFORMED = 0.9  # of the labels' entropy: with a log loss below it, predictions carry information
FEW = 3  # a third of the classes, or fewer, is few
MISSED = 0.5  # share of the training images whose class is never predicted
DIVERGED, COLLAPSED = "diverged", "collapsed"


def of(folder: Path) -> str:
    """`fault` of a fine-tuning's folder, finished."""
    file = folder / "training.json"
    return fault(metrics_log.read(folder), json.loads(file.read_text()) if file.exists() else {})


def fault(rows: Sequence[Mapping[str, float]], outcome: Mapping[str, Any]) -> str:
    """`diverged (<evidence>)` or `collapsed (<evidence>)`; empty where there is no evidence of either.

    rows     of metrics.jsonl: step, loss and, where the task has one, the batch's accuracy
    outcome  of training.json: the norms of the parameters, and what the finished model predicts for training images
    """
    losses = [row["loss"] for row in rows if "loss" in row]
    if not losses:
        return ""  # solved in closed form, or never trained
    accuracies = [row["accuracy"] for row in rows if "accuracy" in row]
    first, last = losses[0], outcome.get("log_loss", metrics_log.ended(losses))
    for evidence in (risen(losses, outcome), grown(first, last, outcome)):
        if evidence:
            return f"{DIVERGED} ({evidence})"
    if rows[-1]["step"] < STEPS:
        return ""
    for evidence in (forgotten(accuracies, outcome), few(outcome), chance(outcome)):
        if evidence:
            return f"{COLLAPSED} ({evidence})"
    return ""


def risen(losses: list[float], outcome: Mapping[str, Any]) -> str:
    """The loss ended far above its start, and for classes also far above that of the best constant prediction."""
    first, last = losses[0], outcome.get("log_loss", metrics_log.ended(losses))
    if "log_loss" in outcome:  # a mean over images, whatever else the loss in training adds to it
        rose = last > min(
            max(abs(first), metrics_log.RISEN * max(outcome["entropy"], metrics_log.LEAST)),
            metrics_log.EXPLODED,
        )
    else:
        rose = metrics_log.exploded(losses)
    return f"loss {first:.3g} -> {last:.3g}" if rose else ""


def grown(first: float, last: float, outcome: Mapping[str, Any]) -> str:
    """The parameters are many times longer than they were, to no effect."""
    start, now = outcome.get("norm", (0.0, 0.0))
    if start > 0 and now > GROWTH * start and last >= first:
        return f"norm of the parameters {start:.3g} -> {now:.3g}"
    return ""


def forgotten(accuracies: Sequence[float], outcome: Mapping[str, Any]) -> str:
    """Less than half of the training images that the start got right are right at the end."""
    if not accuracies:
        return ""
    first, last = accuracies[0], outcome.get("accuracy", metrics_log.ended(accuracies))
    return (
        f"accuracy on training images {percent(first)} -> {percent(last)} %"
        if last < first / 2 and first > 0.5
        else ""
    )


def chance(outcome: Mapping[str, Any]) -> str:
    """Training images are predicted no better than by a constant."""
    if outcome.get("r2", 1.0) <= 0:
        return f"R2 {outcome['r2']:.2g} on training images: their mean predicts them as well"
    if outcome.get("classes", 0) < 2:
        return ""
    accuracy, majority = outcome["accuracy"], outcome["majority"]
    at_chance = accuracy < majority + SKILL * (1 - majority)
    if at_chance and outcome["log_loss"] >= UNINFORMED * outcome["entropy"]:
        return f"accuracy {percent(accuracy)} % on training images, their commonest class is {percent(majority)} % of them"
    return ""


def few(outcome: Mapping[str, Any]) -> str:
    """Few classes are predicted for the training images, which show many. A rare class that is missed is not enough."""
    classes = outcome.get("classes", 0)
    if classes < 2 or outcome["missed"] < MISSED or outcome["predicted"] > max(1, classes // FEW):
        return ""
    return f"{outcome['predicted']} of {classes} classes are predicted for training images"


def percent(share: float) -> str:
    return f"{100 * share:.3g}"


def said(faults: Sequence[str]) -> str:
    """What became of an arm whose draws have these faults: `diverged in 2 and collapsed in 1 of 10 draws (loss 0.06 ->
    1.5e+07)`, with the evidence of the first. Empty if all are sound."""
    states = [s for s in (DIVERGED, COLLAPSED) if any(f.startswith(s) for f in faults)]
    if not states:
        return ""
    counts = [f"{s} in {sum(f.startswith(s) for f in faults)}" for s in states]
    evidence = next(f for f in faults if f.startswith(states[0])).partition(" ")[2]
    return (
        f"{' and '.join(counts)} of {len(faults)} draws {evidence}"
        if len(faults) > 1
        else f"{states[0]} {evidence}"
    )


def noted(
    comparison: Comparison,
    pretrained: Sequence[Sequence[str]],
    scratch: Sequence[Sequence[str]],
) -> Comparison:
    """The comparison with what the trainings say of its two arms, whose faults are given for each seed and draw [S][D].

    Of several seeds, those in which a training of either arm collapsed are left out, and the sentence names them. A scratch
    that diverged, or collapsed in every seed, leaves nothing to compare with. A pretrained arm that diverged, or collapsed
    in every seed, counts as it is. Where nothing failed, seeds that collapsed are found from the scores.
    """
    every = [fault for arm in (pretrained, scratch) for row in arm for fault in row]
    if not any(every):
        return comparison
    kept = [
        not any(fault.startswith(COLLAPSED) for fault in (*ours, *theirs))
        for ours, theirs in zip(pretrained, scratch, strict=True)
    ]
    if not any(kept):
        kept = [True] * len(kept)
    left = [row for row, keep in zip(scratch, kept, strict=True) if keep]
    failed = any(fault for row in left for fault in row)
    return replace(
        comparison,
        trained=kept,
        pretrained_failed=said([fault for row in pretrained for fault in row]),
        scratch_failed=said([fault for row in scratch for fault in row]) if failed else "",
    )


def state(faults: Sequence[str]) -> str:
    """The same in a word, for the cells of a table: `diverged` where any draw is."""
    return said(faults).partition(" ")[0]
