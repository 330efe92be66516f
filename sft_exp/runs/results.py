"""What came of a job: results.json. Numbers are fractions."""

import json
from math import isfinite
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from sft_exp.core.arms import LABELS_ONLY, MAIN, SCRATCH, SINGLE
from sft_exp.data import splits
from sft_exp.jobs.stage_requests import Job
from sft_exp.store.store import Result
from sft_exp.training import health, metrics_log
from sft_exp.verdict import WITHHELD, Comparison, Report, Setting, frozen, judge


def results(job: Job) -> dict[str, Any]:
    """results.json of one job. Numbers are fractions."""
    e = job.experiment
    score = e.task.score
    scores = {arm: [scored(job, i) for i in places] for arm, places in job.arms.items()}
    labelled = [splits.make(job.corpus, job.labels, d) for d in range(e.draws)]
    main, copied = job.arms[MAIN], read(job.results["test"][0], "manifest.json")["copies"]
    report: Report[str] | None = None
    if (
        SCRATCH in scores
        and job.requests["pretrain"]
        and job.requests["finetune"][main[0]]["start"]
    ):
        report = judged(job, scores[MAIN], scores[SCRATCH], score, e.task.columns[score], SCRATCH)
    likelihoods = [read(r, "likelihood.json") for r in job.results["likelihood"]]
    return {
        "score": score,
        "score_name": e.task.columns[score],
        "test": average(scores[MAIN], score),
        "val": validation(job),
        "controls": {arm: average(s, score) for arm, s in scores.items() if arm != MAIN},
        "verdict": report.verdicts[MAIN].record() if report else {},
        "judgement": {**report.record(), "notes": list(report.notes)} if report else {},
        "heads": together(job, scores),
        "unlabelled": unlabelled(job, scores),
        "likelihood": likelihoods[0] if likelihoods else {},
        "stages": {
            "pretrain": {
                **about(started_from(job)),
                **transferred(started_from(job)),
                **last(started_from(job)),
            },
            "finetune": {
                **about([job.results["finetune"][i] for i in main]),
                "converged": not unsettled(job),
                **rates(job),
            },
            "evaluate": about([job.results["evaluate"][i] for i in main]),
            **{
                name: about(job.results[name])
                for name in ("search", "validate", "compress", "bill")
                if job.results[name]
            },
            **(
                {"export": {**about(made), **read(made[0], "export.json")}}
                if (made := job.results["export"])
                else {}
            ),
        },
        "data": {
            "name": job.corpus.name,
            "manifest": job.corpus.fingerprint,
            "test_manifest": job.corpus.test_fingerprint,
            "copies": len(copied),
            "transductive": e.protocol.transductive,
            "train": len(job.corpus.train),
            "labelled": len(labelled[0].labelled),
            "val": validated(job),
            "test": len(labelled[0].test),
            "classes": len(job.corpus.classes),
            "strata": len(job.corpus.strata),
            # images tested over trained on, where draws are folds of one set
            "ratio": fmean(d.ratio for d in labelled),
        },
        "draws": {arm: [s[score] for s in rows] for arm, rows in scores.items()},
        "faults": {arm: found for arm in job.arms if any(found := faults(job, arm))},
        "bill": read(job.results["bill"][0], "bill.json") if job.results["bill"] else {},
        "folders": {
            "data": job.results["data"][0].folder.name,
            "test": job.results["test"][0].folder.name,
            "arms": {
                arm: [job.results["evaluate"][i].folder.name for i in places]
                for arm, places in job.arms.items()
            },
        },
    }


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


def together(job: Job, scores: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    """Of a task that learns several things at once, each against itself alone, paired over the draws."""
    found = {}
    for name, task in job.experiment.task.alone().items():
        _, metric = task.columns
        alone = scores.get(f"{SINGLE}{name}")
        if alone and all(metric in s for s in (*scores[MAIN], *alone)):
            ways = ("together", "alone")
            found[name] = beside(
                job,
                scores[MAIN],
                alone,
                metric,
                task.columns[metric],
                ways,
                SHARING,
                f"{SINGLE}{name}",
            )
    return found


def unlabelled(job: Job, scores: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    """Of a task that learns from images without labels, against the labels alone from the same start; empty if not asked for."""
    if LABELS_ONLY not in scores:
        return {}
    task = job.experiment.task
    ways = ("with unlabelled images", "with the labels alone")
    return beside(
        job,
        scores[MAIN],
        scores[LABELS_ONLY],
        task.score,
        task.columns[task.score],
        ways,
        ADDING,
        LABELS_ONLY,
    )


def beside(
    job: Job,
    ours: list[dict[str, float]],
    theirs: list[dict[str, float]],
    metric: str,
    name: str,
    ways: tuple[str, str],
    says: dict[str, str],
    arm: str,
) -> dict[str, Any]:
    """A verdict on a difference that is not the pretraining's, from the arm `theirs`, and its sentence."""
    said = judged(job, ours, theirs, metric, name, arm).verdicts[MAIN]
    interval = f" ({100 * said.low:+.1f} to {100 * said.high:+.1f})" if isfinite(said.low) else ""
    a, b = (fmean(s[metric] for s in rows) for rows in (ours, theirs))
    means = f"{100 * a:.1f} {ways[0]}, {100 * b:.1f} {ways[1]}"
    text = f"{name}: {means}, {100 * said.difference:+.1f} points{interval}"
    if said.word == WITHHELD:
        how = health.said(faults(job, arm))
        return {**said.record(), "text": f"{text}; no verdict: {ways[1]}, it {how}."}
    return {**said.record(), "text": f"{text}: {says[said.word]}."}


def judged(
    job: Job,
    ours: list[dict[str, float]],
    theirs: list[dict[str, float]],
    metric: str,
    name: str,
    arm: str,
) -> Report[str]:
    """The report on the main arm against another one, `theirs`, by a metric that people call `name`."""
    draws = [splits.make(job.corpus, job.labels, d) for d in range(job.experiment.draws)]
    comparison = Comparison(
        [[s[metric] for s in ours]],
        [[s[metric] for s in theirs]],
        all_labels=job.labels.count == "all" and job.corpus.test is not None,
    )
    setting = Setting(
        tested=len(draws[0].test),
        ratio=fmean(d.ratio for d in draws),
        score=name,
        proportion=is_proportion(metric),
        points=True,
    )
    noted = health.noted(comparison, [faults(job, MAIN)], [faults(job, arm)])
    return judge({MAIN: noted}, setting, frozen(), [job.corpus.name])


def is_proportion(metric: str) -> bool:
    """Whether the metric is a share of test images: what else is averaged over classes, boxes or images varies otherwise."""
    return metric.rpartition("/")[2] == "accuracy"


def faults(job: Job, arm: str) -> list[str]:
    """How the arm's training failed in each draw (`health.fault`); empty strings where it did not."""
    return [health.of(job.results["finetune"][i].folder) for i in job.arms[arm]]


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
    if job.labels.count == "all" and job.corpus.test is not None:
        which = "the chosen" if job.labels.table else "all"
        return f"{e.draws} initialisations and orders for {which} labels, one pretraining seed."
    if job.corpus.test is None:
        return f"{e.draws} folds of one data set, one pretraining seed."
    return f"{e.draws} label draws, one pretraining seed."


def validation(job: Job) -> dict[str, float]:
    if job.experiment.val == "cv":
        return average(
            [read(r, "scores.json") for r in job.results["validate"]], job.experiment.task.score
        )
    if job.experiment.val in ("holdout", "full"):
        return average(
            [
                read(job.results["finetune"][i], "validation.json")
                for i in job.arms[MAIN]
                if (job.results["finetune"][i].folder / "validation.json").exists()
            ],
            job.experiment.task.score,
        )
    return {}


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
    found = [json.loads((folder / "lr.json").read_text()) for folder in folders]
    return (
        {"lr": [f["lr"] for f in found], "lr_at_edge": any(f.get("edge", False) for f in found)}
        if found
        else {}
    )


def transferred(found: list[Result]) -> dict[str, Any]:
    """Where the pretraining's weights began in a file: which, how many of the encoder's layers came from it, and which did
    not."""
    if not found or not (found[0].folder / "transfer.json").exists():
        return {}
    report = read(found[0], "transfer.json")
    return {
        "transfer": {
            name: report[name]
            for name in ("file", "layers", "loaded", "missing", "resized", "images")
        }
    }


def last(found: list[Result]) -> dict[str, Any]:
    """The metrics at the end of the pretraining, of several (one a fold) of the first."""
    rows = metrics_log.read(found[0].folder) if found else []
    return {"last": rows[-1]} if rows else {}


def about(found: list[Result]) -> dict[str, Any]:
    """Of several folders (one a draw): the first, whether all were there, and their seconds together."""
    if not found:
        return {}
    return {
        "folder": str(found[0].folder),
        "cached": all(r.cached for r in found),
        "seconds": round(sum(r.seconds for r in found), 3),
    }


def scored(job: Job, place: int) -> dict[str, float]:
    """All scores of one model on the test images: those of its task, and those that `metrics` adds."""
    count = len(job.results["metrics"]) // len(job.results["evaluate"])
    further = job.results["metrics"][place * count : (place + 1) * count]
    found = read(job.results["evaluate"][place], "scores.json")
    for result in further:
        found |= read(result, "scores.json")
    return found


def read(result: Result, file: str) -> Any:
    return json.loads((result.folder / file).read_text())
