"""The training loop of all methods and both stages. Read it from top to bottom.

`train` is a generator: it yields after each step, and the caller decides when to save, evaluate or
stop. It has no random state, so it resumes from (networks, optimizers, step) as if it had never
stopped.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
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
from sft_exp.data.order import rows_of_step, sampled_rows
from sft_exp.distributed.local import Engine, inside
from sft_exp.errors import NonFiniteError
from sft_exp.training.optim import Optimizers, Phases, Scalers, belongs, scalers_for, update

# Steps between checks of the losses on devices that the host has to wait for to read one.
CHECK_EVERY = 50
# A scaler starts at a scale of 65536 and halves it at each overflow; this is reached after 30.
MIN_SCALE = 2.0**-14
AUTOCAST_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Plan:
    """The settings of a training, other than its method, networks and data."""

    steps: int  # where schedules end
    stop: int  # where this training stops, which may be earlier
    batch_size: int  # examples a step; as many as the data set has = full-batch gradient descent
    schedule: Schedule
    phases: Phases
    # name of the random streams: the seed, and what distinguishes this training from others
    name: tuple[int | str, ...]
    # examples a backward pass; the gradients of a larger batch's micro-batches are added
    micro_batch_size: int | None = None
    # or the number of micro-batches that a process divides its examples into
    gradient_accumulation_steps: int = 1
    # fp32, or bf16 or fp16 for autocast; further words only distinguish requests (Hardware.numerics)
    precision: str = "fp32"
    compile: bool = False
    recompute: bool = False  # blocks keep only their input and are computed again in backward
    # network whose frozen layers run in eval mode (BatchNorm statistics fixed, dropout off)
    eval_frozen: str = ""
    # whether all BatchNorm layers of that network run in eval mode, also if their parameters train
    frozen_statistics: bool = False
    # the strategy's term, which is added to every loss of the method
    penalty: Callable[[nn.ModuleDict], Tensor | None] | None = None
    clip: float | None = None  # maximum norm of an objective's gradient
    # pool -> the exponent of its class-balanced sampling; others are shuffled anew in each epoch
    sampling: Mapping[str, float] = field(default_factory=dict)

    def rates_at(self, step: int) -> Rates:
        """The learning rates of the phase that a step belongs to, by trainable parameter."""
        ends = list(accumulate(share for share, _ in self.phases))
        return next(
            (r for end, (_, r) in zip(ends, self.phases, strict=True) if step < end * self.steps),
            self.phases[-1][1],
        )


@dataclass(frozen=True)
class Step:
    """The state of a training after a step."""

    done: int  # steps taken so far
    metrics: Tensors  # scalars of this step, still on the device
    # updates the caller's networks, which costs time where they are sharded: call it before using them
    refresh: Callable[[], None]
    # NonFiniteError if a loss of this or an earlier step is not finite: call it before anything of
    # the step is recorded or evaluated; on a GPU the host waits for the device
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
        """NonFiniteError if a recorded loss is not finite; all are copied to the host at once."""
        losses, self.losses = self.losses, []
        if not losses:
            return
        finite = torch.stack([means[name] for _, name, means in losses]).isfinite()
        if finite.all():
            return
        step, objective, means = losses[finite.tolist().index(False)]
        others = "".join(f", {k} {v:.4g}" for k, v in means.items() if k != objective)
        when = ", before the update" if self.every == 1 else ""
        raise NonFiniteError(
            f"{objective} is {means[objective].item()} at step {step}{others}{when}"
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

    Args:
        method: the training method.
        nets: its networks, on `device`.
        optimizers: an optimizer for each of the method's objectives.
        data: the images of each of the method's pools.
        plan: the settings of the training.
        device: where batches are moved.
        start: the number of steps that were done before.
        engine: computes losses and gradients. One of several processes has its own replica or
            shards of the networks: `optimizers` are then for `engine.nets`, and `engine.refresh`
            updates `nets`.
        scalers: the gradient scalers, with the state to resume from; by default new ones.

    Raises:
        NonFiniteError: a loss is not finite, or gradients overflow at every scale.
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
        rates, progress = plan.rates_at(step), step / plan.steps
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
        # dropout draws from torch's global generator
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

    def of_step(step: int) -> Tensor:
        if pool in plan.sampling:
            return sampled_rows(images.y, size, plan.sampling[pool], step, *plan.name, pool)
        return rows_of_step(len(images), size, step, *plan.name, pool)

    rows = map(of_step, steps)
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
    """Compute the gradients of an objective's loss; this is the closure of its optimizer's `step`.

    With a `scaler`, the loss is scaled for the backward pass, and the gradients are unscaled again.

    Returns:
        The loss, a scalar on the device. It and the method's other scalars are added to `metrics`
        and `record`.

    Raises:
        NonFiniteError: the loss is not finite, and `record` checks every step.
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
    nets: nn.ModuleDict, network: str, rates: Rates, frozen_statistics: bool = False
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
        own = [f"{path}.{name}" in rates for name, _ in module.named_parameters(recurse=False)]
        below = [f"{path}.{name}" in rates for name, _ in module.named_parameters()]
        parents[path] = any(below) if below else parents[path.rpartition(".")[0]]
        module.training = all(own) if own else parents[path]
        if frozen_statistics and isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.training = False


def set_requires_grad(
    nets: nn.ModuleDict, rates: Rates, network: str, except_for: Sequence[str] = ()
) -> None:
    """Require gradients of this phase's trainable parameters in `network`, and of no others.

    Parameters of the networks in `except_for`, which are inside `network`, need none either.
    """
    for name, p in nets.named_parameters():
        p.requires_grad_(
            name in rates
            and belongs(name, network)
            and not any(belongs(name, other) for other in except_for)
        )


def micro_batches(
    drawn: tuple[Tensor, ...], size: int | None, count: int = 1
) -> Iterator[tuple[float, tuple[Tensor, ...], bool]]:
    """Divide a batch: yields (share of the batch, examples of each drawn tensor, whether it is last).

    Weighted by the shares, the gradients of means over examples add up to those of the whole batch.

    Args:
        drawn: the tensors of the batch, [B or a multiple of B, ...] or 0-dim.
        size: the largest number of examples of a micro-batch; None = all.
        count: the number of micro-batches, if they are not to be smaller.
    """
    n = len(drawn[0])
    if count > 1:
        size = min(size or n, -(-n // count))
    if size is None or size >= n:
        yield 1.0, drawn, True
        return
    for i in range(0, n, size):
        examples = tuple(d if d.dim() == 0 else d[i : i + size] for d in drawn)
        yield len(examples[0]) / n, examples, i + size >= n


def autocast(device: torch.device, precision: str) -> AbstractContextManager:
    """The context of a forward pass in this precision; it does nothing for fp32."""
    dtype = AUTOCAST_DTYPES.get(precision.partition(" ")[0])
    return torch.autocast(device.type, dtype) if dtype else nullcontext()


def check_scales(scalers: Scalers, step: int) -> None:
    """NonFiniteError if gradients overflow float16 at every scale, so that no step is taken."""
    for objective, scaler in scalers.items():
        if (scale := scaler.get_scale()) < MIN_SCALE:
            raise NonFiniteError(
                f"gradients of {objective} are not finite at step {step}, though the loss was"
                f" scaled by {scale:.2g}, and no step is taken; hardware.precision=bf16 or fp32 has"
                " their range"
            )
