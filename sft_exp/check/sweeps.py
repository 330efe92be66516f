"""Grades that need several runs: none was left out, and a study's statements follow from its runs."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import pairwise
from math import isclose
from pathlib import Path
from typing import Any

from sft_exp.check import runs, standard_1
from sft_exp.check.artefacts import Run
from sft_exp.check.standard import Grade, ok
from sft_exp.compare import comparison
from sft_exp.core.arms import MAIN, SCRATCH
from sft_exp.errors import DataError
from sft_exp.store import results
from sft_exp.store.results import is_proportion
from sft_exp.studies import attribution as steps
from sft_exp.studies import label_efficiency as curve
from sft_exp.studies.label_efficiency import pretraining_of
from sft_exp.training import health
from sft_exp.verdict import SAYS, WITHHELD, Setting
from sft_exp.verdict.sequential import Look, retake

# keys of a request that differ between repetitions of one experiment
REPETITION = frozenset({"seed", "draw", "fold"})


def seeds(graded: Sequence[Run], missing: Iterable[str]) -> Grade:
    """Point 6.4: every job has a result, and the store holds no other seed or draw of the same experiments."""
    faults = [f"{name} has no result" for name in missing]
    reported: dict[tuple[Path, str], set[tuple[int, int]]] = {}
    for run in graded:
        for evaluation in (e for arms in run.by_seed for e in arms[MAIN]):
            key = run.store.root, experiment_key(run, evaluation.finetune)
            reported.setdefault(key, set()).add(seed_and_draw(run, evaluation.finetune))
    for run in {r.store.root: r for r in graded}.values():
        others = []
        for name in run.store.of_stage("finetune"):
            repetitions = reported.get((run.store.root, experiment_key(run, name)), set())
            if repetitions and seed_and_draw(run, name) not in repetitions:
                others.append((*seed_and_draw(run, name), name))
        for seed, draw, name in sorted(others):
            faults.append(
                f"seed {seed}, draw {draw} was run too ({name}) and is not among the graded runs"
            )
    return ok("6.4", faults)


def experiment_key(run: Run, finetune: str) -> str:
    """A key that is equal for repetitions of one experiment with other seeds and draws."""
    return json.dumps(run.store.expanded(run.store.request(finetune), REPETITION), sort_keys=True)


def seed_and_draw(run: Run, finetune: str) -> tuple[int, int]:
    """(seed, draw) of a fine-tuning."""
    request = run.store.request(finetune)
    start = run.store.request(request["start"]) if request["start"] else request
    # heads in closed form have no seed of their own
    return (request if request["optim"] else start)["seed"], request["draw"]


def study(folder: Path, graded: Sequence[Run]) -> list[Grade]:
    """Points 4.6, 7.1 and 7.2 of a study, whose verdicts are computed again from predictions."""
    about = json.loads((folder / "study.json").read_text())
    if "steps" in about:
        return attribution(about, graded)
    if "cells" not in about:  # the study states no gains
        return []
    cells: dict[tuple[str, str], dict[int, Run]] = {}
    for run in graded:
        config = run.result["config"]
        pretraining = {
            "pretrainer": run.result["choices"]["pretrainer"],
            "pretrainer.init": config["pretrainer"].get("init"),
        }
        key = pretraining_of(pretraining), str(config["labels"])
        of_cell, seed = cells.setdefault(key, {}), config["seed"]
        if seed not in of_cell or config["draws"] > of_cell[seed].result["config"]["draws"]:
            of_cell[seed] = run  # a study with several looks has run a seed again, with more draws
    if "judgement" not in about:
        return cells_by_standard_1(about, graded, cells)
    stated = {(c["pretrainer"], c["labels"]): c for c in about["cells"]}
    faults, words = [f"{name(key)} is missing" for key in cells if key not in stated], []
    looks = [Look.read(record) for record in about.get("looks", [])]
    if not looks and len({len(of) for of in cells.values()}) > 1:
        faults.append("its cells have different numbers of seeds")
    arms = {
        key: curve.Arms(
            [of[s].scores(MAIN) for s in sorted(of)],
            [of[s].scores(SCRATCH) for s in sorted(of)],
            [of[s].faults(MAIN) for s in sorted(of)],
            [of[s].faults(SCRATCH) for s in sorted(of)],
        )
        for key, of in cells.items()
    }
    try:
        studies = runs.archive(about["judgement"])
    except DataError as error:
        return [ok(point, [str(error)]) for point in ("7.1", "7.2")]
    margin = about["study"]["margin"]
    common, name_of_set = setting(graded, margin), dataset(graded)
    if looks:
        by_cell = curve.comparisons_of(arms, about["primary"], common.ratio > 0)
        comparisons = {curve.key(cell): compared for cell, compared in by_cell.items()}
        retaken = retake(looks, comparisons, common, studies, [name_of_set])
        words += [
            f"look {n}: its words or the alpha it spent do not follow from the runs"
            for n, (stated_look, expected) in enumerate(zip(looks, retaken, strict=True), 1)
            if (stated_look.words, stated_look.alpha) != (expected.words, expected.alpha)
        ]
        looks = retaken
    report = curve.judged(arms, about["primary"], common, studies, name_of_set, looks)
    for key, cell in stated.items():
        if key not in report.verdicts:
            faults.append(f"{name(key)} has no runs")
            continue
        number_faults, word_faults = runs.compared(cell, report.verdicts[key].record())
        if not any(cell["text"] in sentence for sentence in about["sentences"]):
            word_faults.append("its text is not among the study's sentences")
        faults += [f"{name(key)}: {fault}" for fault in number_faults]
        words += [f"{name(key)}: {fault}" for fault in word_faults]
    broken = [
        f"{name(key)}: a word is given, and {SCRATCH} failed"
        for key, verdict in report.verdicts.items()
        if verdict.word == WITHHELD and stated.get(key, {"word": WITHHELD})["word"] != WITHHELD
    ]
    return [ok("4.6", broken), ok("7.1", faults), ok("7.2", words)]


def setting(graded: Sequence[Run], margin: float) -> Setting:
    """The setting of a study's comparisons, from its runs."""
    first = graded[0]
    return Setting(
        tested=len(first.predictions[first.arms[MAIN][0]].rows),
        ratio=sum(runs.ratio(r) for r in graded) / len(graded),
        score=runs.score_name(first),
        proportion=is_proportion(first.score),
        points=True,
        margin=margin,
    )


def dataset(graded: Sequence[Run]) -> str:
    return str(graded[0].result["data"]["name"])


def cells_by_standard_1(
    about: dict[str, Any], graded: Sequence[Run], cells: dict[tuple[str, str], dict[int, Run]]
) -> list[Grade]:
    """Points 4.6, 7.1 and 7.2 of a study of version 1.0 or 1.1 of the standard."""
    gains = {key: [gain(of[seed]) for seed in sorted(of)] for key, of in cells.items()}
    ratio = sum(runs.ratio(r) for r in graded) / len(graded)
    stated = {(c["pretrainer"], c["labels"]): c for c in about["cells"]}
    faults, words = [f"{name(key)} is missing" for key in gains if key not in stated], []
    if len({len(of) for of in gains.values()}) > 1:
        faults.append("its cells have different numbers of seeds")
    judged = standard_1.judge_all(
        gains, [k for k in gains if k[1] == about["primary"]], ratio, about["study"]["margin"]
    )
    verdicts, broken = {}, []
    for key, judgement in judged.items():
        scratch = health.said([f for r in cells[key].values() for f in r.faults(SCRATCH)])
        withheld = key in stated and stated[key]["word"] == WITHHELD
        verdicts[key] = judgement.withheld(bool(scratch) and withheld)
        if scratch and not withheld:
            broken.append(f"{name(key)}: a word is given, and {SCRATCH} {scratch}")
    for key, cell in stated.items():
        if key not in verdicts:
            faults.append(f"{name(key)} has no runs")
            continue
        expected = verdicts[key]
        for field in ("difference", "low", "high", "level"):
            if not isclose(cell[field], value := getattr(expected, field), abs_tol=runs.CLOSE):
                faults.append(
                    f"{name(key)}: {field} {100 * cell[field]:.2f} stated, {100 * value:.2f} made "
                    "from the draws"
                )
        same_text = cell["text"].startswith(SAYS[expected.word]) and any(
            cell["text"] in sentence for sentence in about["sentences"]
        )
        if cell["word"] != expected.word or not same_text:
            words.append(f"{name(key)}: `{cell['word']}` stated, `{expected.word}` follows")
    return [ok("4.6", broken), ok("7.1", faults), ok("7.2", words)]


def job_grades(folder: Path, grades: list[Grade]) -> list[Grade]:
    """The grades of a study's jobs.

    The jobs of an attribution are not graded on points 4.4 and 4.5, because each arm is a job.
    """
    if "steps" not in json.loads((folder / "study.json").read_text()):
        return grades
    why = "the arms of an attribution are jobs of their own"
    return [replace(g, passed=None, reason=why) if g.point in ("4.4", "4.5") else g for g in grades]


def attribution(about: dict[str, Any], graded: Sequence[Run]) -> list[Grade]:
    """Points 4.6, 7.1 and 7.2 of an attribution's steps."""
    levels: dict[str, dict[int, list[float]]] = {}
    for run in graded:
        config = run.result["config"]
        for arm in run.arms:
            level = config["name"] if arm == MAIN else arm
            levels.setdefault(level, {})[config["seed"]] = run.scores(arm)
    arms, faults, words = list(about["arms"]), [], []
    if missing := [arm for arm in arms if arm not in levels]:
        return [ok(point, [f"{arm} has no runs" for arm in missing]) for point in ("7.1", "7.2")]
    seeds = sorted(set.intersection(*(set(levels[arm]) for arm in arms)))
    scores = {arm: [levels[arm][seed] for seed in seeds] for arm in arms}
    if "judgement" not in about:
        return steps_by_standard_1(about, graded, arms, scores)
    failures: steps.Faults = {}
    for run in graded:
        config = run.result["config"]
        failures.setdefault(config["name"], {})[config["seed"]] = run.faults(MAIN)
    common = setting(graded, about["study"]["margin"])
    all_labels = str(graded[0].result["config"]["labels"]) == "all" and common.ratio == 0
    try:
        studies = runs.archive(about["judgement"])
    except DataError as error:
        return [ok(point, [str(error)]) for point in ("7.1", "7.2")]
    report = steps.judged(scores, failures, all_labels, common, studies, dataset(graded))
    broken: list[str] = []
    for arm, verdict in report.verdicts.items():
        stated = about["steps"][arm]
        number_faults, word_faults = runs.compared(stated, verdict.record())
        if steps.sentence(arm, stated) not in about["sentences"]:
            word_faults.append("its sentence is not among the study's")
        if verdict.word == WITHHELD and stated["word"] != WITHHELD:
            broken.append(f"{arm}: a word is given, and the training of the arm before it failed")
        faults += [f"{arm}: {fault}" for fault in number_faults]
        words += [f"{arm}: {fault}" for fault in word_faults]
    return [ok("4.6", broken), ok("7.1", faults), ok("7.2", words)]


def steps_by_standard_1(
    about: dict[str, Any],
    graded: Sequence[Run],
    arms: list[str],
    scores: dict[str, list[list[float]]],
) -> list[Grade]:
    """Points 4.6, 7.1 and 7.2 of an attribution of version 1.0 or 1.1 of the standard."""
    faults, words = [], []
    level = standard_1.bonferroni(standard_1.LEVEL, len(arms) - 1)
    broken: list[str] = []
    for before, arm in pairwise(arms):
        stated = about["steps"][arm]
        runs_before = [run for run in graded if run.result["config"]["name"] == before]
        how = health.said([fault for run in runs_before for fault in run.faults(MAIN)])
        withheld = bool(how) and stated["word"] == WITHHELD
        gains = [
            [b - a for a, b in zip(*pair, strict=True)]
            for pair in zip(scores[before], scores[arm], strict=True)
        ]
        _, low, high = standard_1.interval(gains, level=level)
        expected = standard_1.judge(gains, 0.0, about["study"]["margin"], level)
        # attributions had no rule for equal gains
        word = standard_1.word_of(low, high, about["study"]["margin"])
        expected = replace(expected, word=word, low=low, high=high).withheld(withheld)
        if how and not withheld:
            broken.append(f"{arm}: a word is given, and {before} {how}")
        for field in ("difference", "low", "high", "level"):
            value = getattr(expected, field)
            if not isclose(stated[field], value, rel_tol=1e-4, abs_tol=runs.CLOSE):
                faults.append(
                    f"{arm}: {field} {100 * stated[field]:.2f} stated, {100 * value:.2f} made from "
                    "the draws"
                )
        if stated["word"] != expected.word:
            words.append(f"{arm}: `{stated['word']}` stated, `{expected.word}` follows")
    return [ok("4.6", broken), ok("7.1", faults), ok("7.2", words)]


def name(key: tuple[str, str]) -> str:
    return f"{key[0]}, labels={key[1]}"


def gain(run: Run) -> list[float]:
    return [a - b for a, b in zip(run.scores(MAIN), run.scores(SCRATCH), strict=True)]


def unfinished(folder: Path) -> list[str]:
    """Names of the jobs that are not finished."""
    return [f"job {job.name}" for job in comparison.collect([folder]) if not finished(job)]


def jobs(folder: Path) -> list[Path]:
    """Folders of a sweep's finished jobs, or the folder of a single run."""
    return [job.folder for job in comparison.collect([folder]) if finished(job)]


def finished(job: comparison.Job) -> bool:
    """Whether the job left test scores. A results.json that lacks something else counts as finished:
    what it lacks is graded."""
    try:
        record = json.loads((job.folder / results.FILE).read_text())
        scored = record.get("score", "accuracy") in record["test"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False
    return job.status.get("state") == "done" and scored
