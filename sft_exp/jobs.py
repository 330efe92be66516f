"""Everything one experiment asks of the store, known before anything runs.

A request names its inputs by folder and folders are named by hash, so the plan, the checks and the run read the same
list. The controls are arms like the main one: fine-tuning requests that differ from it in what their name says and in
nothing else, so equal ones are one folder whoever asks.
"""

import pkgutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields, replace
from importlib import import_module
from math import ceil, prod
from pathlib import Path

import torch

from sft_exp import copies, datasets, graphs, splits, transfer
from sft_exp.compressors.distill import Distil
from sft_exp.compressors.prune import Prune
from sft_exp.core import Compressor, Encoder, Strategy, Task
from sft_exp.data import Corpus, Dataset
from sft_exp.encoders.colours import Colours
from sft_exp.encoders.pixels import Pixels
from sft_exp.encoders.projection import Projection
from sft_exp.errors import ConfigError
from sft_exp.experiment import Budget, Experiment, Target
from sft_exp.nets import DENSE, Readout, layers
from sft_exp.pretrainers.pca import PCA
from sft_exp.provenance import digest, plain
from sft_exp.schedule import Schedule
from sft_exp.splits import Labels
from sft_exp.stages import (
    bill,
    choose,
    compress,
    describe,
    describe_test,
    evaluate,
    export,
    finetune,
    likelihood,
    lr_find,
    model,
    pretrain,
    validate,
)  # fmt: skip
from sft_exp.stages.context import Context, corpus, pick
from sft_exp.store import Request, Result, Stage
from sft_exp.strategies import distill
from sft_exp.strategies.knn import KNN
from sft_exp.strategies.linear import Linear
from sft_exp.strategies.logistic import Logistic
from sft_exp.strategies.ridge import Ridge
from sft_exp.strategies.spread import Spread
from sft_exp.strategies.svm import Svm
from sft_exp.strategies.svr import Svr
from sft_exp.tasks.classify import Classify
from sft_exp.tasks.mean_teacher_numbers import MeanTeacherNumbers
from sft_exp.tasks.regress import Regress
from sft_exp.train import build_optimizer

MAIN, SCRATCH = "pretrained", "scratch"
LABELS_ONLY = "labels_only"  # of a semi-supervised task: the same start without the unlabelled images
SINGLE = "alone_"  # of a task that learns several things at once: one of them
CONTROLS = (SCRATCH, "random_frozen", "raw_pixels", "raw_svm", "pca_svm")
FLOORS: dict[str, dict[str, tuple[Encoder, Strategy]]] = {  # what a task predicts -> the controls that train no network
    "classes": {"raw_pixels": (Pixels(), Logistic()), "raw_svm": (Pixels(), Svm()), "pca_svm": (Projection(), Svm())},
    "numbers": {"raw_pixels": (Pixels(), Ridge()), "raw_svm": (Pixels(), Svr()), "pca_svm": (Projection(), Svr())},
    "pixels": {"raw_pixels": (Colours(), Logistic())},
}
MORE_FLOORS: dict[str, dict[str, tuple[Encoder, Strategy]]] = {  # only where they are asked for by name, as are those below
    "classes": {"raw_knn": (Pixels(), KNN()), "raw_spread": (Pixels(), Spread())}
}
FROZEN: dict[str, dict[str, Strategy]] = {  # what a task predicts -> heads on the pretrained encoder at rest
    "classes": {"frozen_svm": Svm(), "frozen_linear": Logistic(), "frozen_spread": Spread()},
    "numbers": {"frozen_svm": Svr(), "frozen_linear": Ridge()},
    "pixels": {"frozen_linear": Logistic()},
}
LONG = "scratch_long"
FUNCTIONS: dict[str, Callable[[Path, Request, Context], None]] = {
    "data": describe.run,
    "pretrain": pretrain.run,
    "lr_find": lr_find.run,
    "search": validate.run,
    "choose": choose.run,
    "finetune": finetune.run,
    "validate": validate.run,
    "test": describe_test.run,
    "likelihood": likelihood.run,
    "evaluate": evaluate.run,
    "compress": compress.run,
    "bill": bill.run,
    "export": export.run,
}
SHARED = ("pretrain", "search", "finetune", "validate", "evaluate", "compress")  # with all processes, where there are several
FOLDS = 5  # of val=cv
ORIGINAL = "original"  # what the model is called beside its compressed forms


@dataclass
class Job:
    """An experiment with all its requests. `requests[stage]` in order; arms hold positions in them, one a draw."""

    experiment: Experiment
    corpus: Corpus
    labels: Labels
    requests: dict[str, list[Request]] = field(default_factory=lambda: {name: [] for name in FUNCTIONS})
    arms: dict[str, list[int]] = field(default_factory=dict)  # arm -> positions of its draws in requests["finetune"]
    results: dict[str, list[Result]] = field(default_factory=dict)


def stage(name: str, ctx: Context | None = None) -> Stage:
    """The stage of that name; without a context it can name folders, but not run."""
    function = FUNCTIONS[name]

    def run(folders: list[Path], requests: list[Request]) -> None:
        assert ctx is not None
        if len(requests) > 1:
            finetune.run_alike(folders, requests, replace(ctx, group=None))
        elif name in SHARED and not getattr(requests[0].get("strategy"), "solves", False):
            function(folders[0], requests[0], ctx.led(name, folders[0], made.folder_name(requests[0])))
        else:
            function(folders[0], requests[0], replace(ctx, group=None))

    alike = finetune.alike if name == "finetune" else None
    made = Stage(name, run, lambda request: {**plain(request), "code": digest(request, function.__module__)}, alike)
    return made


def prepare(e: Experiment) -> Job:
    """All requests of an experiment, with everything checked that can be before compute: ConfigError or DataError."""
    pick(e.hardware.device)
    data = corpus(e.dataset)
    if isinstance(e.strategy, distill.Distil):
        e = replace(e, strategy=replace(e.strategy, teacher=teacher_of(e, data)))
    check_task(e, data)
    copies.refuse(data, e.protocol.transductive)
    labels = Labels.parse(e.labels, e.labels_total)
    job, root = Job(e, data, labels), Path(e.store)
    draws = [splits.make(data, labels, d) for d in range(e.draws)]
    if e.val == "full":
        splits.outside(data, draws[0])
    if "unlabelled" in e.task.pools:
        splits.unlabelled(data, labels, 0)
    try:
        kept = e.pretrainer
        features = {
            "maps": e.features.maps or (list(kept.features) if e.task.pooled else [DENSE]),
            "pool": e.features.pool or kept.pool,
            "grid": e.features.grid or kept.grid,
        }
        readout = model.readout(e.encoder, features, data.spec)
    except ConfigError as error:
        raise error if error.key.startswith("features") else error.under("encoder") from error
    features["maps"] = readout.names
    check_fit(e, data, readout, min(len(d.labelled) for d in draws))
    pool = pretrained_on(e, data)

    describing: Request = {"dataset": e.dataset, "sha256": data.fingerprint}
    job.requests["data"].append(describing)
    shared: Request = {"dataset": e.dataset, "data": root / stage("data").folder_name(describing)}
    testing: Request = {**shared, "sha256": data.test_fingerprint, "pretrain_dataset": None}
    if pool is data:
        starts = [pretraining(job, shared, data, fold) for fold in splits.pretrainings(data, e.draws)]
    else:
        other: Request = {"dataset": e.pretrain_dataset, "sha256": pool.fingerprint}
        job.requests["data"].append(other)
        source: Request = {"dataset": e.pretrain_dataset, "data": root / stage("data").folder_name(other)}
        testing |= {"pretrain_dataset": e.pretrain_dataset, "pool": source["data"]}
        starts = [pretraining(job, source, pool, "all")] * e.draws
    job.requests["test"].append(testing)
    tested: Request = {"dataset": e.dataset, "test": root / stage("test").folder_name(testing)}
    if e.nll_samples:
        add(job, "likelihood", likely(job, {**shared, **tested}, starts[0]))
    for arm in (MAIN, *controls(e)):
        which = range(1 if arm == LONG else e.draws)  # it costs as much as the pretraining, each time
        requests = [finetuning(job, shared, arm, features, labels, d, len(draws[d].labelled), starts[d]) for d in which]
        job.arms[arm] = [add(job, "finetune", r) for r in requests]
        for r in requests:
            add(
                job, "evaluate", {**tested, "labels": labels, "model": root / stage("finetune").folder_name(r), "draw": r["draw"]}
            )
        if arm == MAIN and e.val == "cv":
            for r, draw in zip(requests, draws, strict=True):
                if validate.count(draw.labelled, FOLDS):
                    add(job, "validate", going_on(job, "validate", {**r, "folds": FOLDS}, e.finetune.before(len(draw.labelled))))
    deployment(job, shared)
    return job


def check_task(e: Experiment, data: Corpus) -> None:
    """Data sets without what the task learns from, and what does not fit what it predicts. ConfigError."""
    name, told = e.choices.get("task", type(e.task).__name__), [*data.train.targets, *(["y"] if data.labelled else [])]
    if missing := [t for t in e.task.needs or ("y",) if t not in told]:
        raise ConfigError(
            "task",
            name,
            f"learns from {' and '.join(map(called, missing))}, and dataset={e.choices.get('dataset', data.name)} has "
            f"{' and '.join(map(called, told))}; data sets that have them: {', '.join(giving(*missing)) or 'none'}",
        )
    e.task.metrics(data.spec)  # what they are made of may not be installed: better said now than after training
    for key, chosen, wanted in (
        ("compress", e.compress and e.compress.forms(""), ("classes",)),
        ("export", e.export and e.export.file, ("classes",)),
        ("strategy", isinstance(e.strategy, distill.Distil), ("classes",)),
        ("strategy", e.strategy.solves, e.strategy.solved),
    ):
        if chosen and e.task.predicts not in wanted:
            why = f"is for tasks that predict {' or '.join(wanted)}, and {name} predicts {e.task.predicts}"
            raise ConfigError(key, e.choices.get(key, ""), why)


def called(target: str) -> str:
    return "classes" if target == "y" else target


def giving(*targets: str) -> list[str]:
    """Our data sets with these annotations."""
    found = []
    for module in pkgutil.iter_modules(datasets.__path__):
        kinds = vars(import_module(f"{datasets.__name__}.{module.name}")).values()
        if any(isinstance(k, type) and issubclass(k, Dataset) and {*targets} <= {*k.gives} for k in kinds if k is not Dataset):
            found.append(module.name)
    return found


def pretrained_on(e: Experiment, data: Corpus) -> Corpus:
    """The data set whose images are pretrained on. ConfigError or DataError if it may not be."""
    if e.pretrain_dataset is None:
        if e.pretrainer.labelled:
            raise ConfigError("pretrain_dataset", None, "must name another labelled data set, whose labels are learned from")
        return data
    try:
        pool = corpus(e.pretrain_dataset)
    except ConfigError as error:
        raise error.under("pretrain_dataset") from error
    if e.pretrainer.labelled and pool.fingerprint == data.fingerprint:
        raise ConfigError("pretrain_dataset", pool.name, "must be another data set: labels of this one are counted by labels=")
    if e.pretrainer.labelled:
        needs = e.task.needs if getattr(e.pretrainer, "task", None) else ()
        if missing := [t for t in needs or ("y",) if t not in (*pool.train.targets, *(["y"] if pool.labelled else []))]:
            missing = [called(t) for t in missing]
            raise ConfigError("pretrain_dataset", pool.name, f"has no {' and '.join(missing)}, which are learnt from")
        if needs and pool.image[1:] != data.image[1:]:
            size = f"images of {pool.image[1]}x{pool.image[2]}, and {data.name} of {data.image[1]}x{data.image[2]}"
            raise ConfigError(
                "pretrain_dataset", pool.name, f"has {size}: give both the same dataset.size, as masks move with it"
            )
    if pool is not data:
        copies.refuse_elsewhere(pool, data, e.protocol.transductive)
    return pool


def likely(job: Job, shared: Request, start: Path | None) -> Request:
    """The request of the test images' likelihood. ConfigError if there is none."""
    e = job.experiment
    if start is None or not e.pretrainer.has_likelihood:
        raise ConfigError("nll_samples", e.nll_samples, f"must be 0: {type(e.pretrainer).__name__} has no likelihood")
    if job.corpus.test is None:
        raise ConfigError("nll_samples", e.nll_samples, f"must be 0: {job.corpus.name} has no images for testing alone")
    return {
        **shared,
        "method": e.pretrainer,
        "encoder": e.encoder,
        "image": job.corpus.image,
        "start": start,
        "seed": e.seed,
        "samples": e.nll_samples,
    }


def deployment(job: Job, shared: Request) -> None:
    """Adds what compresses and exports the model: the main arm's first draw, as for `load_model` and predict. ConfigError
    where the choices do not fit each other."""
    e, root = job.experiment, Path(job.experiment.store)
    main = job.requests["finetune"][job.arms[MAIN][0]]
    chosen, wanted = e.choices.get("compress", ""), e.choices.get("export", "")
    forms = e.compress.forms(chosen) if e.compress else {}
    exported: Path = root / stage("finetune").folder_name(main)
    last: list[Compressor] = next(iter(forms.values()), [])
    if forms:
        graphs.require_onnx("compress", chosen)
        need_logits(main, "compress", chosen)
        maps = main["features"]["maps"]
        if len(maps) > 1 and any(isinstance(step, Prune) for steps in forms.values() for step in steps):
            raise ConfigError("features.maps", maps, f"must be one map: compress={chosen} cannot follow channels of several")
        ends = {name: compression(job, shared, main, steps) for name, steps in {ORIGINAL: [], **forms}.items()}
        add(
            job,
            "bill",
            {
                **shared,
                "test": job.requests["evaluate"][0]["test"],
                "labels": main["labels"],
                "draw": main["draw"],
                "forms": ends,
            },
        )
        exported = ends[next(iter(forms))]
    if e.export and e.export.file:
        if len(forms) > 1 and chosen not in forms:
            raise ConfigError("export", wanted, f"must be none: compress={chosen} leaves several models, {', '.join(forms)}")
        if e.export.network and any(step.graph for step in last):
            raise ConfigError("export", wanted, f"must be onnx or ort: compress={chosen} leaves an ONNX graph of integers")
        if not e.export.network:
            graphs.require_onnx("export", wanted)
        if e.export.alone:
            need_logits(main, "export", wanted)
        add(job, "export", {**shared, "model": exported, "exporter": e.export})


def need_logits(main: Request, key: str, value: str) -> None:
    if not main["strategy"].probabilistic:
        raise ConfigError(key, value, f"must be none: {type(main['strategy']).__name__} leaves votes, and no network with logits")


def compression(job: Job, shared: Request, main: Request, steps: list[Compressor]) -> Path:
    """Adds one form of the model; its folder-to-be. A student is fine-tuned first, like any other model."""
    e, root = job.experiment, Path(job.experiment.store)
    begun: Path = root / stage("finetune").folder_name(main)
    if steps and isinstance(steps[0], Distil):
        request = studying(job, main, steps[0], begun)
        add(job, "finetune", request)
        begun, steps = root / stage("finetune").folder_name(request), steps[1:]
    if any(isinstance(step, Distil) for step in steps):
        raise ConfigError("compress", e.choices.get("compress"), "distill must come first: a student is a new network")
    request = {
        **shared,
        "model": begun,
        "steps": steps,
        "labels": main["labels"],
        "draw": main["draw"],
        "seed": e.seed,
        "precision": e.hardware.precision,
    }
    add(job, "compress", request)
    return root / stage("compress").folder_name(request)


def studying(job: Job, main: Request, how: Distil, teacher: Path) -> Request:
    """The fine-tuning of a student: the main arm's task and labels, another encoder, from scratch, with the teacher's help."""
    if how.student is None:
        raise ConfigError("compress.student", None, "names no encoder, e.g. encoder@compress.student=conv")
    try:
        readout = model.readout(how.student, {"maps": [-1], "pool": "avg", "grid": 1}, job.corpus.spec)
    except ConfigError as error:
        raise error.under("compress.student") from error
    return {
        **main,
        "encoder": how.student,
        "features": {"maps": readout.names, "pool": "avg", "grid": 1},
        "start": None,
        "strategy": distill.Distil(teacher, how.temperature, how.weight),
        "val": "none",
        "optim": Target("torch.optim.Adam", {"lr": how.lr}),
        "schedule": Schedule([[0.0, 1.0], [1.0, 0.0]]),
        "steps": how.steps,
        "stop": how.steps,
        "_after": None,
        "batch_size": how.batch_size,
        "piece": None,
    }


def teacher_of(e: Experiment, data: Corpus) -> Path:
    """The store folder of the model that strategy.teacher names. ConfigError, DataError."""
    given = e.strategy.teacher
    if not given:
        raise ConfigError("strategy.teacher", given, "must be the folder of a run, whose model is imitated")
    folder = model.folder_of(Path(given))
    teacher = model.load(folder)
    if teacher.spec != data.spec:
        raise ConfigError("strategy.teacher", given, f"knows {teacher.spec}, and {data.name} has {data.spec}")
    if not teacher.probabilistic:
        raise ConfigError("strategy.teacher", given, "leaves votes and no logits to learn from")
    return folder


def check_fit(e: Experiment, data: Corpus, encoder: Readout, labelled: int) -> None:
    """Optimizers and networks that cannot be built, strategies and batches that do not fit them. ConfigError."""
    parameter = torch.nn.Parameter(torch.zeros(2, 2))
    for key, optim in (("optim", e.optim), ("pretrain_optim", e.pretrain_optim)):
        try:
            build_optimizer(replace(optim, options={**optim.options, "lr": 1e-3}), [{"params": [parameter]}])
        except ConfigError as error:
            raise error.under(key) from error
    weights = initial(e)
    try:
        phases = e.strategy.phases(layers(encoder, data.image))
    except ConfigError as error:
        raise error.under("strategy") from error
    if e.strategy.solves and "unlabelled" in e.task.pools:
        raise ConfigError(
            "task", e.choices.get("task", ""), "needs a strategy that trains: this one's head is solved from the labels"
        )
    if e.pretrainer.learns != "nothing":
        pretrain.build({"method": e.pretrainer, "encoder": e.encoder, "seed": e.seed, "image": data.image, **weights}, data)
    normed = any(isinstance(m, torch.nn.modules.batchnorm._BatchNorm) for m in encoder.modules())
    for key, budget, method, n in (
        ("pretrain", e.pretrain, e.pretrainer, len(data.train)),
        ("finetune", e.finetune, e.task, labelled),
    ):
        if budget.piece and (normed or not method.per_row):
            why = "the encoder's BatchNorm looks" if normed else f"the loss of {type(method).__name__} looks"
            raise ConfigError(
                f"{key}.piece", budget.piece, f"must be null: {why} across the batch, so its pieces are not the whole"
            )
        if normed and budget.size(n) < 2 and (method is e.pretrainer or any(rates for _, rates in phases)):
            raise ConfigError(
                f"{key}.batch_size", budget.batch_size, "must be 2 or more: the encoder's BatchNorm looks across the batch"
            )


def controls(e: Experiment) -> tuple[str, ...]:
    """The arms beside the main one."""
    usual = (SCRATCH, "random_frozen", *FLOORS.get(e.task.predicts, {}))
    usual = (*usual, LABELS_ONLY) if "unlabelled" in e.task.pools else usual
    usual = (*usual, *(f"{SINGLE}{name}" for name in e.task.alone()))
    if isinstance(e.controls, bool):
        return usual if e.controls else ()
    valid = (*usual, LONG, *MORE_FLOORS.get(e.task.predicts, {}), *FROZEN.get(e.task.predicts, {}))
    for name in e.controls:
        if name not in valid:
            raise ConfigError("controls", name, f"true, false, or a list of {', '.join(valid)}")
    return tuple(e.controls)


def add(job: Job, name: str, request: Request) -> int:
    job.requests[name].append(request)
    return len(job.requests[name]) - 1


def initial(e: Experiment) -> Request:
    """What a pretraining's request says of the weights it starts from: the file by the hash of its content."""
    path, learns = e.pretrainer.init, e.pretrainer.learns
    if path and learns in ("nothing", "in closed form"):
        raise ConfigError("pretrainer.init", path, "must be null: nothing starts from weights here; take pretrainer=checkpoint")
    if learns == "from a file" and not path:
        raise ConfigError(
            "pretrainer.init", path, f"must name weights: a file, a folder of ours, or {transfer.TORCHVISION}resnet18"
        )
    file = transfer.locate(path) if path else None
    digest = transfer.read(file)[1] if file else None
    return {"init": digest, "_init": file, "_min_loaded": e.transfer.min_loaded}


def pretraining(job: Job, shared: Request, pool: Corpus, fold: int | str | None) -> Path | None:
    """Adds the request of the pretraining that this fold's draws start from; its folder-to-be, or None for pretrainer=none."""
    e = job.experiment
    if e.pretrainer.learns == "nothing":
        return None
    size = len(pretrain.pool_of(pool, fold, e.pretrainer, job.corpus.image))
    request: Request = {
        **shared,
        **initial(e),
        "method": e.pretrainer,
        "encoder": e.encoder,
        "image": job.corpus.image,
        "fold": fold,
        "seed": e.seed,
        "optim": e.pretrain_optim,
        "schedule": e.pretrain_schedule,
        **steps(e.pretrain, size),
        "batch_size": e.pretrain.size(size),
        "piece": e.pretrain.piece,
        "clip": e.pretrain.clip,
        "precision": e.hardware.precision,
        "_monitor": watched(job, fold) if e.monitors else None,
    }
    if e.pretrainer.learns != "by gradient":
        return start_of(job, closed(request))
    return start_of(job, going_on(job, "pretrain", request, e.pretrain.before(size)))


def watched(job: Job, fold: int | str | None) -> Request:
    """What is looked at while pretraining: the first draw's labels, or where a pretraining is of one fold, its draw's."""
    e = job.experiment
    labels = Labels.parse(e.labels, e.labels_total)
    return {"dataset": e.dataset, "labels": labels, "draw": fold if isinstance(fold, int) else 0}


def steps(budget: Budget, n: int) -> Request:
    """Where schedules end, and where one stops, for a data set of n."""
    return {"steps": budget.end(n), "stop": budget.total(n), "_after": None}


def going_on(job: Job, name: str, request: Request, before: int | None) -> Request:
    """The request, with the folder of the same one that stopped after `before` steps: its checkpoint is where this starts,
    if it is there; the result is the same to the bit."""
    if before is None:
        return request
    return {**request, "_after": Path(job.experiment.store) / stage(name).folder_name({**request, "stop": before})}


def start_of(job: Job, request: Request) -> Path:
    if request not in job.requests["pretrain"]:
        add(job, "pretrain", request)
    return Path(job.experiment.store) / stage("pretrain").folder_name(request)


def closed(request: Request) -> Request:
    """A request without what only gradient training reads, so that equal work has equal names."""
    return {
        **request,
        "seed": 0,
        "optim": None,
        "schedule": None,
        "steps": 0,
        "stop": 0,
        "_after": None,
        "_monitor": None,
        "batch_size": 0,
        "piece": None,
        "clip": None,
        "precision": "fp32",
        **{key: neutral for key, neutral in (("ema", 0.0), ("patience", None)) if key in request},
    }


def finetuning(
    job: Job, shared: Request, arm: str, features: dict, labels: Labels, draw: int, size: int, start: Path | None
) -> Request:
    """The request of one arm and draw. Arms differ from the main one in what their name says and in nothing else."""
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
        "piece": e.finetune.piece,
        "clip": e.finetune.clip,
        "ema": e.finetune.ema,
        "patience": e.finetune.patience,
        "precision": e.hardware.precision,
    }
    if arm.startswith(SINGLE):
        request |= {"task": e.task.alone()[arm.removeprefix(SINGLE)]}
    elif arm not in (MAIN, SCRATCH, LONG):
        request |= {"task": alone(e.task)}  # floors and labels_only: what the labels alone give
    floor = {"features": {"maps": [-1] if e.task.pooled else [DENSE], "pool": "avg", "grid": 1}, "val": "none"}
    if arm == SCRATCH:
        request |= {"start": None}
    elif arm == LONG:
        request |= {"start": None, **longer(request, job)}
    elif arm == "random_frozen":
        request |= {"start": None, "strategy": Linear()}
    elif arm in (floors := {**FLOORS.get(e.task.predicts, {}), **MORE_FLOORS.get(e.task.predicts, {})}):
        encoder, strategy = floors[arm]
        request |= {"start": None, "encoder": encoder, "strategy": strategy, **floor, "task": request["task"].solvable()}
        if isinstance(encoder, Projection):
            fold = splits.pretrainings(job.corpus, e.draws)[draw]
            projection = Projection(min(50, prod(job.corpus.image)))
            none: Request = {"init": None, "_init": None, "_min_loaded": 0.0, "image": job.corpus.image}
            fit = closed({**shared, **none, "method": PCA(), "encoder": projection, "fold": fold})
            request |= {"start": start_of(job, fit), "encoder": projection}
    elif arm in (frozen := FROZEN.get(e.task.predicts, {})):
        request |= {"strategy": frozen[arm], "val": "none", "task": request["task"].solvable()}
    return (
        closed(request)
        if request["strategy"].solves
        else going_on(job, "finetune", {**request, "optim": tuned(job, request)}, e.finetune.before(size))
    )


def alone(task: Task) -> Task:
    """The task itself, or for a semi-supervised one that which learns from the labels alone, from the same start and on the
    same views."""
    if "unlabelled" not in task.pools:
        return task
    if isinstance(inner := getattr(task, "task", None), Task):
        return inner
    if isinstance(task, MeanTeacherNumbers):
        return Regress(
            **{**{f.name: getattr(task, f.name) for f in fields(Regress)}, "augment": True, "views": asdict(task.seen)}
        )
    shared = {f: getattr(task, f) for f in ("head", "ridge", "standardise", "views") if hasattr(task, f)}
    return Classify(**shared, augment="views" in shared)


def longer(request: Request, job: Job) -> Request:
    """The steps of a fine-tuning that sees, beside its own, as many images as the pretraining saw."""
    seen = max((r["stop"] * r["batch_size"] for r in job.requests["pretrain"]), default=0)
    steps = request["stop"] + ceil(seen / request["batch_size"])
    return {"steps": steps, "stop": steps, "_after": None}


def tuned(job: Job, request: Request) -> Target:
    """The request's optimizer. With lr=auto or search its rate is what another stage finds for this very arm and draw,
    inside its labels; every arm gets the same search."""
    optim: Target = request["optim"]
    rate = optim.options["lr"]
    if isinstance(rate, float):
        return optim
    root = Path(job.experiment.store)
    if rate == "auto":
        name, finding = "lr_find", {**request, "optim": with_rate(optim, 1.0), "schedule": None}
    else:
        trials = [{**request, "optim": with_rate(optim, r), "folds": FOLDS} for r in optim.hints["search"]["lr"]]
        for trial in trials:
            add(job, "search", trial)
        folders = [root / stage("search").folder_name(t) for t in trials]
        rates = [float(r) for r in optim.hints["search"]["lr"]]
        name, finding = "choose", {"rates": rates, "trials": folders, "score": request["task"].score}
    add(job, name, finding)
    return with_rate(optim, root / stage(name).folder_name(finding))


def with_rate(optim: Target, rate: float | Path) -> Target:
    return replace(optim, options={**optim.options, "lr": rate})
