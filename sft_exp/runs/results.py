"""The results of a job, from what its stages left in the store."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from math import isfinite
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from sft_exp.core.arms import LABELS_ONLY, MAIN, SCRATCH, SINGLE
from sft_exp.core.score import with_balanced
from sft_exp.data import splits
from sft_exp.jobs.prepare import columns
from sft_exp.jobs.stage_requests import Job
from sft_exp.stages import validate
from sft_exp.store.results import (
    Data,
    Export,
    Finetuning,
    Folders,
    Gain,
    Judgement,
    Likelihood,
    OtherSeed,
    Pretraining,
    Results,
    Stage,
    Stages,
    Transfer,
    is_proportion,
    parse_bill,
)
from sft_exp.store.store import Result
from sft_exp.training import health, metrics_log
from sft_exp.verdict import WITHHELD, Comparison, Report, Setting, Verdict, frozen, judge

# the control of the verdict, in words
FROM_SCRATCH = "the same model from scratch"
UNTRAINED = "the same head on an untrained network"


def results(job: Job, config: dict[str, Any]) -> Results:
    """What a finished job found. `config` is its configuration as resolved."""
    e = job.experiment
    score, names = e.score, columns(e)
    scores = scores_of(job, job.arms)
    main = job.arms[MAIN]
    report: Report[str] | None = None
    if (
        SCRATCH in scores
        and job.requests["pretrain"]
        and job.requests["finetune"][main[0]]["start"]
    ):
        report = report_against(
            job,
            scores[MAIN],
            scores[SCRATCH],
            score,
            names[score],
            SCRATCH,
            list(job.other_seeds.values()),
        )
    likelihoods = [read(r, "likelihood.json") for r in job.results["likelihood"]]
    return Results(
        score=score,
        score_name=names[score],
        test=average(scores[MAIN], score),
        val=validation(job),
        controls={arm: average(s, score) for arm, s in scores.items() if arm != MAIN},
        verdict=gain(report.verdicts[MAIN]) if report else None,
        judgement=Judgement(**report.record(), notes=[*report.verdicts[MAIN].notes, *report.notes])
        if report
        else None,
        heads=together(job, scores),
        unlabelled=unlabelled(job, scores),
        likelihood=Likelihood(**likelihoods[0]) if likelihoods else None,
        stages=stages(job),
        data=data(job),
        val_draws=validation_draws(job),
        draws={arm: [s[score] for s in of] for arm, of in scores.items()},
        faults={arm: how for arm in job.arms if any(how := faults(job, arm))},
        other_seeds={
            str(seed): OtherSeed(
                {arm: [s[score] for s in of] for arm, of in scores_of(job, arms).items()},
                {arm: how for arm, places in arms.items() if any(how := failed(job, places))},
            )
            for seed, arms in job.other_seeds.items()
        },
        benchmark=parse_bill(read(job.results["bill"][0], "bill.json"))
        if job.results["bill"]
        else None,
        folders=Folders(
            data=job.results["data"][0].folder.name,
            test=job.results["test"][0].folder.name,
            arms=evaluations(job, job.arms),
            other_seeds={str(s): evaluations(job, arms) for s, arms in job.other_seeds.items()},
        ),
        choices=e.choices,
        config=config,
    )


def scores_of(job: Job, arms: Mapping[str, list[int]]) -> dict[str, list[dict[str, float]]]:
    """Arm -> all scores of each labelled split."""
    return {arm: [scored(job, i) for i in places] for arm, places in arms.items()}


def evaluations(job: Job, arms: Mapping[str, list[int]]) -> dict[str, list[str]]:
    """Arm -> the names of its evaluations' folders."""
    return {
        arm: [job.results["evaluate"][i].folder.name for i in places]
        for arm, places in arms.items()
    }


def stages(job: Job) -> Stages:
    """What was computed where."""
    main, starts, exports = job.arms[MAIN], started_from(job), job.results["export"]
    trained = about([job.results["finetune"][i] for i in main])
    return Stages(
        pretrain=Pretraining(**about(starts), last=last(starts), transfer=transferred(starts))
        if starts
        else None,
        finetune=Finetuning(**trained, converged=not unsettled(job), **rates(job)),
        evaluate=Stage(**about([job.results["evaluate"][i] for i in main])),
        **{
            {"bill": "benchmark"}.get(name, name): Stage(**about(job.results[name]))
            for name in ("search", "validate", "compress", "bill")
            if job.results[name]
        },
        export=Export(**about(exports), **read(exports[0], "export.json")) if exports else None,
    )


def data(job: Job) -> Data:
    """The data set, and how many of its images were used for what."""
    labelled = [splits.make(job.corpus, job.labels, d) for d in range(job.experiment.draws)]
    return Data(
        name=job.corpus.name,
        manifest=job.corpus.fingerprint,
        test_manifest=job.corpus.test_fingerprint,
        copies=len(read(job.results["test"][0], "manifest.json")["copies"]),
        transductive=job.experiment.protocol.transductive,
        train=len(job.corpus.train),
        labelled=len(labelled[0].labelled),
        val=validated(job),
        test=len(labelled[0].test),
        classes=len(job.corpus.classes),
        strata=len(job.corpus.strata),
        ratio=fmean(d.ratio for d in labelled),
    )


def gain(verdict: Verdict, text: str = "") -> Gain:
    """The verdict as results.json states it, with another text if one is given.

    Its notes are among those of the judgement.
    """
    record = verdict.record()
    return Gain(
        **{
            **{key: value for key, value in record.items() if key != "notes"},
            "this": gain(verdict.this) if verdict.this else None,
            "text": text or verdict.text,
        }
    )


SHARING = {
    "helped": "it gains from the others",
    "hurt": "it suffers from the others (negative transfer)",
    "too small to matter": "the difference is too small to matter",
    "cannot tell": "cannot tell which is better",
}
ADDING = {
    **SHARING,
    "helped": "what is learnt without labels helps",
    "hurt": "what is learnt without labels hurts",
}


def together(job: Job, scores: dict[str, list[dict[str, float]]]) -> dict[str, Gain]:
    """Of a task that learns several things at once, each against itself alone, paired over the draws."""
    gains = {}
    for name, task in job.experiment.task.alone().items():
        _, metric = task.columns
        alone = scores.get(f"{SINGLE}{name}")
        if alone and all(metric in s for s in (*scores[MAIN], *alone)):
            ways = ("together", "alone")
            gains[name] = secondary_gain(
                job,
                scores[MAIN],
                alone,
                metric,
                task.columns[metric],
                ways,
                SHARING,
                f"{SINGLE}{name}",
            )
    return gains


def unlabelled(job: Job, scores: dict[str, list[dict[str, float]]]) -> Gain | None:
    """The gain of a semi-supervised task over its labels alone, from the same start; None if that arm was not run."""
    if LABELS_ONLY not in scores:
        return None
    e = job.experiment
    ways = ("with unlabelled images", "with the labels alone")
    return secondary_gain(
        job,
        scores[MAIN],
        scores[LABELS_ONLY],
        e.score,
        columns(e)[e.score],
        ways,
        ADDING,
        LABELS_ONLY,
    )


def secondary_gain(
    job: Job,
    main: list[dict[str, float]],
    control: list[dict[str, float]],
    metric: str,
    name: str,
    ways: tuple[str, str],
    phrases: dict[str, str],
    arm: str,
) -> Gain:
    """A verdict on a difference that is not the pretraining's, from the control `arm`, with its sentence."""
    verdict = report_against(job, main, control, metric, name, arm).verdicts[MAIN]
    interval = (
        f" ({100 * verdict.low:+.1f} to {100 * verdict.high:+.1f})" if isfinite(verdict.low) else ""
    )
    a, b = (fmean(s[metric] for s in rows) for rows in (main, control))
    means = f"{100 * a:.1f} {ways[0]}, {100 * b:.1f} {ways[1]}"
    text = f"{name}: {means}, {100 * verdict.difference:+.1f} points{interval}"
    if verdict.word == WITHHELD:
        how = health.said(faults(job, arm))
        return gain(verdict, f"{text}; no verdict: {ways[1]}, it {how}.")
    return gain(verdict, f"{text}: {phrases[verdict.word]}.")


def report_against(
    job: Job,
    main: list[dict[str, float]],
    control: list[dict[str, float]],
    metric: str,
    name: str,
    arm: str,
    other_seeds: Sequence[Mapping[str, list[int]]] = (),
) -> Report[str]:
    """The report on the main arm against the control `arm`, by a metric with the display name `name`.

    `other_seeds` are the two arms of further pretraining seeds, which are judged with the first.
    """
    draws = [splits.make(job.corpus, job.labels, d) for d in range(job.experiment.draws)]
    others = [scores_of(job, arms) for arms in other_seeds]
    comparison = Comparison(
        [[s[metric] for s in of] for of in (main, *(o[MAIN] for o in others))],
        [[s[metric] for s in of] for of in (control, *(o[arm] for o in others))],
        all_labels=job.labels.count == "all" and job.corpus.test is not None,
    )
    setting = Setting(
        tested=len(draws[0].test),
        ratio=fmean(d.ratio for d in draws),
        score=name,
        against=UNTRAINED if arm == SCRATCH and keeps_encoder(job) else FROM_SCRATCH,
        proportion=is_proportion(metric),
        points=True,
    )
    by_seed = [job.arms, *other_seeds]
    noted = health.noted(
        comparison,
        *([failed(job, arms[name]) for arms in by_seed] for name in (MAIN, arm)),
    )
    return judge({MAIN: noted}, setting, frozen(), [job.corpus.name])


def keeps_encoder(job: Job) -> bool:
    """Whether the labels train the head alone, so that scratch is a head on random features."""
    strategy = job.experiment.strategy
    return strategy.frozen or strategy.closed_form


def faults(job: Job, arm: str) -> list[str]:
    """How the arm's training failed in each draw (`health.fault`); empty strings where it did not."""
    return failed(job, job.arms[arm])


def failed(job: Job, places: Sequence[int]) -> list[str]:
    """How each of these fine-tunings failed; empty strings where one did not."""
    return [health.of(job.results["finetune"][i].folder) for i in places]


def falling(job: Job) -> list[str]:
    """Of the two arms that the verdict compares, those whose training loss had not stopped falling, and had not risen either."""
    return [
        arm
        for arm in unsettled(job)
        if not any(map(metrics_log.exploded, filter(None, losses(job, arm))))
    ]


def unsettled(job: Job) -> list[str]:
    """Of the same two, those whose training loss had not converged."""
    return [
        arm
        for arm in (MAIN, SCRATCH)
        if arm in job.arms and not metrics_log.converged(losses(job, arm))
    ]


def losses(job: Job, arm: str) -> list[list[float]]:
    """The arm's training losses, a list for each draw."""
    return [
        metrics_log.column(metrics_log.read(job.results["finetune"][i].folder), "loss")[1]
        for i in job.arms[arm]
    ]


def design(job: Job) -> str:
    """What was run several times, in a sentence."""
    e = job.experiment
    seeds = f"{e.seeds} pretraining seeds" if e.seeds > 1 else "one pretraining seed"
    if job.labels.count == "all" and job.corpus.test is not None:
        which = "the chosen" if job.labels.table else "all"
        return f"{e.draws} initialisations and orders for {which} labels, {seeds}."
    if job.corpus.test is None:
        return f"{e.draws} folds of one data set, {seeds}."
    return f"{e.draws} label draws, {seeds}."


def validation(job: Job) -> dict[str, float]:
    return average(validations(job), job.experiment.score)


def validations(job: Job) -> list[dict[str, float]]:
    """The validation scores of the main arm's labelled splits, of those that were validated."""
    e, records = job.experiment, []
    if e.val == "cv":
        folds_of: dict[int, list[Path]] = {}
        for request, result in zip(job.requests["validate"], job.results["validate"], strict=True):
            folds_of.setdefault(request["draw"], []).append(result.folder)
        records = [validate.averaged(folds) for folds in folds_of.values()]
    if e.val in ("holdout", "full"):
        records = [
            read(job.results["finetune"][i], "validation.json")
            for i in job.arms[MAIN]
            if (job.results["finetune"][i].folder / "validation.json").exists()
        ]
    return [with_balanced(scores, e.score) for scores in records]


def validation_draws(job: Job) -> list[float]:
    """The validation score of each labelled split; empty unless all of them have one."""
    score = job.experiment.score
    values = [scores[score] for scores in validations(job) if score in scores]
    return values if len(values) == len(job.arms[MAIN]) else []


def validated(job: Job) -> int:
    """Images that a draw's validation looks at."""
    if job.experiment.val == "cv" and job.requests["validate"]:
        return len(read(job.results["finetune"][job.arms[MAIN][0]], "labels.json")["labelled"])
    return len(read(job.results["finetune"][job.arms[MAIN][0]], "labels.json")["validation"])


def average(rows: list[dict[str, float]], score: str) -> dict[str, float]:
    """Means of what all rows have, and the standard deviation of the score."""
    if not rows:
        return {}
    means = {name: fmean(r[name] for r in rows) for name in rows[0] if all(name in r for r in rows)}
    return (
        {**means, f"{score}_sd": stdev([r[score] for r in rows]) if len(rows) > 1 else 0.0}
        if score in means
        else means
    )


def started_from(job: Job) -> list[Result]:
    """The pretrainings of the main arm: one, or one a fold."""
    starts = {job.requests["finetune"][i]["start"] for i in job.arms[MAIN]} - {None}
    return [r for r in job.results["pretrain"] if r.folder in starts]


def rates(job: Job) -> dict[str, Any]:
    """With lr=auto or search: the learning rate found for each draw of the main arm, and whether one lies at the grid's edge."""
    requests = [job.requests["finetune"][i] for i in job.arms[MAIN]]
    folders = [
        r["optim"].options["lr"]
        for r in requests
        if r["optim"] and isinstance(r["optim"].options["lr"], Path)
    ]
    searches = [json.loads((folder / "lr.json").read_text()) for folder in folders]
    return (
        {
            "lr": [f["lr"] for f in searches],
            "lr_at_edge": any(f.get("edge", False) for f in searches),
        }
        if searches
        else {}
    )


def transferred(results: list[Result]) -> Transfer | None:
    """How the pretraining's weights came from a file; None if they did not."""
    if not (results[0].folder / "transfer.json").exists():
        return None
    report = read(results[0], "transfer.json")
    return Transfer(**{f.name: report[f.name] for f in fields(Transfer) if f.name in report})


def last(results: list[Result]) -> dict[str, Any]:
    """The metrics at the end of the first pretraining; there are several where folds have their own."""
    rows = metrics_log.read(results[0].folder)
    return rows[-1] if rows else {}


def about(results: list[Result]) -> dict[str, Any]:
    """The fields of a `Stage` for its folders, one for each labelled split."""
    return {
        "folder": str(results[0].folder),
        "cached": all(r.cached for r in results),
        "seconds": round(sum(r.seconds for r in results), 3),
    }


def scored(job: Job, place: int) -> dict[str, float]:
    """All scores of one model on the test images: those of its task, and those that `metrics` adds."""
    count = len(job.results["metrics"]) // len(job.results["evaluate"])
    metric_results = job.results["metrics"][place * count : (place + 1) * count]
    scores = read(job.results["evaluate"][place], "scores.json")
    for result in metric_results:
        scores |= read(result, "scores.json")
    return with_balanced(scores, job.experiment.score)


def read(result: Result, file: str) -> Any:
    return json.loads((result.folder / file).read_text())
