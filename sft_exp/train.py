"""The training loop: every method, both stages. Read it from top to bottom.

`train` is a generator: it yields after each step, and whoever iterates decides when to save, score or stop. It holds no
random state, so it continues from (networks, optimizers, step) as if it had never stopped.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn

from sft_exp.core import Method, Rates, Tensors, seed_global, seed_of, stream
from sft_exp.data import Images, rows_of_step
from sft_exp.errors import ConfigError, NonFiniteError
from sft_exp.experiment import Target
from sft_exp.schedule import Schedule

Phases = list[tuple[float, Rates]]  # (share of the steps, rates of all parameters of the networks)
Optimizers = dict[str, torch.optim.Optimizer]  # objective -> what moves its network


@dataclass(frozen=True)
class Plan:
    """What a training is, beside its method, networks and data."""

    steps: int  # where schedules end
    stop: int  # where this training stops, which may be earlier
    batch_size: int  # rows a step; as large as the data set = full-batch gradient descent
    schedule: Schedule
    phases: Phases
    name: tuple[int | str, ...]  # names the random streams: seed, and whatever else sets this training apart
    piece: int | None = None  # rows a backward pass; a larger batch is taken in pieces and their gradients added
    precision: str = "fp32"  # fp32, or bf16 for autocast
    compile: bool = False

    def moving(self, step: int) -> Rates:
        """Rates of the phase that step belongs to."""
        ends = list(accumulate(share for share, _ in self.phases))
        return next((r for end, (_, r) in zip(ends, self.phases, strict=True) if step < end * self.steps), self.phases[-1][1])


@dataclass(frozen=True)
class Step:
    done: int  # steps taken so far
    metrics: Tensors  # scalars of this step, still on the device


def train(
    method: Method,
    nets: nn.ModuleDict,
    optimizers: Optimizers,
    data: Mapping[str, Images],
    plan: Plan,
    device: torch.device,
    start: int = 0,
) -> Iterator[Step]:
    """Move `nets` in place, from step `start` to `plan.stop`."""
    losses = {o: torch.compile(getattr(method, o)) if plan.compile else getattr(method, o) for o in method.objectives}
    steps = range(start, plan.stop)
    batches = {pool: data[pool].batches(walk(len(data[pool]), plan, pool, m, steps), device) for pool, m in method.pools.items()}
    free: tuple[Rates, str] | None = None  # (phase, network) that gradients reach now
    for step in steps:
        rates, progress = plan.moving(step), step / plan.steps
        batch = {pool: next(it) for pool, it in batches.items()}
        drawn = method.draw(batch, stream(*plan.name, "draw", step, device=device), progress)
        seed_global(seed_of(*plan.name, "dropout", step), device)  # for what draws inside its own forward
        metrics: Tensors = {}
        for objective, (network, every) in method.objectives.items():
            if step % every:
                continue
            optimizer = optimizers[objective]
            for group in optimizer.param_groups:
                group["lr"] = group["base_lr"] * plan.schedule(progress)
            if free != (rates, network):
                only(nets, rates, network)
                free = rates, network

            closure: Any = partial(descend, losses[objective], objective, step, optimizer, nets, drawn, plan, metrics)
            optimizer.step(closure)
        with torch.no_grad():
            method.after(nets, *drawn)
        yield Step(step + 1, metrics)


def walk(n: int, plan: Plan, pool: str, share: int, steps: range) -> Iterator[Tensor]:
    """Rows of the pool of n that each of these steps takes, `share` for each row of the batch size."""
    return (rows_of_step(n, plan.batch_size * share, step, *plan.name, pool) for step in steps)


def descend(
    loss: Callable[..., tuple[Tensor, Tensors]],
    name: str,
    step: int,
    optimizer: torch.optim.Optimizer,
    nets: nn.ModuleDict,
    drawn: tuple[Tensor, ...],
    plan: Plan,
    metrics: Tensors,
) -> Tensor:
    """Gradients of this step's loss, for an optimizer's `step`; fills `metrics`. Stops before a bad loss spreads."""
    optimizer.zero_grad(set_to_none=True)
    total, means = torch.zeros((), device=drawn[0].device), dict[str, Tensor]()
    for share, piece in pieces(drawn, plan.piece):
        with autocast(drawn[0].device, plan.precision):
            value, logged = loss(nets, *piece)
        if not value.isfinite():
            beside = "".join(f", {k} {v:.4g}" for k, v in logged.items())
            raise NonFiniteError(f"{name} is {value.item()} at step {step}{beside}, before the update")
        (value * share).backward()
        total += value.detach() * share
        means |= {k: means.get(k, 0) + v.detach() * share for k, v in logged.items()}
    metrics.update({**means, name: total})
    return total


def only(nets: nn.ModuleDict, moving: Rates, network: str) -> None:
    """Let gradients reach what moves in this phase and belongs to the objective's network, and nothing else."""
    for name, p in nets.named_parameters():
        p.requires_grad_(name in moving and belongs(name, network))


def belongs(parameter: str, network: str) -> bool:
    return not network or parameter.startswith(f"{network}.")


def pieces(drawn: tuple[Tensor, ...], size: int | None) -> Iterator[tuple[float, tuple[Tensor, ...]]]:
    """(share of the batch, rows of every draw): gradients of means over rows add up to the whole batch's."""
    n = len(drawn[0])
    if size is None or size >= n:
        yield 1.0, drawn
        return
    for i in range(0, n, size):
        cut = tuple(d if d.dim() == 0 else d[i : i + size] for d in drawn)
        yield len(cut[0]) / n, cut


def autocast(device: torch.device, precision: str) -> AbstractContextManager:
    return torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else nullcontext()


def optimizers_for(method: Method, nets: nn.ModuleDict, target: Target, phases: Phases) -> Optimizers:
    """One optimizer an objective, over everything of its network that ever moves, in groups of equal learning rate."""
    rates: Rates = {}
    for _, phase in phases:
        for name, rate in phase.items():
            if rates.setdefault(name, rate) != rate:
                raise ConfigError(
                    "strategy", type(method).__name__, f"{name} has several rates; phases may only start and stop it"
                )
    parameters = dict(nets.named_parameters())
    made = {}
    for objective, (network, _) in method.objectives.items():
        groups: dict[float, list[Tensor]] = {}
        for name, rate in rates.items():
            if belongs(name, network):
                groups.setdefault(rate, []).append(parameters[name])
        made[objective] = build_optimizer(
            target, [{"params": p, "lr": target.options["lr"] * rate} for rate, p in groups.items()]
        )
    return made


def build_optimizer(target: Target, groups: list[dict]) -> torch.optim.Optimizer:
    """The optimizer a `_target_` node names, checked to be one; with torch's fused kernels where it has them."""
    module, _, name = target.path.rpartition(".")
    try:
        kind = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError("_target_", target.path, f"cannot be imported ({error})") from error
    if not (isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer)):
        raise ConfigError("_target_", target.path, "must be a class derived from torch.optim.Optimizer")
    options = dict(target.options)
    if "fused" in kind.__init__.__code__.co_varnames and "fused" not in options and "foreach" not in options:
        options["fused"] = True
    try:
        optimizer = kind(groups, **options)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigError("", target.options, f"{target.path} refuses these: {error}") from error
    for group in optimizer.param_groups:
        group["base_lr"] = group["lr"]
    return optimizer
