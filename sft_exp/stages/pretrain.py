"""Pool of images -> encoder.safetensors: what a pretrainer learns without a label."""

from pathlib import Path

import torch
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from sft_exp import durable, splits
from sft_exp.core import Pretrainer, seed_global, seed_of, stream
from sft_exp.data import Corpus, Images
from sft_exp.errors import ConfigError
from sft_exp.stages.context import Context
from sft_exp.stages.fit import fit, forget, plan_of
from sft_exp.store import Request
from sft_exp.train import optimizers_for

SHOWN = 16  # images in the report's pictures


def run(folder: Path, request: Request, ctx: Context) -> None:
    method: Pretrainer = request["method"]
    corpus = ctx.corpus(request["dataset"])
    pool = pool_of(corpus, request["fold"])
    nets = build(request, corpus).to(ctx.device)
    shuffled = torch.randperm(len(pool), generator=stream(request["seed"], "prepare"))
    with torch.no_grad():
        method.prepare(nets, {"x": pool.floats(shuffled[:20_000], ctx.device)} if method.learns == "in closed form" else {})
    if method.learns == "by gradient":
        phases = [(1.0, {name: 1.0 for name, p in nets.named_parameters() if p.requires_grad})]
        plan = plan_of(request, phases, (request["seed"], "pretrain"), ctx)
        optimizers = optimizers_for(method, nets, request["optim"], phases)
        for _ in fit(
            folder,
            method,
            nets,
            optimizers,
            {"pool": pool},
            plan,
            ctx,
            f"pretrain {type(method).__name__}",
            previous=request["_after"],
        ):
            pass
        ctx.finish(folder.name)
    encoder = nets.get_submodule(method.keeps)
    durable.write(folder / "encoder.safetensors", to_bytes({k: v.contiguous().cpu() for k, v in encoder.state_dict().items()}))
    durable.write(folder / "pictures.safetensors", to_bytes(pictures(method, nets, pool, request["seed"], ctx)))
    forget(folder, request)


def build(request: Request, corpus: Corpus) -> nn.ModuleDict:
    """The method's networks as the request's seed starts them. ConfigError if the encoder has nothing to learn."""
    seed_global(seed_of(request["seed"], "init"), torch.device("cpu"))
    encoder = request["encoder"].build(corpus.image)
    if not list(encoder.parameters()):
        kind = type(request["encoder"]).__name__
        raise ConfigError("encoder", kind, "has nothing to pretrain; take another encoder, or pretrainer=none")
    return request["method"].networks(encoder, corpus.spec)


def pool_of(corpus: Corpus, fold: int | None) -> Images:
    """Images to pretrain on; with a fold, those that its tests do not use."""
    if fold is None:
        return splits.pool(corpus, None)
    known, _ = splits.fold(corpus.train, corpus.classes, fold)
    return splits.pool(corpus, known)


@torch.no_grad()
def pictures(method: Pretrainer, nets: nn.ModuleDict, pool: Images, seed: int, ctx: Context) -> dict[str, Tensor]:
    """What the method shows of its first images, uint8 [B, C, H, W]."""
    x_BCHW = pool.floats(torch.arange(min(SHOWN, len(pool))), ctx.device)
    shown = method.show(nets.eval(), x_BCHW, stream(seed, "show", device=ctx.device))
    return {name: (x * 255).round().to(torch.uint8).cpu().contiguous() for name, x in shown.items()}
