"""Notes on what a result leaves open, and the next command worth running, chosen by a small fixed
rule."""

import shlex
from collections.abc import Iterable
from dataclasses import asdict
from math import sqrt
from statistics import fmean
from typing import Any

from sft_exp.config.schema import Experiment
from sft_exp.core.arms import CONTROLS, LABELS_ONLY, MAIN, MORE_FLOORS, PIXELS, SCRATCH
from sft_exp.data.splits import FOLDS
from sft_exp.guidance import knowledge
from sft_exp.jobs import prepare
from sft_exp.jobs.stage_requests import Job
from sft_exp.models import transfer
from sft_exp.runs import results
from sft_exp.store import provenance
from sft_exp.store.results import Gain, Results
from sft_exp.training import health
from sft_exp.verdict import MOST, WITHHELD

Changes = dict[str, Any]  # key -> new value
Faults = dict[str, list[str]]  # arm -> how its training failed in each labelled split

BASELINES = {*CONTROLS, *MORE_FLOORS, LABELS_ONLY} - {SCRATCH}  # what a result should beat
# macro precision exceeds recall by this much only where few classes take most of the predictions
UNEVEN = 0.2
NEVER = "not pretrained"  # the main arm's name where pretrainer=none
VOID = {  # changed key -> keys that lose their meaning
    "encoder": ("encoder.", "features."),
    "pretrainer": ("pretrainer.", "features."),
    "finetune.steps": (
        "finetune.epochs",
        "finetune.max_steps",
        "finetune.schedule_length",
        "finetune.resume_from",
    ),
    "labels": ("labels_total",),
    "strategy": ("strategy.",),
    "task": ("task.",),
}
BEST = "this is as good as it gets here: docs/results knows of nothing better"
OUTSIDE = "validation uses labels outside the budget"
VALIDATION = {
    "cv": "val=cv: folds of the labels, each held out once",
    "holdout": "val=holdout: a fold of the labels chooses the epoch",
    "none": "val=none: nothing is chosen",
    "full": f"val=full: {OUTSIDE}",
}
TRANSDUCTIVE = (
    "protocol.transductive=true: test images, without their labels, may have been pretrained on"
)


def notes(job: Job, result: Results) -> list[str]:
    """Sentences that a reader of the verdict must also know."""
    sentences = []
    if result.verdict is None:
        missing = (
            "pretrainer=none starts from scratch"
            if no_pretraining(job.experiment)
            else "controls leaves scratch out"
        )
        sentences.append(
            f"No verdict: it needs a pretrained model and the same one from scratch, and {missing}."
        )
    sentences.append(repeated(job, result))
    sentences += [
        f"{arm} {health.said(faults)}."
        for arm, faults in result.faults.items()
        if f"{arm} {health.state(faults)}" not in sentence(result)
    ]
    sentences.append(weak_control(result))
    tuned = result.stages.finetune
    if not converged(result) and (arms := " and ".join(results.falling(job))):
        sentences.append(
            f"not converged: the training loss ({arms}) was still falling at the end of the fine-tuning."
        )
    if tuned and tuned.lr_at_edge:
        sentences.append(
            "The best learning rate lies at the edge of those tried: widen optim.hints.search.lr."
        )
    if better := floors(result):
        beaten_by = [f"does not beat {arm} ({100 * score:.1f} %)" for arm, score in better.items()]
        sentences.append(f"The result {', '.join(beaten_by)}.")
    sentences += [chance(result), uneven(result)]
    sentences += [head.text for head in result.heads.values()]
    sentences += [result.unlabelled.text] if result.unlabelled else []
    sentences += result.judgement.notes if result.judgement else []
    sentences += [generated(result), copied(job, result), related(job), reused(job, result)]
    return [text for text in sentences if text]


def repeated(job: Job, result: Results) -> str:
    """The scores of all pretraining seeds; "" if there is one."""
    if not result.other_seeds:
        return ""
    seeds = [str(job.experiment.seed), *result.other_seeds]
    draws = [result.draws, *(other.draws for other in result.other_seeds.values())]
    means = {arm: [f"{100 * fmean(of[arm]):.1f}" for of in draws] for arm in (MAIN, SCRATCH)}
    scores = "; ".join(f"{arm} {listed(of)}" for arm, of in means.items())
    name = prepare.columns(job.experiment)[result.score]
    return f"{name} with pretraining seeds {listed(seeds)}: {scores}."


def listed(words: Iterable[str]) -> str:
    """`0, 1 and 2`"""
    *others, last = words
    return f"{', '.join(others)} and {last}" if others else last


def chance(result: Results) -> str:
    """A sentence if the test accuracy is not above that of guessing (one-sided test at 5 %), else ""."""
    classes, data = result.data.classes, result.data
    if result.score != "accuracy" or classes < 2:
        return ""
    # folds test other images in each labelled split, a test set the same ones
    tested = data.test * (min(len(result.draws[MAIN]), FOLDS) if data.ratio else 1)
    guessing = 1 / classes
    if result.tested > guessing + 1.645 * sqrt(guessing * (1 - guessing) / tested):
        return ""
    problem = (
        f"The accuracy, {100 * result.tested:.1f} %, is not above that of guessing among "
        f"{classes} classes, {100 * guessing:.1f} %"
    )
    if result.tested > guessing:
        luck = f"by more than chance gives on {tested:,} test images"
        return f"{problem}, {luck}: nothing shows that the model has learned anything."
    return f"{problem}: the model has learned nothing that it can use."


def uneven(result: Results) -> str:
    """A sentence if few classes take most of the predictions, else "".

    Semi-supervised training may end so while every labelled image is still predicted correctly, so
    that the training metrics do not show it.
    """
    precision, recall = (result.test.get(name) for name in ("precision", "recall"))
    if precision is None or recall is None or precision - recall < UNEVEN:
        return ""
    return (
        f"Few classes take most of the predictions: precision {100 * precision:.1f} %, recall {100 * recall:.1f} %. "
        "The training has collapsed to them, or the classes are very unequal."
    )


def sentence(result: Results) -> str:
    """The verdict's sentence; empty without a verdict."""
    return result.verdict.text if result.verdict else ""


def converged(result: Results) -> bool:
    """Whether the training losses of the arms that the verdict compares had stopped falling."""
    return result.stages.finetune is None or result.stages.finetune.converged


def weights(result: Results) -> str:
    """Which tensors came from a weights file, its checksum, how images are prepared, and what the file was
    trained on where that is known; "" without a file."""
    start = result.stages.pretrain
    if start is None or start.transfer is None:
        return ""
    report = start.transfer
    checksum = f"SHA-256 of the file {report.sha256}" if report.sha256 else None
    behind = f"the file was made by: {', then '.join(report.origin)}" if report.origin else None
    said = [transfer.sentence(asdict(report)), *report.resized, report.images, checksum, behind]
    return "; ".join(filter(None, said))


def pretraining(job: Job) -> str:
    """The method, the data set and the size of the images of the pretraining; "" without one."""
    starts = job.results.get("pretrain")
    return provenance.training_of(starts[0].folder) if starts else ""


def generated(result: Results) -> str:
    """The likelihood of test images, with the convention that makes it comparable; "" if not
    measured."""
    if (measured := result.likelihood) is None:
        return ""
    return (
        f"-log p(x) of {measured.images:,} test images: {measured.nll:.2f} nats "
        f"(+- {measured.standard_error:.2f}; {measured.samples} importance samples; "
        f"evidence bound {-measured.elbo:.2f}). Pixels: {measured.pixels}."
    )


def no_pretraining(e: Experiment) -> bool:
    return e.pretrainer.trained_by == "nothing"


def called(job: Job, arm: str, faults: Faults) -> str:
    """The arm's name in a table, and how its training failed if it did; "not pretrained" instead of
    "pretrained" under pretrainer=none."""
    name = NEVER if arm == MAIN and no_pretraining(job.experiment) else arm
    failure = health.state(faults.get(arm, []))
    return f"{name} ({failure})" if failure else name


def floors(result: Results) -> dict[str, float]:
    """The baselines whose mean score the result does not exceed: arm -> its score, best first."""
    scores = {arm: s[result.score] for arm, s in result.controls.items() if arm in BASELINES}
    best_first = sorted(scores.items(), key=lambda item: -item[1])
    return {arm: value for arm, value in best_first if value >= result.tested}


def weak_control(result: Results) -> str:
    """A sentence if pretraining helped against a scratch arm that models of the pixels beat in each
    labelled split, else ""."""
    if not (result.verdict and result.verdict.word == "helped"):
        return ""
    scratch = result.draws[SCRATCH]
    above = {
        arm: fmean(scores)
        for arm, scores in result.draws.items()
        if arm in PIXELS and all(a > b for a, b in zip(scores, scratch, strict=True))
    }
    if not above:
        return ""
    names = listed(f"{a} ({100 * s:.1f} %)" for a, s in sorted(above.items(), key=lambda i: -i[1]))
    return (
        f"The control is weak: from scratch, {100 * fmean(scratch):.1f} %, the network is below {names} in each labelled "
        "split. With more steps or augmentation scratch may be far better, and the gain smaller."
    )


def copied(job: Job, result: Results) -> str:
    """How many test images are copies of training images, and the scores without them; "" if there
    are none."""
    if not result.data.copies:
        return ""
    arms, score = {MAIN: result.test, **result.controls}, result.score
    apart = ", ".join(
        f"{called(job, arm, result.faults)} {100 * s[f'{score}_apart']:.1f}"
        for arm, s in arms.items()
        if f"{score}_apart" in s
    )
    count = f"{result.data.copies} test images are copies, exact or near, of images that may be learnt from"
    return f"{count}; {score} (%) on the others: {apart}." if apart else f"{count}."


def related(job: Job) -> str:
    """A warning if many test images look like training images; "" if not."""
    found = results.read(job.results["test"][0], "manifest.json").get("related")
    if not found:
        return ""
    test, train, alike = found["pair"]
    return (
        f"{100 * found['share']:.0f} % of the test images look like training images, as images of one person, patient or "
        f"video do: {test} and {train} correlate by {alike:.2f}. If they belong together, the test scores are too high; "
        "dataset.group= names the part of a file's name, or the column, whose images stay in one split."
    )


def reused(job: Job, result: Results) -> str:
    """Says which trained stages were cache hits; "" if none was."""
    stages = {r.folder: r.cached for rows in job.results.values() for r in rows}
    if all(stages.values()):
        return f"nothing was trained: all {len(stages)} stages were in the store."
    start = result.stages.pretrain
    return "pretraining reused." if start and start.cached else ""


def next_command(job: Job, result: Results, command: list[str]) -> tuple[str, str]:
    """(command line, why): `command` with the one change that would be most informative."""
    changes, why = next_change(job, result)
    return shlex.join(changed(command, changes)), why


def next_change(job: Job, result: Results) -> tuple[Changes, str]:
    """The next change: first settle doubts about the result, then beat the baselines, then sharpen
    the verdict."""
    e, verdict = job.experiment, result.verdict
    if (verdict and verdict.word == WITHHELD) or MAIN in result.faults:
        return slower(
            e
        ), "a training that fails is compared with nothing; a lower rate, the same for both arms"
    if not converged(result):
        steps = 2 * max(100, *(job.requests["finetune"][i]["stop"] for i in job.arms[MAIN]))
        return {
            "finetune.steps": steps
        }, "longer fine-tuning, until the training loss no longer falls"
    if no_pretraining(e):
        return {"pretrainer": knowledge.best_pretrainer()}, "what does pretraining add?"
    if not verdict:
        return {"controls": "true"}, "with the controls that a verdict needs"
    better = tuple(floors(result))
    step = knowledge.next_step(case(job, better))
    if step and (better or verdict.word == "hurt"):
        reason = f"{better[0]} is as good or better" if better else "pretraining hurt"
        return step.changes, f"{reason}; {known(step)}"
    if verdict.word == "cannot tell" and verdict.draws == 1:
        return {"draws": 10}, "one draw has no interval"
    if verdict.word == "cannot tell" and (needed := verdict.needed):
        seeds, draws = needed
        why = f"{draws} draws with {seeds} seeds would tell {points(verdict)} from nothing, if the spread stayed as it is"
        return {"draws": draws} if draws > e.draws else {"seeds": max(seeds, e.seeds + 1)}, why
    more_seeds = {"seeds": e.seeds + 2}
    if better or verdict.word == "hurt":
        return more_seeds, f"{BEST}; do more seeds agree?"
    if step:
        return step.changes, known(step)
    if fewer := fewer_labels(e, result.data.labelled, len(job.corpus.strata)):
        helped = verdict.word == "helped"
        enough = f"it helped, and {BEST}; does it with fewer labels?"
        small = f"{points(verdict)} is too small for {MOST} seeds and draws to tell; fewer labels leave more to gain"
        return fewer, enough if helped else small
    return more_seeds, "do more seeds agree?"


def slower(e: Experiment) -> Changes:
    """A tenth of the learning rate, or of the lowest that a search tries."""
    rate = e.optim.options["lr"]
    if not isinstance(rate, float):
        rate = min(e.optim.hints.get("search", {}).get("lr", [1e-3]))
    return {"optim.lr": float(f"{rate / 10:.1g}")}


def fewer_labels(e: Experiment, labelled: int, classes: int) -> Changes:
    """About half the labels; empty where that leaves fewer than one per class."""
    if e.labels_total:
        return {"labels_total": e.labels_total // 2} if e.labels_total // 2 >= classes else {}
    if str(e.labels).endswith(".csv"):
        return {"labels_total": labelled // 2} if labelled // 2 >= classes else {}
    if isinstance(e.labels, int):
        return {"labels": e.labels // 2} if e.labels > 1 else {}
    share = 100.0 if e.labels == "all" else float(e.labels[:-1])
    return {"labels": f"{share / 2:g}%"} if labelled // 2 >= classes else {}


def case(job: Job, better: tuple[str, ...]) -> knowledge.Case:
    """The lookup key of a job in the table of earlier results; `better` are the baselines it does
    not beat, best first."""
    e = job.experiment
    unlabelled = e.labels != "all" or job.corpus.extra is not None
    augmented = bool(getattr(e.task, "augment", False))
    return knowledge.Case(e.choices, augmented, job.corpus.image[0] == 1, unlabelled, better)


def known(step: knowledge.Step) -> str:
    unit = "points" if step.number[0] in "+-" else "%"
    return f"{step.name} reached {step.number} {unit} in {step.source}"


def changed(command: list[str], changes: Changes) -> list[str]:
    """The command with other values, without overrides that they make meaningless and without
    hydra.run.dir."""
    void = tuple(prefix for key in changes for prefix in VOID.get(key, ()))
    replaced = {*changes, "hydra.run.dir"}
    keys = [override.lstrip("+~").partition("=")[0] for override in command]
    unchanged = [
        override
        for key, override in zip(keys, command, strict=True)
        if key not in replaced and not key.startswith(void)
    ]
    return unchanged + [f"{key}={value}" for key, value in changes.items()]


def points(verdict: Gain) -> str:
    return f"{100 * verdict.difference:+.1f} points"
