"""Everything one experiment asks of the store, known before anything runs.

A request names its inputs by folder and folders are named by hash, so the plan, the checks and the run read the same list.

    job         an experiment with its requests, and what all of these have in common
    refusals    what does not fit together
    starts      what fine-tunings start from: pretrainings
    arms        what is compared: the main arm and its controls
    deployment  what is made of the finished model: compressed forms, exported files
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from sft_exp.config.schema import Experiment
from sft_exp.core import score
from sft_exp.core.arms import LONG, MAIN, SCRATCH
from sft_exp.core.metric import Metric
from sft_exp.data import duplicates, splits
from sft_exp.data.corpus import Corpus, Dataset
from sft_exp.data.splits import Draw, Labels
from sft_exp.errors import ConfigError, require
from sft_exp.jobs.arms import FOLDS, controls, features_of, finetuning, folds_of
from sft_exp.jobs.checks import (
    check_fit,
    check_optimizers,
    check_task,
    check_tested,
    metric_names,
    pretrained_on,
    teacher_of,
)
from sft_exp.jobs.deployment import add_deployment
from sft_exp.jobs.stage_requests import Job, add, going_on, model_parts, place
from sft_exp.jobs.starts import fitted, likely, pretraining
from sft_exp.models.feature_extractor import DENSE, FeatureExtractor
from sft_exp.stages import model, validate
from sft_exp.stages.cost import small_steps
from sft_exp.stages.features import STORED
from sft_exp.store.store import Request, Store
from sft_exp.training.context import corpus, pick

SEVERAL = 3  # pretraining seeds of seeds=auto
# Steps of a small network's training up to which a run's trainings are repeated with other seeds,
# about ten seconds of a core, and the stages that train.
SHORT, COSTLY = 10_000, ("pretrain", "search", "finetune")
ENOUGH = 50  # labels a class, from which val=auto validates a run (docs/standard.md, section 1)


def prepare(e: Experiment) -> Job:
    """All requests of an experiment, with everything checked that can be before compute: ConfigError or DataError."""
    pick(e.hardware.device)
    data = corpus(e.dataset)
    e = replace(e, strategy=e.strategy.resolved(partial(teacher_of, data)))
    check_task(e, data)
    e = replace(e, score=score_of(e, data))
    e = fitted(e, data.image)
    duplicates.refuse(data, e.protocol.transductive)
    labels = Labels.parse(e.labels, e.labels_total)
    draws = [splits.make(data, labels, d) for d in range(e.draws)]
    check_tested(e, min(len(draw.test) for draw in draws))
    if e.val == "auto":
        e = replace(e, val=validation(data, draws))
    if e.val == "full":
        splits.outside(data, draws[0])
    if e.val == "holdout":
        for draw in draws:
            splits.require_foldable(draw.labelled, data.strata, e.task.fewest_tested)
    if "unlabelled" in e.task.pools:
        splits.unlabelled(data, labels, 0)
    readout, features = feature_extractor(e, data)
    check_fit(e, data, readout, min(len(d.labelled) for d in draws))
    pool = pretrained_on(e, data)

    job = Job(e, data, labels)
    shared = described(job, e.dataset, data)
    testing: Request = {**shared, "sha256": data.test_fingerprint, "pretrain_dataset": None}
    source = shared
    if pool is not data:
        source = described(job, e.pretrain_dataset, pool)
        testing |= {"pretrain_dataset": e.pretrain_dataset, "pool": source["data"]}
    starts = starts_of(job, source, pool)
    add(job, "test", testing)
    tested: Request = {"dataset": e.dataset, "test": place(job, "test", testing)}
    if e.nll_samples:
        add(job, "likelihood", likely(job, {**shared, **tested}, starts[0]))
    for arm in (MAIN, *controls(e)):
        add_arm(job, arm, shared, tested, features, draws, starts)
    if e.val == "cv":
        for r, draw in zip(main_requests(job), draws, strict=True):
            before = e.finetune.before(len(draw.labelled))
            number = validate.count(draw.labelled, FOLDS, e.task.fewest_tested)
            for fold in folds_of(r, number):
                add(job, "validate", going_on(job, "validate", fold, before))
    job.experiment = e = replace(e, seeds=number_of_seeds(job))
    for seed in range(e.seed + 1, e.seed + e.seeds):
        repeated = replace(job, experiment=replace(e, seed=seed), arms={})
        starts = starts_of(repeated, source, pool)
        for arm in (MAIN, SCRATCH):
            add_arm(repeated, arm, shared, tested, features, draws, starts)
        job.other_seeds[seed] = repeated.arms
    add_deployment(job, shared)
    # what takes long to import is built only if it will be used
    if missing(job, ("pretrain", "lr_find", "search", "finetune", "validate")):
        check_optimizers(e)
    if missing(job, ("search", "validate", "evaluate")):
        metric_names(e.task, data.spec)  # ConfigError for a metric that is not installed
    return job


def starts_of(job: Job, source: Request, pool: Corpus) -> list[Path | None]:
    """Add the pretrainings on `pool`; returns the folder that each labelled split starts from."""
    e, data = job.experiment, job.corpus
    if pool is not data:
        return [pretraining(job, source, pool, "all")] * e.draws
    folds = splits.pretrainings(data, e.draws)
    start_of_fold = {fold: pretraining(job, source, data, fold) for fold in dict.fromkeys(folds)}
    return [start_of_fold[fold] for fold in folds]


def add_arm(
    job: Job,
    arm: str,
    shared: Request,
    tested: Request,
    features: Request,
    draws: Sequence[Draw],
    starts: Sequence[Path | None],
) -> None:
    """Add an arm: its fine-tuning and its evaluation on each labelled split."""
    e, data = job.experiment, job.corpus
    # it costs as much as the pretraining, each time
    which = range(1 if arm == LONG else e.draws)
    requests = [
        finetuning(job, shared, arm, features, job.labels, d, len(draws[d].labelled), starts[d])
        for d in which
    ]
    job.arms[arm] = [add(job, "finetune", r) for r in requests]
    for r in requests:
        model_of = {"model": place(job, "finetune", r), "parts": model_parts(r)}
        evaluation = {**tested, "labels": job.labels, **model_of, "draw": r["draw"]}
        if STORED in r:
            # without a test split, folds of the training images are tested
            evaluation[STORED] = (
                features_of(job, "test_features", tested, r) if data.test else r[STORED]
            )
        add(job, "evaluate", evaluation)
        for metric in further(e):
            add(job, "metrics", {**evaluation, "metric": metric})


def main_requests(job: Job) -> list[Request]:
    """The fine-tunings of the main arm, one for each labelled split."""
    return [job.requests["finetune"][i] for i in job.arms[MAIN]]


def number_of_seeds(job: Job) -> int:
    """What `seeds` stands for in a job that has the requests of its first seed.

    `auto` repeats a pretraining by gradient that is `SHORT`: then other seeds are measured in about
    the time of one, whose verdict on other seeds would rest on earlier studies alone. ConfigError
    if several are wanted and the verdict's two arms are not both there.
    """
    e = job.experiment
    judged = SCRATCH in job.arms and all(r["start"] for r in main_requests(job))
    if e.seeds != "auto":
        valid = "must be 1 without a pretraining and the control scratch; -m seed=0,1,2 repeats all"
        require(e.seeds == 1 or judged, "seeds", e.seeds, valid)
        return int(e.seeds)
    drawn = judged and e.pretrainer.trained_by == "by gradient" and e.draws > 1
    trainings = [r for name in COSTLY for r in job.requests[name]]
    short = drawn and sum(small_steps(r, job.corpus.spec) for r in trainings) <= SHORT
    return SEVERAL if short else 1


def missing(job: Job, stages: Sequence[str]) -> bool:
    """Whether the store lacks a result of one of these stages."""
    store = Store(Path(job.experiment.store))
    return any(
        not store.has(job.folder_name(name, request))
        for name in stages
        for request in job.requests[name]
    )


def validation(data: Corpus, draws: Sequence[Draw]) -> str:
    """What val=auto stands for: cross-validation if every draw has `ENOUGH` labelled images a class, else none.

    Fewer labels are too few to choose by, and the folds would cost more than everything else. A
    sweep, which is there to choose, asks for cross-validation itself (`sweep.sweeps.job_of`).
    """
    fewest = min(len(draw.labelled) for draw in draws)
    return "cv" if fewest >= ENOUGH * max(1, len(data.strata)) else "none"


def score_of(e: Experiment, data: Corpus) -> str:
    """What score=auto stands for: the task's score, but balanced accuracy for unequal classes."""
    task = e.task
    one_class_each = task.predicts == "classes" and not task.needs and data.labelled
    if not (one_class_each and task.score == score.ACCURACY and score.RECALL in task.columns):
        ok, valid = e.score in ("auto", task.score), f"auto: this task is judged by {task.score}"
        require(ok, "score", e.score, valid)
        return task.score
    require(
        e.score in ("auto", *score.NAMES), "score", e.score, f"auto, {' or '.join(score.NAMES)}"
    )
    if e.score != "auto":
        return e.score
    return score.judged_by(data.train.y.tolist(), data.tested.y.tolist())


def columns(e: Experiment) -> dict[str, str]:
    """Score -> column head, the score of the verdict first.

    Balanced accuracy takes the place of macro recall, which is the same number.
    """
    if e.score != score.BALANCED:
        return e.task.columns
    others = {name: head for name, head in e.task.columns.items() if name != score.RECALL}
    return {score.BALANCED: score.NAMES[score.BALANCED], **others}


def further(e: Experiment) -> list[Metric]:
    """The metrics beside those of the task, which are always computed."""
    return [metric for metric in e.metrics if isinstance(metric, Metric)]


def feature_extractor(e: Experiment, data: Corpus) -> tuple[FeatureExtractor, Request]:
    """The encoder with the maps that are fine-tuned, and what requests say of them. ConfigError."""
    chosen, defaults = e.features, e.pretrainer
    maps = chosen.maps or (list(defaults.features) if e.task.pooled else [DENSE])
    features = {
        "maps": maps,
        "pool": chosen.pool or defaults.pool,
        "grid": chosen.grid or defaults.grid,
    }
    try:
        readout = model.readout(e.encoder, features, data.spec)
    except ConfigError as error:
        if error.key == "encoder":  # the option that was chosen says more than its class
            name = e.choices.get("encoder", error.value)
            raise ConfigError("encoder", name, error.valid) from error
        raise error if error.key.startswith("features") else error.under("encoder") from error
    return readout, {**features, "maps": readout.names}


def described(job: Job, dataset: Dataset, data: Corpus) -> Request:
    """Adds the description of a data set; what the requests of those who learn from it begin with."""
    request: Request = {"dataset": dataset, "sha256": data.fingerprint}
    add(job, "data", request)
    return {"dataset": dataset, "data": place(job, "data", request)}
