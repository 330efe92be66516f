"""Fine-tuning: an encoder (pretrained or randomly initialised) and labels -> a model."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate
from math import inf
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sft_exp.config.schema import OptimizerConfig
from sft_exp.core.device import place
from sft_exp.core.method import Method
from sft_exp.core.rng import seed_global, seed_of, stream
from sft_exp.core.strategy import Strategy
from sft_exp.core.types import Layers, Spec, Tensors
from sft_exp.data import splits
from sft_exp.data.images import Images
from sft_exp.models import transfer
from sft_exp.models.feature_extractor import Precomputed, layers
from sft_exp.stages import model as models
from sft_exp.stages.features import STORED, batched, corpus_of
from sft_exp.stages.model import Model
from sft_exp.stages.outcome import on_training_images, parameter_norm
from sft_exp.stages.stacked import stackable, stacked
from sft_exp.store import atomic_io
from sft_exp.store.requests import plain
from sft_exp.store.store import Request
from sft_exp.training.context import Context
from sft_exp.training.fit import delete_checkpoints, fit, plan_of
from sft_exp.training.loop import Plan
from sft_exp.training.optim import Phases

SCALE_ROWS = 1_000  # pool images whose features set the scale
LOOKS = 20  # evaluations of a validation set that chooses the epoch


def run(folder: Path, request: Request, ctx: Context) -> None:
    """model.json, model.safetensors, labels.json; by gradient also metrics.jsonl, training.json."""
    draw = splits.make(corpus_of(request, ctx), request["labels"], request["draw"])
    atomic_io.write_json(folder / "labels.json", {"labelled": draw.labelled.ids, "validation": []})
    norms: list[float] = []
    model = learn(folder, request, ctx, draw.labelled, draw.pool, norms=norms)
    outcome(folder, request, model, draw.labelled, norms, ctx)
    models.save(folder, model, request)
    delete_checkpoints(folder, request)


def run_validated(folder: Path, request: Request, ctx: Context) -> None:
    """The same with val=holdout or full, whose images choose the epoch; also validation.json.

    It is separate from `run` because the code hash of a training without validation must not depend
    on the metrics.
    """
    draw = splits.make(corpus_of(request, ctx), request["labels"], request["draw"])
    labelled, val = hold_out(request, draw, ctx)
    atomic_io.write_json(folder / "labels.json", {"labelled": labelled.ids, "validation": val.ids})
    norms: list[float] = []
    model = learn(folder, request, ctx, labelled, draw.pool, Validation(val, ctx), norms=norms)
    outcome(folder, request, model, labelled, norms, ctx)
    atomic_io.write_json(folder / "validation.json", models.measure(model, val, ctx.device)[0])
    models.save(folder, model, request)
    delete_checkpoints(folder, request)


def outcome(
    folder: Path, request: Request, model: Model, labelled: Images, norms: list[float], ctx: Context
) -> None:
    """training.json, if trained by gradient: initial and final norm of the parameters, and facts
    about the predictions for training images."""
    if not request["strategy"].closed_form:
        atomic_io.write_json(
            folder / "training.json",
            {"norm": norms, **on_training_images(model, labelled, ctx.device)},
        )


@dataclass
class Validation:
    """Images on which a model in training is evaluated."""

    images: Images
    ctx: Context

    def through(self, encoder: nn.Module) -> "Validation":
        """The same examples with this encoder's features in place of images."""
        return replace(self, images=self.images.having(features(encoder, self.images, self.ctx)))

    def score(self, model: Model, name: str) -> float:
        scores, _ = models.measure(model, self.images, self.ctx.device, self.ctx.group)
        return scores[name]


def batch_key(request: Request) -> str | None:
    """Key of fine-tunings on frozen features that differ only in the learning rate.

    Their heads are trained together. None for all others.
    """
    optim, task = request["optim"], request["task"]
    strategy = request["strategy"]
    unpenalised = type(strategy).penalty is Strategy.penalty
    plain_head = strategy.frozen and unpenalised and not strategy.models() and task.plain
    plain_loop = request["val"] == "none" and not (request["ema"] or request["clip"])
    plain_loop = plain_loop and "sampler" not in request
    if not (plain_head and plain_loop) or optim is None or not stackable(optim):
        return None
    return json.dumps(
        plain({**request, "optim": replace(optim, options={**optim.options, "lr": None})}),
        sort_keys=True,
    )


def run_batched(folders: list[Path], requests: list[Request], ctx: Context) -> None:
    """`run` for several requests, sharing one pass over the features. Killed, it starts over."""
    request = requests[0]
    draw = splits.make(corpus_of(request, ctx), request["labels"], request["draw"])
    model = Model(request["task"], start(request, ctx), ctx.corpus(request["dataset"]).spec)
    y_N, f_ND = draw.labelled.y.to(ctx.device), begin(model, request, draw.labelled, draw.pool, ctx)
    with torch.no_grad():
        f_ND = model.nets["scale"](f_ND)
    plan, head = plan_of(request, [(1.0, {})], name_of(request, "all"), ctx), model.nets["head"]
    assert isinstance(head, nn.Linear)
    before = parameter_norm(head)
    heads = stacked(
        head, f_ND, y_N, request["optim"], [r["optim"].options["lr"] for r in requests], plan
    )
    epoch = max(1, len(y_N) // plan.batch_size)
    for folder, request, (state, metrics) in zip(folders, requests, heads, strict=True):
        model.nets["head"].load_state_dict(state)
        atomic_io.write_json(
            folder / "labels.json", {"labelled": draw.labelled.ids, "validation": []}
        )
        rows = []
        for row in metrics:
            step = row["step"]
            progress = {"epoch": round(step / epoch, 4), "images": step * plan.batch_size}
            rows.append({"step": step, **progress, **row})
        atomic_io.write(folder / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
        outcome(folder, request, model, draw.labelled, [before, parameter_norm(head)], ctx)
        models.save(folder, model, request)


def hold_out(request: Request, draw: splits.Draw, ctx: Context) -> tuple[Images, Images]:
    """-> (training images, validation images), the latter a fold of the labels.

    With val=full the validation images are those outside the labelled split.
    """
    corpus = corpus_of(request, ctx)
    if request["val"] == "full":
        return draw.labelled, splits.outside(corpus, draw)
    least = request["task"].fewest_tested
    training, validation = splits.fold(draw.labelled, corpus.strata, 0, least=least)
    return draw.labelled.at(training), draw.labelled.at(validation)


def learn(
    folder: Path,
    request: Request,
    ctx: Context,
    labelled: Images,
    pool: Images,
    val: Validation | None = None,
    fold: int | str = "all",
    norms: list[float] | None = None,
) -> Model:
    """A model trained on `labelled`, with its last weights or, given `val`, those that scored best.

    With `ema` the weights are an EMA of those trained. With `patience` the training ends after so
    many evaluations on `val` without improvement. `norms` receives the initial norm of the
    parameters and that of the returned ones.
    """
    # validation images of val=full are outside the label budget
    deciding = val.images if val and request["val"] == "holdout" else labelled
    if request["strategy"].closed_form:
        return decided(fit_closed_form(request, ctx, labelled, pool, fold), deciding, ctx)
    model, data, plan, encoder = ready(request, ctx, labelled, pool, fold)
    nets = model.nets
    if val and nets["encoder"] is not encoder:
        val = val.through(encoder)
    method = method_of(request, ctx)
    # stored in checkpoints: EMA weights, best weights and their score
    notes: dict[str, Any] = {}
    score = request.get("score", request["task"].score)
    label = f"fine-tune draw {request['draw']}"
    optim = with_rate(request["optim"])
    before = parameter_norm(nets)
    for step in fit(
        folder, method, nets.train(), optim, data, plan, ctx, label, notes, request["_after"]
    ):
        if request["ema"] or val:
            step.refresh()
        if request["ema"]:
            notes["mean"] = averaged(notes.get("mean"), nets, request["ema"], step.done)
        if val and (step.done % max(1, plan.steps // LOOKS) == 0 or step.done == plan.steps):
            step.check()
            with swapped_weights(nets, notes.get("mean")):
                val_score = val.score(model, score)
                step.metrics[f"val/{score}"] = torch.tensor(val_score)
                better = val_score > notes.get("score", -inf)
                if better:
                    notes.update(score=val_score, step=step.done, best=cloned_state(nets))
            notes["worse"] = 0 if better else notes["worse"] + 1
            if request["patience"] is not None and notes["worse"] >= request["patience"]:
                break
    if state := notes.get("best") or notes.get("mean"):
        nets.load_state_dict(state)
    if norms is not None:
        norms += [before, parameter_norm(nets)]
    nets["encoder"] = encoder
    request["strategy"].merge(encoder)
    return decided(model, deciding, ctx)


@torch.no_grad()
def decided(model: Model, labelled: Images, ctx: Context) -> Model:
    """The model, with thresholds and the like set on labelled images, if its task has any."""
    if model.task.decides:
        rows = torch.arange(len(labelled)).split(models.at_once(labelled))
        batches = labelled.batches(rows, ctx.device)
        predictions = [model.predict(batch["x"]) for batch in batches]
        targets = {name: labelled.target(name).to(ctx.device) for name in model.task.needs}
        model.task.decide(model.nets, torch.cat(predictions), targets)
    return model


def cloned_state(nets: nn.Module) -> Tensors:
    return {k: v.clone() for k, v in nets.state_dict().items()}


@torch.no_grad()
def averaged(mean: Tensors | None, nets: nn.Module, decay: float, done: int) -> Tensors:
    """The EMA of all weights and statistics after `done` steps.

    Its decay is smaller early on, because it starts at the initial weights.
    """
    if mean is None:
        return cloned_state(nets)
    share = 1 - min(decay, done / (done + 10))
    for name, value in nets.state_dict().items():
        mean[name].lerp_(value, share) if value.is_floating_point() else mean[name].copy_(value)
    return mean


@contextmanager
def swapped_weights(nets: nn.Module, weights: Tensors | None) -> Iterator[None]:
    """Replace the networks' weights inside the context, and restore them afterwards."""
    if weights is None:
        yield
        return
    own = cloned_state(nets)
    nets.load_state_dict(weights)
    try:
        yield
    finally:
        nets.load_state_dict(own)


def method_of(request: Request, ctx: Context) -> Method:
    """The task, wrapped by the strategy if it is a method of its own."""
    strategy = request["strategy"]
    loaded = [models.load(folder, ctx.device) for folder in strategy.models()]
    return strategy.wraps(request["task"], loaded)


def fit_closed_form(
    request: Request, ctx: Context, labelled: Images, pool: Images, fold: int | str
) -> Model:
    """A head fitted in closed form on frozen features.

    With `standardise=each` features have mean 0 and sd 1 in the pool. A common scale is not
    applied: the strategies' grids are for unscaled features, or relative to their spread.
    """
    spec, name = ctx.corpus(request["dataset"]).spec, ("solve", request["draw"], fold)
    model = Model(request["task"], start(request, ctx), spec, request["strategy"].probabilistic)
    if getattr(model.task, "standardise", None) == "each":
        scale: Any = model.nets["scale"]
        scale.fit(features(model.nets["encoder"], pool.at(scaling(request, pool)), ctx), each=True)
    images = labelled
    if most := request["strategy"].unlabelled():
        rest = splits.rest(corpus_of(request, ctx), request["labels"], request["draw"])
        some = torch.randperm(len(rest), generator=stream("unlabelled", request["draw"]))[:most]
        images = splits.join(labelled, rest.at(some))
    rows = torch.arange(len(images)).split(models.at_once(images))
    rng = stream(*name, "examples", device=ctx.device)
    with torch.no_grad():
        examples = [
            model.task.examples(model.nets.eval(), batch, rng)
            for batch in images.batches(rows, ctx.device)
        ]
    f_MD, y_M = (torch.cat(parts) for parts in zip(*examples, strict=True))
    head = request["strategy"].fit_closed_form(f_MD, y_M, model.task.of(spec), seed_of(*name))
    model.nets.set_submodule(model.task.readout, head.to(ctx.device))
    return model


def ready(
    request: Request, ctx: Context, labelled: Images, pool: Images, fold: int | str
) -> tuple[Model, dict[str, Images], Plan, nn.Module]:
    """-> (model with its initial head, training data, plan, encoder).

    Features of a frozen encoder never change. If the task needs nothing else, they are computed
    once and are the training data, and the encoder is replaced by an identity.
    """
    task, strategy, corpus = request["task"], request["strategy"], corpus_of(request, ctx)
    model, data = Model(task, start(request, ctx), corpus.spec), {"labelled": labelled}
    encoder = model.nets["encoder"]
    strategy.adapt(encoder, stream(request["seed"], "adapt", request["draw"]))
    f_ND = begin(model, request, labelled, pool, ctx)
    if strategy.uses_pool:
        data["unlabelled"] = pool
    elif "unlabelled" in task.pools:
        data["unlabelled"] = splits.unlabelled(corpus, request["labels"], request["draw"])
    phases = trainable_phases(strategy, model.nets, corpus.image)
    plan = plan_of(request, phases, name_of(request, fold), ctx)
    if (
        any(name.startswith("encoder.") for _, rates in phases for name in rates)
        or task.alters()
        or f_ND is None
    ):
        initial = {
            name: p.detach().clone() for name, p in encoder.named_parameters(prefix="encoder")
        }
        plan = replace(
            plan,
            eval_frozen="encoder",
            frozen_statistics=request.get("batchnorm") == "frozen",
            penalty=partial(pull, strategy, initial),
        )
        return model, data, plan, encoder
    model.nets["encoder"], data["labelled"] = nn.Identity(), labelled.having(f_ND)
    if "unlabelled" in data:
        data["unlabelled"] = data["unlabelled"].having(features(encoder, data["unlabelled"], ctx))
    return model, data, replace(plan, penalty=partial(pull, strategy, {})), encoder


def pull(strategy: Strategy, start: Tensors, nets: nn.ModuleDict) -> Tensor | None:
    """The strategy's penalty on the parameters that are trainable now."""
    return strategy.penalty(
        {name: p for name, p in nets.named_parameters() if p.requires_grad}, start
    )


def with_rate(optim: OptimizerConfig) -> OptimizerConfig:
    """The optimizer with its learning rate, read from the folder of the stage that chose it."""
    rate = optim.options["lr"]
    if isinstance(rate, float):
        return optim
    chosen = json.loads((rate / "lr.json").read_text())["lr"]
    return replace(optim, options={**optim.options, "lr": chosen})


def begin(
    model: Model, request: Request, labelled: Images, pool: Images, ctx: Context
) -> Tensor | None:
    """Fit scale and head to frozen features -> features of the labelled images [N, D].

    None if the task needs unpooled maps, which are too large to store.
    """
    task, encoder = model.task, model.nets["encoder"]
    if not task.probed():
        with torch.no_grad():
            task.prepare(model.nets, {})
        return None
    targets = {
        name: labelled.target(name).to(ctx.device)
        for name in task.needs
        if name in labelled.targets
    }
    f_ND = features(encoder, labelled, ctx)
    data = {
        "f": f_ND,
        "y": labelled.y.to(ctx.device),
        **targets,
        "pool": features(encoder, pool.at(scaling(request, pool)), ctx),
    }
    with torch.no_grad():
        task.prepare(model.nets, data)
    return f_ND if task.pooled else None


def name_of(request: Request, fold: int | str) -> tuple[int | str, ...]:
    """The name of the random streams of one fine-tuning."""
    return (request["seed"], "finetune", request["draw"], fold)


def start(request: Request, ctx: Context) -> nn.ModuleDict:
    """The task's networks, initialised by seed and draw.

    A pretrained encoder has its saved weights, a randomly initialised one gets its BatchNorm
    statistics from some images of the pool. With stored features there is no encoder.
    """
    spec = ctx.corpus(request["dataset"]).spec
    seed_global(seed_of(request["seed"], "init", request["draw"]), torch.device("cpu"))
    if STORED in request:
        width = corpus_of(request, ctx).train.raw(0).numel()
        return request["task"].networks(Precomputed(width), spec).to(ctx.device)
    encoder = models.readout(request["encoder"], request["features"], spec)
    nets = request["task"].networks(encoder, spec)
    if request["start"]:
        file = request["start"] / "encoder.safetensors"
        transfer.load_own(encoder.backbone, transfer.read_own(file), file)
        return place(nets, ctx.device)
    pool = splits.make(corpus_of(request, ctx), request["labels"], request["draw"]).pool
    fit_batchnorm(place(nets, ctx.device)["encoder"], pool.at(scaling(request, pool)), ctx)
    return nets


def scaling(request: Request, pool: Images) -> Tensor:
    """Rows of the pool images that set scales and statistics."""
    return torch.randperm(len(pool), generator=stream(request["seed"], "scale"))[:SCALE_ROWS]


def fit_batchnorm(encoder: nn.Module, images: Images, ctx: Context) -> None:
    """Set the running statistics of BatchNorm from these images.

    With the initial statistics 0 and 1, the features in eval mode, to which scale and head are
    fitted, are many times smaller than in training, which makes the first losses far too large.
    """
    rows = torch.arange(len(images)).split(models.at_once(images))
    torch.optim.swa_utils.update_bn(
        (batch["x"] for batch in images.batches(rows, ctx.device)), encoder
    )


def features(encoder: nn.Module, images: Images, ctx: Context) -> Tensor:
    """Features of the images from the encoder in eval mode: [N, D]."""
    rows = list(torch.arange(len(images)).split(models.at_once(images)))
    return torch.cat([f.to(ctx.device) for f in batched(encoder.eval(), images, rows, ctx)])


def trainable_phases(
    strategy: Strategy, nets: nn.ModuleDict, image: tuple[int, int, int]
) -> Phases:
    """The strategy's phases in names of `nets`, with the trainable parameters of other networks."""
    encoder: Any = nets["encoder"]
    rest = {
        name: 1.0
        for name, p in nets.named_parameters()
        if p.requires_grad and not name.startswith("encoder.")
    }
    return [
        (share, {f"encoder.backbone.{name}": rate for name, rate in rates.items()} | rest)
        for share, rates in strategy.phases(
            Layers() if isinstance(encoder, Precomputed) else layers(encoder, image)
        )
    ]


@dataclass(frozen=True)
class Group:
    """Parameters with the same learning rates."""

    name: str  # map of the encoder, or network of the task
    parameters: int  # how many
    rates: list[float | None]  # share of the learning rate in each phase; None = frozen


def groups(request: Request, spec: Spec) -> tuple[list[float], list[Group]]:
    """-> (start of each phase as a share of the steps, parameter groups from the input up).

    With a head fitted in closed form all parameters are frozen.
    """
    strategy = request["strategy"]
    encoder = models.readout(request["encoder"], request["features"], spec)
    nets = request["task"].networks(encoder, spec)
    strategy.adapt(encoder, stream(0))
    map_of = {
        f"encoder.backbone.{name}": map_name
        for map_name, names in layers(encoder, spec.image).items()
        for name in names
    }
    phases = [(1.0, {})] if strategy.closed_form else trainable_phases(strategy, nets, spec.image)
    counts: dict[tuple, int] = {}
    for name, p in nets.named_parameters():
        network = name.partition(".")[0]
        part = map_of.get(name, "encoder, not used" if network == "encoder" else network)
        if not (strategy.closed_form and network == "head"):
            key = part, *(rates.get(name) for _, rates in phases)
            counts[key] = counts.get(key, 0) + p.numel()
    starts = [0.0, *accumulate(share for share, _ in phases)][:-1]
    return starts, [Group(part, count, rates) for (part, *rates), count in counts.items()]
