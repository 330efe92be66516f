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
Place = tuple[str, str]  # (seed, draw)
Cells = dict[str, dict[Place, dict[str, str]]]  # arm -> place -> id -> class predicted


def read(files: Sequence[Path], truth: Path | None) -> tuple[Cells, dict[str, str], list[str]]:
    """(predictions, id -> label, faults).

    Raises:
        DataError: a file is not a table of predictions.
    """
    cells: Cells = {}
    labels = {row["id"]: row["label"] for row in rows(truth, ("id", "label"))} if truth else {}
    faults = []
    for file in files:
        for number, row in enumerate(rows(file, NEEDED), start=2):
            where = f"{file.name}, line {number}"
            one = cells.setdefault(row["arm"], {}).setdefault(
                (row["seed"], row.get("draw") or "0"), {}
            )
            if row["id"] in one:
                faults.append(f"{where}: {row['id']} was predicted before")
            one[row["id"]] = row["class"]
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
    return cells, labels, faults


def rows(file: Path, needed: Sequence[str]) -> list[dict[str, str]]:
    """The rows of a CSV file with the needed columns."""
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
    """(grades of all points, the verdicts' texts)."""
    cells, labels, faults = read(files, truth)
    code: dict[str, int] = {}
    for label in labels.values():
        code.setdefault(label, len(code))
    share, commonest = score.commonest(code[label] for label in labels.values())
    name = score.BALANCED if share > score.UNEQUAL else score.ACCURACY

    def scored(predicted: dict[str, str]) -> float:
        if name == score.ACCURACY:
            return fmean(labels[i] == c for i, c in predicted.items())
        answers = [(code[labels[i]], code.setdefault(c, len(code))) for i, c in predicted.items()]
        return score.balanced_accuracy(answers)

    accuracy = {arm: {p: scored(one) for p, one in places.items()} for arm, places in cells.items()}
    compared = [arm for arm in cells if arm != baseline and arm not in FLOORS]
    grades = {
        point: unknown(point, f"predictions do not show {what}") for point, what in HIDDEN.items()
    }
    grades["6.2"] = ok("6.2", faults)
    grades["6.3"] = ok("6.3", unpaired(cells, labels, [baseline, *compared]))
    missing = [arm for arm in (baseline, *FLOORS) if arm not in cells]
    grades["4.4"] = ok("4.4", [f"there is no arm {arm}" for arm in missing])
    baselines = {arm: fmean(accuracy[arm].values()) for arm in FLOORS if arm in cells}
    low = [
        f"failed to learn: {arm} has {100 * fmean(accuracy[arm].values()):.1f} %, "
        f"{floor} {100 * value:.1f} %"
        for arm in compared
        for floor, value in baselines.items()
        if value >= fmean(accuracy[arm].values())
    ]
    grades["4.5"] = ok("4.5", low) if baselines else unknown("4.5", "there are no baselines")
    counts = {arm: len(cells[arm]) for arm in compared}
    single = [
        f"{arm} has one run; a test over its images (McNemar) says nothing about the method"
        for arm, n in counts.items()
        if n < 2
    ]
    grades["7.3"] = ok("7.3", single or ([] if compared else ["there is nothing to compare"]))
    paired = baseline in cells and grades["6.3"].passed and not single
    verdicts = (
        judged(accuracy, compared, baseline, len(labels), name) if paired and compared else {}
    )
    why = ""
    if name == score.BALANCED:
        why = f" By balanced accuracy: {100 * share:.0f} % of the labels are {[*code][commonest]}."
    return [grades[point] for point in sorted(grades)], [
        f"{arm}: {v.text} {v.seeds + len(v.collapsed)} seeds and {v.draws} draws, if these are all "
        f"that were run.{why}"
        for arm, v in verdicts.items()
    ]


def unpaired(cells: Cells, labels: dict[str, str], arms: list[str]) -> list[str]:
    """Faults: runs that one arm has and another lacks, and images that were not predicted."""
    known = [arm for arm in arms if arm in cells]
    every_run = set().union(*(cells[arm] for arm in known))
    faults = [
        f"{arm} lacks seed {seed}, draw {draw}"
        for arm in known
        for seed, draw in sorted(every_run - cells[arm].keys())
    ]
    seeds, draws = ({place[i] for place in every_run} for i in (0, 1))
    if len(every_run) != len(seeds) * len(draws):
        faults.append(
            f"{len(seeds)} seeds and {len(draws)} draws are not crossed: {len(every_run)} runs"
        )
    for arm, places in cells.items():
        for (seed, draw), predicted in places.items():
            if len(predicted) != len(labels):
                faults.append(
                    f"{arm}, seed {seed}, draw {draw}: {len(predicted)} of {len(labels)} images are "
                    "predicted"
                )
    return faults


def judged(
    accuracy: dict[str, dict[Place, float]], arms: list[str], baseline: str, tested: int, name: str
) -> dict[str, Verdict]:
    """The verdict on each arm; all arms are judged in one report."""
    seeds, draws = (sorted({place[i] for place in accuracy[baseline]}) for i in (0, 1))
    scores = {
        arm: [[accuracy[arm][s, d] for d in draws] for s in seeds] for arm in (baseline, *arms)
    }
    setting = Setting(tested=tested, score=score.NAMES[name], proportion=name == score.ACCURACY)
    comparisons = {arm: Comparison(scores[arm], scores[baseline]) for arm in arms}
    return dict(judge(comparisons, setting, frozen()).verdicts)
