"""Encoder (pretrained, or as its seed starts it) + labels -> model: the supervised half of the line."""

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
from sft_exp.core.method import Method
from sft_exp.core.rng import seed_global, seed_of, stream
from sft_exp.core.strategy import Strategy
from sft_exp.core.types import Spec, Tensors
from sft_exp.data import splits
from sft_exp.data.images import Images
from sft_exp.distributed.group import shared
from sft_exp.models import transfer
from sft_exp.models.feature_extractor import layers
from sft_exp.stages import model as models
from sft_exp.stages.model import Model
from sft_exp.stages.outcome import norm, on_training_images
from sft_exp.stages.stacked import stackable, stacked
from sft_exp.store import atomic_io
from sft_exp.store.requests import plain
from sft_exp.store.store import Request
from sft_exp.training.context import Context
from sft_exp.training.fit import fit, forget, plan_of
from sft_exp.training.loop import Plan
from sft_exp.training.optim import Phases

SCALE_ROWS = 1_000  # pool images whose features set the scale
LOOKS = 20  # times a validation set is looked at, where it chooses the epoch


def run(folder: Path, request: Request, ctx: Context) -> None:
    """model.json, model.safetensors, labels.json, metrics.jsonl; where something was trained by gradient also training.json."""
    draw = splits.make(ctx.corpus(request["dataset"]), request["labels"], request["draw"])
    atomic_io.write_json(folder / "labels.json", {"labelled": draw.labelled.ids, "validation": []})
    norms: list[float] = []
    model = learn(folder, request, ctx, draw.labelled, draw.pool, norms=norms)
    outcome(folder, request, model, draw.labelled, norms, ctx)
    models.save(folder, model, request)
    forget(folder, request)


def run_validated(folder: Path, request: Request, ctx: Context) -> None:
    """The same with val=holdout or full, whose images choose the epoch; also validation.json. A function of its own, since
    the code hash of a training without validation must not depend on the metrics."""
    draw = splits.make(ctx.corpus(request["dataset"]), request["labels"], request["draw"])
    labelled, val = hold_out(request, draw, ctx)
    atomic_io.write_json(folder / "labels.json", {"labelled": labelled.ids, "validation": val.ids})
    norms: list[float] = []
    model = learn(folder, request, ctx, labelled, draw.pool, Validation(val, ctx), norms=norms)
    outcome(folder, request, model, labelled, norms, ctx)
    atomic_io.write_json(folder / "validation.json", models.measure(model, val, ctx.device)[0])
    models.save(folder, model, request)
    forget(folder, request)


def outcome(
    folder: Path, request: Request, model: Model, labelled: Images, norms: list[float], ctx: Context
) -> None:
    """training.json, if anything was trained by gradient: the norms of the parameters at the start and at the end, and how
    training images are predicted."""
    if not request["strategy"].closed_form:
        atomic_io.write_json(
            folder / "training.json",
            {"norm": norms, **on_training_images(model, labelled, ctx.device)},
        )


@dataclass
class Validation:
    """Images that a model in training is scored on."""

    images: Images
    ctx: Context

    def through(self, encoder: nn.Module) -> "Validation":
        """The same images as features of this encoder."""
        return replace(self, images=self.images.having(features(encoder, self.images, self.ctx)))

    def score(self, model: Model) -> float:
        return models.measure(model, self.images, self.ctx.device, self.ctx.group)[0][
            model.task.score
        ]


def batch_key(request: Request) -> str | None:
    """What fine-tunings of frozen features have in common that differ in the learning rate alone: their heads train
    together. None for all others."""
    optim, task = request["optim"], request["task"]
    strategy = request["strategy"]
    unpenalised = type(strategy).penalty is Strategy.penalty
    plain_head = strategy.frozen and unpenalised and not strategy.models() and task.plain
    plain_loop = request["val"] == "none" and not (request["ema"] or request["clip"])
    if not (plain_head and plain_loop) or optim is None or not stackable(optim):
        return None
    return json.dumps(
        plain({**request, "optim": replace(optim, options={**optim.options, "lr": None})}),
        sort_keys=True,
    )


def run_batched(folders: list[Path], requests: list[Request], ctx: Context) -> None:
    """What `run` does for each, with one pass over the features for all. Starts over when killed: it takes seconds."""
    request = requests[0]
    draw = splits.make(ctx.corpus(request["dataset"]), request["labels"], request["draw"])
    model = Model(request["task"], start(request, ctx), ctx.corpus(request["dataset"]).spec)
    y_N, f_ND = draw.labelled.y.to(ctx.device), begin(model, request, draw.labelled, draw.pool, ctx)
    with torch.no_grad():
        f_ND = model.nets["scale"](f_ND)
    plan, head = plan_of(request, [(1.0, {})], name_of(request, "all"), ctx), model.nets["head"]
    assert isinstance(head, nn.Linear)
    before = norm(head)
    heads = stacked(
        head, f_ND, y_N, request["optim"], [r["optim"].options["lr"] for r in requests], plan
    )
    for folder, request, (state, rows) in zip(folders, requests, heads, strict=True):
        model.nets["head"].load_state_dict(state)
        atomic_io.write_json(
            folder / "labels.json", {"labelled": draw.labelled.ids, "validation": []}
        )
        epoch = max(1, len(y_N) // plan.batch_size)
        rows = [
            {
                "step": (n := row["step"]),
                "epoch": round(n / epoch, 4),
                "images": n * plan.batch_size,
                **row,
            }
            for row in rows
        ]
        atomic_io.write(folder / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
        outcome(folder, request, model, draw.labelled, [before, norm(head)], ctx)
        models.save(folder, model, request)


def hold_out(request: Request, draw: splits.Draw, ctx: Context) -> tuple[Images, Images]:
    """(training images, images the epoch is chosen on): a fold of the labels, or with val=full others' labels."""
    if request["val"] == "full":
        return draw.labelled, splits.outside(ctx.corpus(request["dataset"]), draw)
    known, held = splits.fold(draw.labelled, ctx.corpus(request["dataset"]).strata, 0)
    return draw.labelled.at(known), draw.labelled.at(held)


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
    """A model trained on `labelled`: with its last weights, or where there is `val`, with those that did best there. `norms`
    receives the norm of the parameters at the start, and of those kept.

    With `ema` weights are a running mean of those trained. With `patience` it ends after so many looks at `val` without a gain.
    """
    if request["strategy"].closed_form:
        return fit_closed_form(request, ctx, labelled, pool, fold)
    model, data, plan, encoder = ready(request, ctx, labelled, pool, fold)
    nets = model.nets
    if val and nets["encoder"] is not encoder:
        val = val.through(encoder)
    method = method_of(request, ctx)
    # kept with the checkpoints: the mean weights, the best ones and their score
    notes: dict[str, Any] = {}
    score = request["task"].score
    label = f"fine-tune draw {request['draw']}"
    optim = known(request["optim"])
    before = norm(nets)
    for step in fit(
        folder, method, nets.train(), optim, data, plan, ctx, label, notes, previous(request, fold)
    ):
        if request["ema"] or val:
            step.refresh()
        if request["ema"]:
            notes["mean"] = averaged(notes.get("mean"), nets, request["ema"], step.done)
        if val and (step.done % max(1, plan.steps // LOOKS) == 0 or step.done == plan.steps):
            with holding(nets, notes.get("mean")):
                reached = val.score(model)
                step.metrics[f"val/{score}"] = torch.tensor(reached)
                better = reached > notes.get("score", -inf)
                if better:
                    notes.update(score=reached, step=step.done, best=copied(nets))
            notes["worse"] = 0 if better else notes["worse"] + 1
            if request["patience"] is not None and notes["worse"] >= request["patience"]:
                break
    if kept := notes.get("best") or notes.get("mean"):
        nets.load_state_dict(kept)
    if norms is not None:
        norms += [before, norm(nets)]
    nets["encoder"] = encoder
    request["strategy"].merge(encoder)
    return model


def copied(nets: nn.Module) -> Tensors:
    return {k: v.clone() for k, v in nets.state_dict().items()}


@torch.no_grad()
def averaged(mean: Tensors | None, nets: nn.Module, decay: float, done: int) -> Tensors:
    """The running mean of all numbers and statistics after `done` steps. Early on it forgets faster: it began at weights
    that are of no use."""
    if mean is None:
        return copied(nets)
    share = 1 - min(decay, done / (done + 10))
    for name, value in nets.state_dict().items():
        mean[name].lerp_(value, share) if value.is_floating_point() else mean[name].copy_(value)
    return mean


@contextmanager
def holding(nets: nn.Module, weights: Tensors | None) -> Iterator[None]:
    """These weights instead of the networks' own, which come back afterwards."""
    if weights is None:
        yield
        return
    own = copied(nets)
    nets.load_state_dict(weights)
    try:
        yield
    finally:
        nets.load_state_dict(own)


def method_of(request: Request, ctx: Context) -> Method:
    """The task, or what the strategy makes of it."""
    strategy = request["strategy"]
    loaded = [models.load(folder, ctx.device) for folder in strategy.models()]
    return strategy.wraps(request["task"], loaded)


def previous(request: Request, fold: int | str) -> Path | None:
    """Where the shorter run of the same settings left its checkpoint."""
    after: Path | None = request["_after"]
    return after if after is None or fold == "all" else after / f"fold-{fold}"


def fit_closed_form(
    request: Request, ctx: Context, labelled: Images, pool: Images, fold: int | str
) -> Model:
    """Frozen features and a head in closed form, with `standardise=each` on features of mean 0 and spread 1 in the pool. One
    common scale is left out: the strategies' grids are of the features as they are, or relative to their spread."""
    spec, name = ctx.corpus(request["dataset"]).spec, ("solve", request["draw"], fold)
    model = Model(request["task"], start(request, ctx), spec, request["strategy"].probabilistic)
    if getattr(model.task, "standardise", None) == "each":
        scale: Any = model.nets["scale"]
        scale.fit(features(model.nets["encoder"], pool.at(scaling(request, pool)), ctx), each=True)
    seen = labelled
    if most := request["strategy"].unlabelled():
        rest = splits.rest(ctx.corpus(request["dataset"]), request["labels"], request["draw"])
        some = torch.randperm(len(rest), generator=stream("unlabelled", request["draw"]))[:most]
        seen = splits.join(labelled, rest.at(some))
    rows, rng = (
        torch.arange(len(seen)).split(models.at_once(seen)),
        stream(*name, "examples", device=ctx.device),
    )
    with torch.no_grad():
        found = [
            model.task.examples(model.nets.eval(), batch, rng)
            for batch in seen.batches(rows, ctx.device)
        ]
    f_MD, y_M = (torch.cat(parts) for parts in zip(*found, strict=True))
    head = request["strategy"].fit_closed_form(f_MD, y_M, model.task.of(spec), seed_of(*name))
    model.nets.set_submodule(model.task.readout, head.to(ctx.device))
    return model


def ready(
    request: Request, ctx: Context, labelled: Images, pool: Images, fold: int | str
) -> tuple[Model, dict[str, Images], Plan, nn.Module]:
    """(model with its head started, what it trains on, plan, encoder). Features of a frozen encoder never change, so where
    the task starts at them they are computed once: then they are what it trains on, and the encoder is set aside."""
    task, strategy, corpus = request["task"], request["strategy"], ctx.corpus(request["dataset"])
    model, data = Model(task, start(request, ctx), corpus.spec), {"labelled": labelled}
    encoder = model.nets["encoder"]
    strategy.adapt(encoder, stream(request["seed"], "adapt", request["draw"]))
    f_ND = begin(model, request, labelled, pool, ctx)
    if strategy.uses_pool:
        data["unlabelled"] = pool
    elif "unlabelled" in task.pools:
        data["unlabelled"] = splits.unlabelled(corpus, request["labels"], request["draw"])
    phases = moving(strategy, model.nets, corpus.image)
    plan = plan_of(request, phases, name_of(request, fold), ctx)
    if (
        any(name.startswith("encoder.") for _, rates in phases for name in rates)
        or task.alters()
        or f_ND is None
    ):
        start_at = {
            name: p.detach().clone() for name, p in encoder.named_parameters(prefix="encoder")
        }
        return (
            model,
            data,
            replace(
                plan,
                eval_frozen="encoder",
                frozen_statistics=request.get("batchnorm") == "frozen",
                penalty=partial(pull, strategy, start_at),
            ),
            encoder,
        )
    model.nets["encoder"], data["labelled"] = nn.Identity(), labelled.having(f_ND)
    if "unlabelled" in data:
        data["unlabelled"] = data["unlabelled"].having(features(encoder, data["unlabelled"], ctx))
    return model, data, replace(plan, penalty=partial(pull, strategy, {})), encoder


def pull(strategy: Strategy, start: Tensors, nets: nn.ModuleDict) -> Tensor | None:
    """The strategy's penalty on what moves now."""
    return strategy.penalty(
        {name: p for name, p in nets.named_parameters() if p.requires_grad}, start
    )


def known(optim: OptimizerConfig) -> OptimizerConfig:
    """The optimizer with its learning rate read, where another stage found it."""
    rate = optim.options["lr"]
    return (
        optim
        if isinstance(rate, float)
        else replace(optim, options={**optim.options, "lr": found(rate)})
    )


def found(folder: Path) -> float:
    return json.loads((folder / "lr.json").read_text())["lr"]


def begin(
    model: Model, request: Request, labelled: Images, pool: Images, ctx: Context
) -> Tensor | None:
    """Scale and start the head on frozen features; gives those of the labelled images [N, D]. None where the task starts at
    maps, which are too large to keep."""
    task, encoder = model.task, model.nets["encoder"]
    if not task.probed():
        with torch.no_grad():
            task.prepare(model.nets, {})
        return None
    told = {
        name: labelled.target(name).to(ctx.device)
        for name in task.needs
        if name in labelled.targets
    }
    f_ND = features(encoder, labelled, ctx)
    seen = {
        "f": f_ND,
        "y": labelled.y.to(ctx.device),
        **told,
        "pool": features(encoder, pool.at(scaling(request, pool)), ctx),
    }
    with torch.no_grad():
        task.prepare(model.nets, seen)
    return f_ND if task.pooled else None


def name_of(request: Request, fold: int | str) -> tuple[int | str, ...]:
    """What names the random streams of one fine-tuning."""
    return (request["seed"], "finetune", request["draw"], fold)


def start(request: Request, ctx: Context) -> nn.ModuleDict:
    """The task's networks as seed and draw start them, the encoder's numbers from the pretraining if there is one. One that
    has seen nothing gets the BatchNorm statistics of some images of the pool."""
    spec = ctx.corpus(request["dataset"]).spec
    seed_global(seed_of(request["seed"], "init", request["draw"]), torch.device("cpu"))
    encoder = models.readout(request["encoder"], request["features"], spec)
    nets = request["task"].networks(encoder, spec)
    if request["start"]:
        file = request["start"] / "encoder.safetensors"
        transfer.load_own(encoder.backbone, transfer.read_own(file), file)
        return nets.to(ctx.device)
    pool = splits.make(ctx.corpus(request["dataset"]), request["labels"], request["draw"]).pool
    settle(nets.to(ctx.device)["encoder"], pool.at(scaling(request, pool)), ctx)
    return nets


def scaling(request: Request, pool: Images) -> Tensor:
    """Rows of the images that set scales and statistics."""
    return torch.randperm(len(pool), generator=stream(request["seed"], "scale"))[:SCALE_ROWS]


def settle(encoder: nn.Module, images: Images, ctx: Context) -> None:
    """With the statistics 0 and 1 that BatchNorm begins with, features at rest, to which scale and head are fitted, are many
    times smaller than in training, and the first losses as much too large."""
    rows = torch.arange(len(images)).split(models.at_once(images))
    torch.optim.swa_utils.update_bn(
        (batch["x"] for batch in images.batches(rows, ctx.device)), encoder
    )


@torch.no_grad()
def features(encoder: nn.Module, images: Images, ctx: Context) -> Tensor:
    """What the encoder, at rest, makes of the images: [N, D]."""
    encoder.eval()
    rows, images = (
        torch.arange(len(images)).split(models.at_once(images)),
        replace(images, targets={}),
    )
    found = shared(
        lambda mine: (encoder(b["x"]) for b in images.batches(mine, ctx.device)), rows, ctx.group
    )
    return torch.cat([f_BD.to(ctx.device) for f_BD in found])


def moving(strategy: Strategy, nets: nn.ModuleDict, image: tuple[int, int, int]) -> Phases:
    """The strategy's phases in the names of `nets`, with all that learns and is not the encoder."""
    encoder: Any = nets["encoder"]
    rest = {
        name: 1.0
        for name, p in nets.named_parameters()
        if p.requires_grad and not name.startswith("encoder.")
    }
    return [
        (share, {f"encoder.backbone.{name}": rate for name, rate in rates.items()} | rest)
        for share, rates in strategy.phases(layers(encoder, image))
    ]


@dataclass(frozen=True)
class Group:
    """Parameters that move alike."""

    name: str  # map of the encoder, or network of the task
    parameters: int
    rates: list[float | None]  # share of the learning rate in each phase; None = frozen


def groups(request: Request, spec: Spec) -> tuple[list[float], list[Group]]:
    """(where each phase begins, as a share of the steps; what moves how fast), from the input up. With a head that is solved
    nothing moves."""
    strategy, encoder = (
        request["strategy"],
        models.readout(request["encoder"], request["features"], spec),
    )
    nets = request["task"].networks(encoder, spec)
    strategy.adapt(encoder, stream(0))
    owner = {
        f"encoder.backbone.{n}": at
        for at, names in layers(encoder, spec.image).items()
        for n in names
    }
    phases = [(1.0, {})] if strategy.closed_form else moving(strategy, nets, spec.image)
    found: dict[tuple, int] = {}
    for name, p in nets.named_parameters():
        first = name.partition(".")[0]
        at = owner.get(name, "encoder, not used" if first == "encoder" else first)
        if not (strategy.closed_form and first == "head"):
            key = at, *(rates.get(name) for _, rates in phases)
            found[key] = found.get(key, 0) + p.numel()
    begins = [0.0, *accumulate(share for share, _ in phases)][:-1]
    return begins, [Group(key[0], count, list(key[1:])) for key, count in found.items()]
