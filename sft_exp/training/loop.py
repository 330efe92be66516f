"""The training loop of all methods and both stages. Read it from top to bottom.

`train` is a generator: it yields after each step, and the caller decides when to save, evaluate or
stop. It has no random state, so it resumes from (networks, optimizers, step) as if it had never
stopped.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn

from sft_exp.core.comm import BatchShard, use_ranks
from sft_exp.core.method import Method
from sft_exp.core.rng import seed_global, seed_of, stream
from sft_exp.core.schedule import Schedule
from sft_exp.core.types import Rates, Tensors
from sft_exp.data.images import Images
from sft_exp.data.order import rows_of_step
from sft_exp.distributed.local import Engine, inside
from sft_exp.errors import NonFiniteError
from sft_exp.training.optim import Optimizers, Phases, Scalers, belongs, scalers_for, update

# Steps between looks at the losses where the host would have to wait for the device to read one.
CHECK_EVERY = 50
# A scaler halves its scale at each overflow. It starts at 65536, and so this is 30 of them.
LEAST_SCALE = 2.0**-14
HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Plan:
    """What a training is, beside its method, networks and data."""

    steps: int  # where schedules end
    stop: int  # where this training stops, which may be earlier
    batch_size: int  # rows a step; as large as the data set = full-batch gradient descent
    schedule: Schedule
    phases: Phases
    # names the random streams: seed, and whatever else sets this training apart
    name: tuple[int | str, ...]
    # rows a backward pass; a larger batch is taken in pieces and their gradients added
    micro_batch_size: int | None = None
    gradient_accumulation_steps: int = 1  # or pieces of a process's rows
    # fp32, or bf16 or fp16 for autocast; the rest is for the request alone (Hardware.numerics)
    precision: str = "fp32"
    compile: bool = False
    recompute: bool = False  # blocks keep their input alone and are computed again in backward
    # network whose frozen parts also rest: BatchNorm keeps its statistics, dropout passes
    # everything
    eval_frozen: str = ""
    # BatchNorm layers of that network keep their statistics and normalise by them, though their parameters train.
    frozen_statistics: bool = False
    # a term of every loss that is the strategy's, not the method's
    penalty: Callable[[nn.ModuleDict], Tensor | None] | None = None
    clip: float | None = None  # largest norm of an objective's gradient

    def moving(self, step: int) -> Rates:
        """Rates of the phase that step belongs to."""
        ends = list(accumulate(share for share, _ in self.phases))
        return next(
            (r for end, (_, r) in zip(ends, self.phases, strict=True) if step < end * self.steps),
            self.phases[-1][1],
        )


@dataclass(frozen=True)
class Step:
    done: int  # steps taken so far
    metrics: Tensors  # scalars of this step, still on the device
    # to be called before looking at the networks; it costs something where they are sharded
    refresh: Callable[[], None]
    # NonFiniteError if a loss of this step or one before it is not finite: to be called before
    # anything of the step is recorded or evaluated; on a GPU the host waits for it
    check: Callable[[], None]


class LossRecord:
    """Losses since the last check. They stay on the device, because reading one makes the host wait.

    On a CPU every loss is checked before its update, elsewhere once in CHECK_EVERY steps and before
    anything of a step is recorded. Either way the error names the first step that went wrong.
    """

    def __init__(self, device: torch.device):
        self.every = 1 if device.type == "cpu" else CHECK_EVERY
        self.losses: list[tuple[int, str, Tensors]] = []

    def add(self, step: int, objective: str, means: Tensors) -> None:
        """Record the loss and the other scalars of an objective before its update."""
        self.losses.append((step, objective, means))
        if self.every == 1:
            self.check()

    def check(self) -> None:
        """NonFiniteError if a recorded loss is not finite. One copy to the host for all of them."""
        losses, self.losses = self.losses, []
        if not losses:
            return
        finite = torch.stack([means[name] for _, name, means in losses]).isfinite()
        if finite.all():
            return
        step, objective, means = losses[finite.tolist().index(False)]
        beside = "".join(f", {k} {v:.4g}" for k, v in means.items() if k != objective)
        when = ", before the update" if self.every == 1 else ""
        raise NonFiniteError(
            f"{objective} is {means[objective].item()} at step {step}{beside}{when}"
        )


def train(
    method: Method,
    nets: nn.ModuleDict,
    optimizers: Optimizers,
    data: Mapping[str, Images],
    plan: Plan,
    device: torch.device,
    start: int = 0,
    engine: Engine | None = None,
    scalers: Scalers | None = None,
) -> Iterator[Step]:
    """Train `nets` in place from step `start` to `plan.stop`.

    An engine of several processes has its own replica or shards of them: optimizers are then for
    `engine.nets`, and `engine.refresh` updates `nets`. `scalers` have the state to resume from.
    """
    engine = engine or Engine(method, nets, plan.penalty, plan.compile, plan.recompute)
    nets, shard = engine.nets, engine.ranks.share
    scalers = scalers_for(optimizers, plan.precision, device) if scalers is None else scalers
    record = LossRecord(device)
    steps = range(start, plan.stop)
    batches = {
        pool: batches_of(data[pool], pool, plan.batch_size * factor, plan, steps, device, shard)
        for pool, factor in method.pools.items()
    }
    grad_state: tuple[Rates, str] | None = None  # (phase, network) that requires gradients now
    mode_phase: Rates | None = None  # phase for which training and eval modes are set
    for step in steps:
        rates, progress = plan.moving(step), step / plan.steps
        # a new phase, or the caller has evaluated the networks
        if (plan.eval_frozen and rates is not mode_phase) or not nets.training:
            set_train_mode(nets, plan.eval_frozen, rates, plan.frozen_statistics)
            mode_phase = rates
        batch = {pool: next(it) for pool, it in batches.items()}
        drawn = method.draw(
            batch, stream(*plan.name, "draw", step, device=device, share=shard), progress
        )
        # processes have different examples, so they need different dropout masks
        rank = (engine.ranks.rank,) if engine.ranks.rank else ()
        # for modules that draw random numbers inside forward
        seed_global(seed_of(*plan.name, "dropout", step, *rank), device)
        metrics: Tensors = {}
        for objective, (network, every) in method.objectives.items():
            if (step + 1) % every:  # the last of each so many
                continue
            optimizer = optimizers[objective]
            for group in optimizer.param_groups:
                group["lr"] = group["base_lr"] * plan.schedule(progress)
            if grad_state != (rates, network):
                set_requires_grad(nets, rates, network, inside(method, network))
                grad_state = rates, network
                engine.begin(objective, rates)
            scaler = scalers.get(objective)
            closure: Any = partial(
                compute_gradients,
                engine,
                objective,
                step,
                optimizer,
                drawn,
                plan,
                metrics,
                record,
                scaler,
            )
            update(optimizer, closure, scaler)
        with torch.no_grad(), use_ranks(engine.ranks):
            engine.on_step_end(*drawn)
        if (step + 1) % record.every == 0 or step + 1 == plan.stop:
            record.check()
            check_scales(scalers, step)
        yield Step(step + 1, metrics, engine.refresh, record.check)


def batches_of(
    images: Images,
    pool: str,
    size: int,
    plan: Plan,
    steps: Iterable[int],
    device: torch.device,
    shard: BatchShard | None,
) -> Iterator[Tensors]:
    """The pool's batches, in a random order of its own; with `shard` this process's examples."""
    rows = (rows_of_step(len(images), size, t, *plan.name, pool) for t in steps)
    return images.batches(rows if shard is None else (shard.of(r) for r in rows), device)


def compute_gradients(
    engine: Engine,
    objective: str,
    step: int,
    optimizer: torch.optim.Optimizer,
    drawn: tuple[Tensor, ...],
    plan: Plan,
    metrics: Tensors,
    record: LossRecord,
    scaler: torch.amp.GradScaler | None = None,
) -> Tensor:
    """Compute gradients of this step's loss, as closure of an optimizer's `step`; fills `metrics`
    and `record`, which raises NonFiniteError for a loss that is not finite.

    With a `scaler` the gradients are those of the loss: it is scaled for backward alone.
    """
    optimizer.zero_grad(set_to_none=True)
    scale: Callable[[Tensor], Tensor] = scaler.scale if scaler else lambda loss: loss
    device = drawn[0].device
    total, logged = torch.zeros((), device=device), dict[str, Tensor]()
    with use_ranks(engine.ranks):
        for share, micro_batch, last in micro_batches(
            drawn, plan.micro_batch_size, plan.gradient_accumulation_steps
        ):
            with engine.adding(objective, last):
                with autocast(device, plan.precision):
                    value, shown = engine.loss(objective, *micro_batch)
                scale(value * (share * engine.weight)).backward()
            total = total + value.detach() * share
            logged |= {k: logged.get(k, 0) + v.detach() * share for k, v in shown.items()}
    means = engine.mean({**logged, objective: total})
    record.add(step, objective, means)
    if scaler:
        scaler.unscale_(optimizer)
    if plan.clip:
        nn.utils.clip_grad_norm_(
            [p for group in optimizer.param_groups for p in group["params"]], plan.clip
        )
    metrics.update(means)
    return means[objective]


def set_train_mode(
    nets: nn.ModuleDict, network: str, moving: Rates, frozen_statistics: bool = False
) -> None:
    """Set training mode, and eval mode for the frozen layers of `network`.

    A layer is in training mode if all its own parameters are trainable. A layer without parameters
    (dropout) follows the smallest enclosing module that has some: training mode if any of them is
    trainable. With `frozen_statistics` BatchNorm layers of `network` stay in eval mode.
    """
    nets.train()
    if not network:
        return
    # path -> whether any parameter in it is trainable, or in the enclosing module if it has none
    parents = {network.rpartition(".")[0]: False}
    for path, module in nets.get_submodule(network).named_modules(prefix=network):
        own = [f"{path}.{name}" in moving for name, _ in module.named_parameters(recurse=False)]
        below = [f"{path}.{name}" in moving for name, _ in module.named_parameters()]
        parents[path] = any(below) if below else parents[path.rpartition(".")[0]]
        module.training = all(own) if own else parents[path]
        if frozen_statistics and isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.training = False


def set_requires_grad(
    nets: nn.ModuleDict, moving: Rates, network: str, apart: Sequence[str] = ()
) -> None:
    """Require gradients of this phase's trainable parameters in `network`, except those `apart`."""
    for name, p in nets.named_parameters():
        p.requires_grad_(
            name in moving and belongs(name, network) and not any(belongs(name, a) for a in apart)
        )


def micro_batches(
    drawn: tuple[Tensor, ...], size: int | None, count: int = 1
) -> Iterator[tuple[float, tuple[Tensor, ...], bool]]:
    """-> (share of the batch, the examples of each drawn tensor, whether it is the last).

    Weighted by the shares, gradients of means over examples add up to the whole batch's gradient.
    """
    n = len(drawn[0])
    if count > 1:
        size = min(size or n, -(-n // count))
    if size is None or size >= n:
        yield 1.0, drawn, True
        return
    for i in range(0, n, size):
        cut = tuple(d if d.dim() == 0 else d[i : i + size] for d in drawn)
        yield len(cut[0]) / n, cut, i + size >= n


def autocast(device: torch.device, precision: str) -> AbstractContextManager:
    half = HALVES.get(precision.partition(" ")[0])
    return torch.autocast(device.type, half) if half else nullcontext()


def check_scales(scalers: Scalers, step: int) -> None:
    """NonFiniteError if gradients overflow float16 at every scale, so that no step is taken."""
    for objective, scaler in scalers.items():
        if (scale := scaler.get_scale()) < LEAST_SCALE:
            raise NonFiniteError(
                f"gradients of {objective} are not finite at step {step}, though the loss was"
                f" scaled by {scale:.2g}, and no step is taken; hardware.precision=bf16 or fp32 has"
                " their range"
            )
