"""Predictions of any framework, as CSV: id, class, probability, seed, arm; optional draw and label."""

import csv
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from sft_exp.check.standard import Grade, ok, unknown
from sft_exp.core import score
from sft_exp.core.arms import FLOORS, SCRATCH
from sft_exp.data import tables
from sft_exp.errors import DataError
from sft_exp.verdict import Comparison, Setting, Verdict, frozen, judge

NEEDED = ("id", "class", "probability", "seed", "arm")
HIDDEN = {  # points that predictions cannot show, and what they lack
    "1.1": "which labels were learnt from",
    "1.2": "which labels were used for validation",
    "2.1": "which images were learnt from",
    "2.2": "which images were learnt from",
    "2.3": "groups",
    "2.4": "what was pretrained on",
    "2.5": "images",
    "3.1": "how the epoch and the settings were chosen",
    "3.2": "the search",
    "4.1": "networks and trainings",
    "4.2": "weights",
    "4.3": "weights",
    "4.6": "trainings",
    "5.1": "trainings",
    "5.2": "trainings",
    "6.1": "seals",
    "6.4": "runs that were left out",
    "6.5": "models",
    "7.1": "a stated interval",
    "7.2": "a stated word",
    "8.1": "a table",
    "8.2": "a table",
}
RunKey = tuple[str, str]  # (seed, draw)
Predictions = dict[str, str]  # id of an image -> predicted class
Arms = dict[str, dict[RunKey, Predictions]]  # name of an arm -> its runs


def read(files: Sequence[Path], truth: Path | None) -> tuple[Arms, dict[str, str], list[str]]:
    """(predictions of all arms, id -> label, faults of point 6.2).

    Args:
        files: tables of predictions with the columns `NEEDED`, and optionally `draw` and `label`.
        truth: a table with the columns `id` and `label`, for predictions without `label`.

    Raises:
        DataError: a file is not a table of predictions.
    """
    arms: Arms = {}
    labels = {row["id"]: row["label"] for row in rows(truth, ("id", "label"))} if truth else {}
    faults = []
    for file in files:
        for number, row in enumerate(rows(file, NEEDED), start=2):
            where = f"{file.name}, line {number}"
            key = row["seed"], row.get("draw") or "0"
            predictions = arms.setdefault(row["arm"], {}).setdefault(key, {})
            if row["id"] in predictions:
                faults.append(f"{where}: {row['id']} was predicted before")
            predictions[row["id"]] = row["class"]
            label = row.get("label") or labels.get(row["id"])
            if label is None:
                raise DataError(
                    f"{where}: no label of {row['id']}; add a column label, or truth=FILE with "
                    "columns id,label"
                )
            if labels.setdefault(row["id"], label) != label:
                faults.append(
                    f"{where}: {row['id']} is {label} here and {labels[row['id']]} elsewhere"
                )
            try:
                if not 0 <= float(row["probability"]) <= 1:
                    faults.append(f"{where}: {row['probability']} is no probability")
            except ValueError as error:
                raise DataError(
                    f"{where}: probability {row['probability']!r} is no number"
                ) from error
    return arms, labels, faults


def rows(file: Path, needed: Sequence[str]) -> list[dict[str, str]]:
    """The rows of a CSV file, by column.

    Raises:
        DataError: the file cannot be read, is empty, or lacks a needed column.
    """
    try:
        with file.open(newline="", encoding="utf-8-sig") as text:
            table = [
                {column: tables.restored(str(cell)) for column, cell in row.items()}
                for row in csv.DictReader(text, restval="")
            ]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{file}: {getattr(error, 'strerror', None) or error}") from error
    if not table or (missing := [c for c in needed if c not in table[0]]):
        lacks = f"; no {missing[0]}" if table else ""
        raise DataError(f"{file}: needs rows with the columns {','.join(needed)}{lacks}")
    return table


def grade(
    files: Sequence[Path], truth: Path | None, baseline: str = SCRATCH
) -> tuple[list[Grade], list[str]]:
    """(grades of all points, the verdicts' texts).

    Args:
        files: tables of predictions (`read`).
        truth: a table of labels, for predictions without labels.
        baseline: the arm that the others are compared with.

    Raises:
        DataError: a file is not a table of predictions.
    """
    arms, labels, faults = read(files, truth)
    index_of = {label: n for n, label in enumerate(dict.fromkeys(labels.values()))}
    share, commonest = score.commonest(index_of[label] for label in labels.values())
    name = score.BALANCED if share > score.UNEQUAL else score.ACCURACY

    def score_of(predictions: Predictions) -> float:
        if name == score.ACCURACY:
            return fmean(labels[image] == c for image, c in predictions.items())
        # a predicted class may be the label of no image
        answers = [
            (index_of[labels[image]], index_of.setdefault(c, len(index_of)))
            for image, c in predictions.items()
        ]
        return score.balanced_accuracy(answers)

    scores = {
        arm: {key: score_of(predictions) for key, predictions in runs.items()}
        for arm, runs in arms.items()
    }
    means = {arm: fmean(values.values()) for arm, values in scores.items()}
    compared = [arm for arm in arms if arm != baseline and arm not in FLOORS]
    grades = {
        point: unknown(point, f"predictions do not show {what}") for point, what in HIDDEN.items()
    }
    grades["6.2"] = ok("6.2", faults)
    grades["6.3"] = ok("6.3", unpaired(arms, labels, [baseline, *compared]))
    missing = [arm for arm in (baseline, *FLOORS) if arm not in arms]
    grades["4.4"] = ok("4.4", [f"there is no arm {arm}" for arm in missing])
    floors = [arm for arm in FLOORS if arm in arms]
    not_beaten = [
        f"failed to learn: {arm} has {100 * means[arm]:.1f} %, {floor} {100 * means[floor]:.1f} %"
        for arm in compared
        for floor in floors
        if means[floor] >= means[arm]
    ]
    grades["4.5"] = ok("4.5", not_beaten) if floors else unknown("4.5", "there are no baselines")
    single = [
        f"{arm} has one run; a test over its images (McNemar) says nothing about the method"
        for arm in compared
        if len(arms[arm]) < 2
    ]
    grades["7.3"] = ok("7.3", single or ([] if compared else ["there is nothing to compare"]))
    verdicts: dict[str, Verdict] = {}
    if baseline in arms and compared and grades["6.3"].passed and not single:
        verdicts = judge_arms(scores, compared, baseline, len(labels), name)
    why = ""
    if name == score.BALANCED:
        label = [*index_of][commonest]
        why = f" By balanced accuracy: {100 * share:.0f} % of the labels are {label}."
    sentences = [
        f"{arm}: {v.text} {v.seeds + len(v.collapsed)} seeds and {v.draws} draws, if these are all "
        f"that were run.{why}"
        for arm, v in verdicts.items()
    ]
    return [grades[point] for point in sorted(grades)], sentences


def unpaired(arms: Arms, labels: dict[str, str], paired: list[str]) -> list[str]:
    """Faults: runs that one of the `paired` arms has and another lacks, and images that a run of
    any arm has not predicted."""
    present = [arm for arm in paired if arm in arms]
    all_runs = set().union(*(arms[arm] for arm in present))
    faults = [
        f"{arm} lacks seed {seed}, draw {draw}"
        for arm in present
        for seed, draw in sorted(all_runs - arms[arm].keys())
    ]
    seeds, draws = {seed for seed, _ in all_runs}, {draw for _, draw in all_runs}
    if len(all_runs) != len(seeds) * len(draws):
        faults.append(
            f"{len(seeds)} seeds and {len(draws)} draws are not crossed: {len(all_runs)} runs"
        )
    for arm, runs in arms.items():
        for (seed, draw), predictions in runs.items():
            if len(predictions) != len(labels):
                faults.append(
                    f"{arm}, seed {seed}, draw {draw}: {len(predictions)} of {len(labels)} images "
                    "are predicted"
                )
    return faults


def judge_arms(
    scores: dict[str, dict[RunKey, float]], arms: list[str], baseline: str, tested: int, name: str
) -> dict[str, Verdict]:
    """The verdict on each of `arms` against the baseline; all are judged in one report.

    Args:
        scores: the score of each run, by arm; the runs of all arms are paired.
        tested: number of test images.
        name: key of the score.
    """
    seeds = sorted({seed for seed, _ in scores[baseline]})
    draws = sorted({draw for _, draw in scores[baseline]})
    grids = {arm: [[scores[arm][s, d] for d in draws] for s in seeds] for arm in (baseline, *arms)}
    setting = Setting(tested=tested, score=score.NAMES[name], proportion=name == score.ACCURACY)
    comparisons = {arm: Comparison(grids[arm], grids[baseline]) for arm in arms}
    return dict(judge(comparisons, setting, frozen()).verdicts)
