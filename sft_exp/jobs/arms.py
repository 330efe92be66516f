"""The compared arms: the main one and its controls.

A control is a fine-tuning request that differs from the main one only in what its name says, so
equal requests share a store folder.
"""

from dataclasses import replace
from math import ceil, prod
from pathlib import Path

from sft_exp.config.schema import Experiment, OptimizerConfig
from sft_exp.core import score
from sft_exp.core.arms import LABELS_ONLY, LONG, MAIN, RANDOM, SCRATCH, SINGLE
from sft_exp.core.encoder import Encoder
from sft_exp.core.strategy import Strategy
from sft_exp.core.task import Task
from sft_exp.data import splits
from sft_exp.data.splits import Labels
from sft_exp.encoders.colours import Colours
from sft_exp.encoders.pixels import Pixels
from sft_exp.encoders.projection import Projection
from sft_exp.errors import ConfigError
from sft_exp.jobs.stage_requests import Job, add, closed, going_on, place, steps
from sft_exp.jobs.starts import WITHOUT, start_of
from sft_exp.models.feature_extractor import DENSE
from sft_exp.pretrainers.pca import PCA
from sft_exp.stages import model
from sft_exp.stages.features import STORED
from sft_exp.store.store import Request
from sft_exp.strategies.knn import KNN
from sft_exp.strategies.linear import Linear
from sft_exp.strategies.logistic import Logistic
from sft_exp.strategies.ridge import Ridge
from sft_exp.strategies.spread import LabelSpreading
from sft_exp.strategies.svm import Svm
from sft_exp.strategies.svr import Svr

Untrained = dict[str, dict[str, tuple[Encoder, Strategy]]]
# what a task predicts -> controls that train no network
UNTRAINED: Untrained = {
    "classes": {
        "raw_pixels": (Pixels(), Logistic()),
        "raw_svm": (Pixels(), Svm()),
        "pca_svm": (Projection(), Svm()),
    },
    "numbers": {
        "raw_pixels": (Pixels(), Ridge()),
        "raw_svm": (Pixels(), Svr()),
        "pca_svm": (Projection(), Svr()),
    },
    "pixels": {"raw_pixels": (Colours(), Logistic())},
    "label sets": {"raw_pixels": (Pixels(), Logistic())},
}
# the following are optional: only controls=[...] adds them
MORE_UNTRAINED: Untrained = {
    "classes": {"raw_knn": (Pixels(), KNN()), "raw_spread": (Pixels(), LabelSpreading())}
}
# what a task predicts -> heads on the frozen pretrained encoder
FROZEN: dict[str, dict[str, Strategy]] = {
    "classes": {
        "frozen_svm": Svm(),
        "frozen_linear": Logistic(),
        "frozen_spread": LabelSpreading(),
    },
    "numbers": {"frozen_svm": Svr(), "frozen_linear": Ridge()},
    "pixels": {"frozen_linear": Logistic()},
    "label sets": {"frozen_linear": Logistic()},
}
FOLDS = 5  # of val=cv


def controls(e: Experiment) -> tuple[str, ...]:
    """The names of the controls. ConfigError for an unknown one."""
    default = (SCRATCH, RANDOM, *UNTRAINED.get(e.task.predicts, {}))
    if "unlabelled" in e.task.pools:
        default = (*default, LABELS_ONLY)
    default = (*default, *(f"{SINGLE}{name}" for name in e.task.alone()))
    if isinstance(e.controls, bool):
        return default if e.controls else ()
    valid = (
        *default,
        LONG,
        *MORE_UNTRAINED.get(e.task.predicts, {}),
        *FROZEN.get(e.task.predicts, {}),
    )
    for name in e.controls:
        if name not in valid:
            raise ConfigError("controls", name, f"true, false, or a list of {', '.join(valid)}")
    return tuple(e.controls)


def finetuning(
    job: Job,
    shared: Request,
    arm: str,
    features: dict,
    labels: Labels,
    draw: int,
    size: int,
    start: Path | None,
) -> Request:
    """The fine-tuning request of one arm and draw. `start` is the folder of the pretraining."""
    e = job.experiment
    request: Request = {
        **shared,
        "task": e.task,
        "strategy": e.strategy,
        "encoder": e.encoder,
        "features": features,
        "start": start,
        "labels": labels,
        "draw": draw,
        "seed": e.seed,
        "val": e.val if e.val in ("holdout", "full") else "none",
        "optim": e.optim,
        "schedule": e.schedule,
        **steps(e.finetune, size),
        "batch_size": e.finetune.size(size),
        "micro_batch_size": e.finetune.micro_batch_size,
        "clip": e.finetune.clip,
        "ema": e.finetune.ema,
        "patience": e.finetune.patience,
        "precision": e.hardware.numerics(),
    }
    request |= difference(job, shared, arm, request)
    if request["val"] != "none" and e.score == score.BALANCED:
        request["score"] = score.RECALL  # the same number, as the task calls it
    if stores_features(request):
        request[STORED] = features_of(job, "features", shared, request)
    if folders := request["strategy"].models():  # teachers
        request["parts"] = [part for folder in folders for part in model.parts_of(folder)]
    if request["strategy"].closed_form:
        return closed(request)
    # From scratch there are no statistics to keep, and a frozen encoder keeps its own.
    if e.finetune.batchnorm == "frozen" and request["start"] and not request["strategy"].frozen:
        request["batchnorm"] = "frozen"
    if e.finetune.exponent < 1:
        request["sampler"] = e.finetune.exponent
    return going_on(
        job, "finetune", {**request, "optim": tuned(job, request)}, e.finetune.before(size)
    )


def stores_features(request: Request) -> bool:
    """Whether a fine-tuning needs nothing of its images but features of a pretrained encoder that
    never change. A randomly initialised encoder is another one in each draw, and stores none."""
    strategy, task = request["strategy"], request["task"]
    unaltered = strategy.closed_form or (strategy.frozen and not task.alters())
    return bool(request["start"]) and task.pooled and unaltered and not strategy.models()


def features_of(job: Job, name: str, images: Request, request: Request) -> Path:
    """Add the stage that stores these features, if it is new; returns its folder.

    `images` are the request's fields for a data set: those to learn from, or the test images.
    """
    stored = {**images, **{key: request[key] for key in ("encoder", "features", "start")}}
    if stored not in job.requests[name]:
        add(job, name, stored)
    return place(job, name, stored)


def difference(job: Job, shared: Request, arm: str, main: Request) -> Request:
    """The fields in which an arm differs from the main one."""
    task: Task = main["task"]
    if arm == MAIN:
        return {}
    if arm == SCRATCH:
        return {"start": None}
    if arm == LONG:
        return {"start": None, **longer(main, job)}
    if arm.startswith(SINGLE):
        return {"task": task.alone()[arm.removeprefix(SINGLE)]}
    supervised = task.supervised()  # baselines and labels_only train on the labels alone
    if arm == LABELS_ONLY:
        return {"task": supervised}
    if arm == RANDOM:
        # on the images as they are: the features of each are then computed once, not at each step
        return {"task": supervised.unaltered(), "start": None, "strategy": Linear()}
    closed_form: Request = {"task": supervised.closed_form_task(), "val": "none"}
    if arm in (frozen := FROZEN.get(task.predicts, {})):
        return {**closed_form, "strategy": frozen[arm]}
    untrained = UNTRAINED.get(task.predicts, {}) | MORE_UNTRAINED.get(task.predicts, {})
    encoder, strategy = untrained[arm]
    baseline = {
        "features": {"maps": [-1] if task.pooled else [DENSE], "pool": "avg", "grid": 1},
        "strategy": strategy,
    }
    if encoder.starts_fitted:
        return {**closed_form, **baseline, **components(job, shared, main["draw"])}
    return {**closed_form, **baseline, "encoder": encoder, "start": None}


def components(job: Job, shared: Request, draw: int) -> Request:
    """The encoder of the PCA baseline and its start, fitted on the draw's pool of images."""
    fold = splits.pretrainings(job.corpus, job.experiment.draws)[draw]
    projection = Projection(min(50, prod(job.corpus.image)))
    fit = closed(
        {
            **shared,
            **WITHOUT,
            "image": job.corpus.image,
            "method": PCA(),
            "encoder": projection,
            "fold": fold,
        }
    )
    return {"encoder": projection, "start": start_of(job, fit)}


def longer(request: Request, job: Job) -> Request:
    """The steps of a fine-tuning that is longer by as many images as the pretraining used."""
    images = max((r["stop"] * r["batch_size"] for r in job.requests["pretrain"]), default=0)
    steps = request["stop"] + ceil(images / request["batch_size"])
    return {"steps": steps, "stop": steps, "_after": None}


def tuned(job: Job, request: Request) -> OptimizerConfig:
    """The request's optimizer. With lr=auto or search its rate is the folder of another stage.

    That stage chooses the rate for this arm and draw, inside its labels; all arms get the same
    search.
    """
    optim: OptimizerConfig = request["optim"]
    rate = optim.options["lr"]
    if isinstance(rate, float):
        return optim
    if rate == "auto":
        name, choice = "lr_find", {**request, "optim": with_rate(optim, 1.0), "schedule": None}
    else:
        rates, trials = optim.hints["search"]["lr"], []
        for r in rates:
            folds = folds_of({**request, "optim": with_rate(optim, r)}, FOLDS)
            for fold in folds:
                add(job, "search", fold)
            trials.append([place(job, "search", fold) for fold in folds])
        name = "choose"
        choice = {
            "rates": [float(r) for r in rates],
            "trials": trials,
            "score": score.RECALL
            if job.experiment.score == score.BALANCED
            else request["task"].score,
        }
    add(job, name, choice)
    return with_rate(optim, place(job, name, choice))


def folds_of(request: Request, number: int) -> list[Request]:
    """The first so many folds of a fine-tuning's cross-validation, a request each."""
    return [{**request, "fold": k, "folds": FOLDS} for k in range(number)]


def with_rate(optim: OptimizerConfig, rate: float | Path) -> OptimizerConfig:
    return replace(optim, options={**optim.options, "lr": rate})
