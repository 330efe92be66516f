"""A forecast of the accuracy with more labels, as an interval extrapolated from runs with fewer
labels."""

from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

from sft_exp.core.arms import MAIN
from sft_exp.errors import DataError

HALVINGS = 3
FEWEST = 3  # draws


def curve(run: Path) -> dict[str, Any]:
    """The run's learning curve; label counts that are missing in the store are trained.

    Returns:
        {"scores": {label count: test accuracies of the draws}, "labels": the run's label count,
        "share": the share of new labels that a draw trains on, "now": the run's mean accuracy}
    """
    from sft_exp import api
    from sft_exp.core.tracker import Tracker
    from sft_exp.data.splits import FOLDS
    from sft_exp.jobs import prepare
    from sft_exp.runs import pipeline
    from sft_exp.store import results
    from sft_exp.training.context import Context, Stop

    e, result = api.reopen(run), results.read(run)
    if e.draws < FEWEST:
        raise DataError(
            f"{run}: a forecast needs the spread of {FEWEST} label draws or more, and it has draws={e.draws}"
        )
    job = prepare.prepare(replace(e, controls=False, val="none"))
    labelled, classes = result.data.labelled, len(job.corpus.strata)
    counts = [labelled >> k for k in range(1, HALVINGS + 1) if labelled >> k >= classes]
    # With all labels and a fixed test split, the draws share one labelled set: their spread is not
    # that of random sets.
    same = job.labels.count == "all" and job.corpus.test is not None
    scores = {} if same else {labelled: result.draws[MAIN]}
    if len(counts) + len(scores) < 2:
        raise DataError(
            f"{run}: {labelled} labels of {classes} classes cannot be halved; a curve needs at least two label counts"
        )
    ctx = Context.on(e.hardware, Tracker())
    with Stop.handle_signals():
        for count in counts:
            small = replace(e, labels_total=count, controls=False, val="none")
            scores[count] = pipeline.run(prepare.prepare(small), ctx).draws[MAIN]
    share = 1.0 if job.corpus.test is not None else 1 - 1 / FOLDS
    return {
        "labels": labelled,
        "share": share,
        "now": fmean(result.draws[MAIN]),
        "scores": scores,
    }


def words(measured: dict[str, Any], n: int) -> str:
    """`50 more labels: 88.1 to 92.3 % (100 labels now: 86.0 %). ...`; `measured` is the result of
    `curve`."""
    from sft_exp.label.learning_curve import forecast

    scores = {int(count): accuracies for count, accuracies in measured["scores"].items()}
    result = forecast(scores, measured["labels"] + round(measured["share"] * n))
    points = ", ".join(f"{count}: {100 * fmean(scores[count]):.1f}" for count in sorted(scores))
    return (
        f"{n} more labels: {100 * result.low:.1f} to {100 * result.high:.1f} % ({measured['labels']} labels now: "
        f"{100 * measured['now']:.1f} %). 95 % interval for one random label set, from the test accuracies at {points}."
    )
