"""What two processes compute beside what one does, in float64: run by test_ranks.py, once for all methods.

With DEVICE=cuda in the environment on a GPU, by a single process (test_device.py).
"""

import json
import os
import sys
from copy import deepcopy
from dataclasses import is_dataclass
from functools import partial
from importlib import import_module
from pathlib import Path

import torch

from sft_exp.config import sources
from sft_exp.config.schema import OptimizerConfig
from sft_exp.core.device import place
from sft_exp.core.rng import stream
from sft_exp.core.types import Spec
from sft_exp.data.images import Images
from sft_exp.distributed.group import Group, shared
from sft_exp.distributed.select import engine_for
from sft_exp.errors import ConfigError
from sft_exp.models.feature_extractor import FeatureExtractor
from sft_exp.schedules.piecewise_cosine import PiecewiseCosine
from sft_exp.stages.finetune import pull, trainable_phases
from sft_exp.training.loop import Plan, train
from sft_exp.training.optim import optimizers_for

CPU, BATCH = torch.device("cpu"), 10
DEVICE = torch.device(os.environ.get("DEVICE", "cpu"))
NAMED = {
    "mask": ("nothing", "a", "b"),
    "value": ("u", "v"),
    "kind": tuple("0123456789"),
    "boxes": ("a", "b"),
}
DIGITS = Spec((1, 8, 8), tuple("0123456789"), NAMED)
SOME = torch.rand(50, 1, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
ENCODERS = ("conv", "mlp")  # the first that a method takes: one with BatchNorm, if it may be
STEPS = 4


def part(group, stem):
    for g, file, name in sources.parts():
        if (g, file.stem) == (group, stem):
            module = import_module(name)
            (kind,) = [
                v
                for v in vars(module).values()
                if isinstance(v, type) and is_dataclass(v) and v.__module__ == module.__name__
            ]
            return kind


def parts(group):
    return [part(g, file.stem) for g, file, _ in sources.parts() if g == group]


def everything(nets):
    return [(1.0, {name: 1.0 for name, p in nets.named_parameters() if p.requires_grad})]


def pretraining(kind):
    method = kind()
    for encoder in ENCODERS:
        try:
            nets = method.networks(part("encoder", encoder)().build(DIGITS.image), DIGITS)
        except ConfigError:
            continue
        return method, nets, everything(nets), None
    raise AssertionError(f"{kind.__name__} takes none of {ENCODERS}")


def tuning(kind, strategy=None, **options):
    """A task; with a strategy in its phases, with what it adds and its penalty."""
    task, strategy = kind(**options), strategy() if strategy else None
    maps = [-1] if task.pooled else [0, 1]  # the code, or what has a height and a width
    encoder = FeatureExtractor(
        part("encoder", "conv")().build(DIGITS.image), maps, "avg", 1, DIGITS.image
    )
    nets = task.networks(encoder, DIGITS)
    if task.probed():
        found = {name: made[:50] for name, made in targets(50).items()}
        with torch.no_grad():
            task.prepare(
                nets,
                {
                    "f": torch.rand(50, encoder.width),
                    "y": torch.arange(50) % 10,
                    **found,
                    "pool": encoder(SOME),
                },
            )
    if strategy is None:
        return task, nets, trainable_phases(part("strategy", "full")(), nets, DIGITS.image), None
    strategy.adapt(encoder, stream("adapt"))
    start = {name: p.detach().clone() for name, p in encoder.named_parameters(prefix="encoder")}
    return (
        task,
        nets,
        trainable_phases(strategy, nets, DIGITS.image),
        partial(pull, strategy, start),
    )


def cases():
    """Name -> what makes (method, networks, phases, penalty)."""
    classify = part("task", "classify")
    found = {
        f"pretrainer {k.__name__}": partial(pretraining, k)
        for k in parts("pretrainer")
        if k.trained_by == "by gradient"
    }
    found |= {f"recomputed {k}": found[f"pretrainer {k}"] for k in ("VAE", "SimCLR")}
    found |= {
        f"task {k.__name__}": partial(tuning, k) for k in parts("task") if not hasattr(k, "holds")
    }
    # its own weight, 100, is for Adam
    found["task M1M2"] = partial(tuning, part("task", "m1_m2"), weight=1.0)
    heads = {
        "mask": part("task", "segment")(),
        "value": part("task", "regress")(),
        "kind": classify(),
    }
    for way in ("fixed", "uncertainty", "gradnorm"):
        found[f"task MultiTask {way}"] = partial(
            tuning, part("task", "multitask"), heads=heads, weighting=way
        )
    joined = {"task": classify(), "objective": part("pretrainer", "simclr")(), "ratio": 2}
    found["task Joint"] = partial(tuning, part("task", "joint"), **joined)
    found |= {
        f"strategy {k.__name__}": partial(tuning, classify, k)
        for k in parts("strategy")
        if not k.closed_form
    }
    more = {"mixup": 0.3}, {"cutmix": 1.0}, {"augment": True}, {"balanced": True}
    return found | {f"classify {options}": partial(tuning, classify, **options) for options in more}


def targets(n):
    """What the tasks there are may ask of a data set."""
    rng, x0_NM2 = torch.Generator().manual_seed(1), torch.arange(n * 3 * 2).view(n, 3, 2) % 4
    return {
        "mask": torch.randint(0, 3, (n, 8, 8), generator=rng),
        "value": torch.rand(n, 2, generator=rng, dtype=torch.float64),
        "kind": torch.randint(0, 10, (n,), generator=rng),
        "boxes": torch.cat([x0_NM2, x0_NM2 + 4], 2).double(),
        "labels": torch.randint(0, 3, (n, 3), generator=rng),
        "crowd": torch.zeros(n, 3, dtype=torch.long),
        "label_set": torch.arange(n)[:, None] % torch.arange(2, 12) == 0,
    }


def images():
    from sft_exp.datasets.digits import Digits

    found = Digits().load().train.at(torch.arange(200))
    return Images(
        found.floats(torch.arange(200), CPU).double(), found.y, found.ids, targets=targets(200)
    )


def trained(made, kind, group, data, optim="torch.optim.SGD", device=DEVICE, **changes):
    """(gradients after each step, all numbers at the end)"""
    method, nets, phases, penalty = made
    nets, data = place(nets, device), data.to(device)
    if penalty:
        strategy, start = penalty.args
        penalty = partial(pull, strategy, {name: p.to(device) for name, p in start.items()})
    plan = Plan(
        STEPS, STEPS, BATCH, PiecewiseCosine(), phases, (0, "ranks"), penalty=penalty, **changes
    )
    pools = dict.fromkeys(method.pools, data)
    engine = engine_for(kind, group, method, nets, plan, pools)
    optimizers = optimizers_for(method, engine.nets, OptimizerConfig(optim, {"lr": 0.01}), phases)
    gradients = []
    for _ in train(method, nets, optimizers, pools, plan, device, engine=engine):
        gradients.append(
            {n: full(p.grad) for n, p in engine.nets.named_parameters() if p.grad is not None}
        )
    engine.refresh()
    return gradients, dict(nets.state_dict())


def full(x):
    return (x.full_tensor() if hasattr(x, "full_tensor") else x).cpu().clone()


def apart(a, b):
    """The largest difference, relative to the largest number of its tensor where that is above 1."""
    assert a.keys() == b.keys(), a.keys() ^ b.keys()
    return max(
        float((a[k] - b[k]).abs().max() / a[k].abs().max().clamp_min(1))
        for k in a
        if a[k].is_floating_point()
    )


def main(folder, engines, only=""):
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    group, data = Group(DEVICE, 60), images()
    if group.rank:
        assert group.receive() == {"hello": 1}
    else:
        group.broadcast({"hello": 1})
    pieces = torch.arange(23).split(5)  # five pieces for two processes, the last one shorter
    together = shared(lambda mine: (r * 2.0 for r in mine), pieces, group)
    assert torch.equal(torch.cat([*together]), torch.arange(23) * 2.0)
    assert group.any(group.rank == 1, False) == [group.count > 1, False]
    for name, make in cases().items():
        if not any(words in name for words in only.split(";")):
            continue
        torch.manual_seed(0)
        try:
            made = make()
        except ConfigError as error:
            keep(group, folder, name, engines, {"skipped": str(error)})
            continue
        gradients, end = trained(deepcopy(made), "local", None, data)
        changes = {"recompute": True} if name.startswith("recomputed") else {}
        changes |= {"gradient_accumulation_steps": 2} if name.startswith("strategy") else {}
        for engine in engines:
            try:
                theirs, last = trained(deepcopy(made), engine, group, data, **changes)
                found = {
                    "gradients": max(apart(a, b) for a, b in zip(gradients, theirs, strict=True)),
                    "end": apart(end, last),
                }
            except Exception as error:  # both processes fail alike, and the others go on
                if os.environ.get("RAISE"):
                    raise
                found = {"error": f"{type(error).__name__}: {error}"}
            keep(group, folder, name, [engine], found)
    group.close()
    sys.stdout.flush()
    os._exit(0)


def keep(group, folder, name, engines, found):
    for engine in engines if group.rank == 0 else ():
        (Path(folder) / f"{name} {engine}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2].split(","), *sys.argv[3:])
