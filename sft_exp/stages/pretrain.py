"""Pretraining: a pool of unlabelled images -> encoder.safetensors."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from sft_exp.core.device import place
from sft_exp.core.pretrainer import Pretrainer
from sft_exp.core.rng import seed_global, seed_of, stream
from sft_exp.core.types import Spec
from sft_exp.data import splits
from sft_exp.data.corpus import Corpus
from sft_exp.data.images import Images, fitted
from sft_exp.errors import ConfigError
from sft_exp.models import transfer, weights
from sft_exp.models.normalise import Normalised, backbone
from sft_exp.progress import console
from sft_exp.stages.monitor import LOOKS, Monitor
from sft_exp.store import atomic_io, provenance
from sft_exp.store.store import Request
from sft_exp.training import metrics_log
from sft_exp.training.context import Context
from sft_exp.training.fit import delete_checkpoints, fit, plan_of

SHOWN = 16  # number of images in the report's pictures


def run(folder: Path, request: Request, ctx: Context) -> None:
    """encoder.safetensors, pictures.safetensors, metrics.jsonl, monitors.jsonl.

    Also networks.safetensors if the method has a likelihood, and transfer.json if the initial
    weights came from a file.
    """
    method: Pretrainer = request["method"]
    corpus = ctx.corpus(request["dataset"])
    pool = pool_of(corpus, request["fold"], method, request["image"])
    nets, report = build(request, corpus)
    place(nets, ctx.device)
    if report:
        images = weights.images(request["_init"], request["encoder"], request["image"])
        table = f"{report.table()}\n  {images}"
        console.message(table)
        origin = provenance.origin(request["_init"].file)
        about = {"images": images, "sha256": request["init"], "origin": origin}
        atomic_io.write_json(folder / "transfer.json", {**report.json(), **about})
    shuffled = torch.randperm(len(pool), generator=stream(request["seed"], "prepare"))
    data: dict[str, Tensor] = {}
    if method.trained_by == "in closed form":
        data["x"] = pool.floats(shuffled[:20_000], ctx.device)
    with torch.no_grad():
        method.prepare(nets, data)
    if method.trained_by == "by gradient":
        phases = [(1.0, {name: 1.0 for name, p in nets.named_parameters() if p.requires_grad})]
        plan = plan_of(request, phases, (request["seed"], "pretrain"), ctx)
        label, monitored = f"pretrain {type(method).__name__}", request["_monitor"]
        encoder = nets.get_submodule(method.encoder_path)
        after, every = request["_after"], plan.steps // LOOKS
        monitor, notes = None, dict[str, Any]()
        if monitored and every and ctx.first:
            monitor = Monitor(folder, monitored, encoder, nets, pool, ctx, notes)
            ctx.watch(folder.name).log(metrics_log.monitor_row(monitor.look(0)))
        optim, pools = request["optim"], {"pool": pool}
        for step in fit(folder, method, nets, optim, pools, plan, ctx, label, notes, after):
            if monitored and every and step.done % every == 0:
                step.check()
                step.refresh()
                if monitor:
                    ctx.watch(folder.name).log(metrics_log.monitor_row(monitor.look(step.done)))
        if monitor:
            monitor.write()  # a resumed training may have ended without another look
            console.message(f"{label}: measuring feature quality took {monitor.seconds:.1f} s")
    atomic_io.write(
        folder / "encoder.safetensors",
        transfer.own_content(nets.get_submodule(method.encoder_path)),
    )
    if method.has_likelihood:
        atomic_io.write(folder / "networks.safetensors", transfer.own_content(nets))
    atomic_io.write(
        folder / "pictures.safetensors",
        to_bytes(pictures(method, nets, pool, request["seed"], ctx)),
    )
    delete_checkpoints(folder, request)


def build(request: Request, corpus: Corpus) -> tuple[nn.ModuleDict, transfer.Report | None]:
    """-> (the method's networks, initialised by the request's seed, report of transferred weights).

    With `_init` the encoder has the weights of that file. DataError if too few fit or the file has
    changed; ConfigError if the encoder has no parameters.
    """
    seed_global(seed_of(request["seed"], "init"), torch.device("cpu"))
    encoder, report = backbone(request["encoder"], request["image"]), None
    if not list(encoder.parameters()):
        kind = type(request["encoder"]).__name__
        raise ConfigError(
            "encoder", kind, "has nothing to pretrain; take another encoder, or pretrainer=none"
        )
    if request["_init"]:
        source, _ = weights.read(request["_init"], request["init"])
        body = encoder.body if isinstance(encoder, Normalised) else encoder
        report = transfer.transfer(body, source, request["_init"].file, request.get("prefix"))
        report.check(request["_allow"])
    return request["method"].networks(
        encoder, Spec(request["image"], corpus.classes, corpus.named)
    ), report


def pool_of(
    corpus: Corpus, fold: int | str | None, method: Pretrainer, image: tuple[int, int, int]
) -> Images:
    """The images to pretrain on, of size `image`: with a fold those outside its test part; with
    "all" every training image. Only methods that train on labels receive them."""
    if fold == "all":
        pool = corpus.train if method.labelled else splits.everything(corpus)
    elif isinstance(fold, int):
        pool = splits.pool(corpus, splits.fold(corpus.train, corpus.strata, fold)[0])
    else:
        pool = splits.pool(corpus, None)
    return fitted(pool if method.labelled else replace(pool, y=torch.full_like(pool.y, -1)), image)


@torch.no_grad()
def pictures(
    method: Pretrainer, nets: nn.ModuleDict, pool: Images, seed: int, ctx: Context
) -> dict[str, Tensor]:
    """The method's pictures of the first images, uint8 [B, C, H, W]."""
    x_BCHW = pool.floats(torch.arange(min(SHOWN, len(pool))), ctx.device)
    shown = method.show(nets.eval(), x_BCHW, stream(seed, "show", device=ctx.device))
    return {name: (x * 255).round().to(torch.uint8).cpu().contiguous() for name, x in shown.items()}


def strip(x_BCHW: Tensor) -> Any:
    """Images side by side with white gaps, in matplotlib's layout: [H, W], or [H, W, 3] if RGB."""
    gap = max(1, x_BCHW.shape[3] // 12)
    padded = torch.nn.functional.pad(x_BCHW, (0, gap), value=255)
    wide_CHW = torch.cat(list(padded), dim=2)[..., :-gap]
    return (wide_CHW.permute(1, 2, 0) if len(wide_CHW) == 3 else wide_CHW[0]).numpy()
