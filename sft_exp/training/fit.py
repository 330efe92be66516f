"""Training in a store folder: checkpoints, metrics, progress bar, tracker, and stop requests."""

import json
import time
from collections.abc import Iterator, Mapping
from math import ceil
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sft_exp.config.schema import OptimizerConfig
from sft_exp.core.method import Method
from sft_exp.data.images import Images
from sft_exp.errors import DeviceMemoryError, Interrupted, NonFiniteError, StorageError
from sft_exp.progress import bar
from sft_exp.store import atomic_io
from sft_exp.store.store import Request
from sft_exp.training import checkpoints, metrics_log
from sft_exp.training.context import Context, Stop
from sft_exp.training.loop import Plan, Step, train
from sft_exp.training.optim import Phases, optimizers_for, scalers_for

ROWS = 200  # approximate number of rows in metrics.jsonl


def fit(
    folder: Path,
    method: Method,
    nets: nn.ModuleDict,
    optim: OptimizerConfig,
    data: Mapping[str, Images],
    plan: Plan,
    ctx: Context,
    label: str,
    notes: dict[str, Any] | None = None,
    previous: Path | None = None,
) -> Iterator[Step]:
    """Train `nets` in place and yield each step; metrics that the caller adds to it are recorded.

    A training that was killed at any moment and is started again ends in the same bits. A caller
    that reads `nets` between steps calls `step.refresh()` first.

    A checkpoint holds all state: networks, optimizers, the rows of metrics.jsonl, the step, and
    `notes`, the caller's own state (tensors and plain values). A training that stops before its
    schedule ends leaves a checkpoint; a longer one of the same settings, given that folder as
    `previous`, continues from it.
    """
    notes = {} if notes is None else notes
    engine = ctx.engine(method, nets, plan, data)
    optimizers = optimizers_for(method, engine.nets, optim, plan.phases)
    scalers = scalers_for(optimizers, plan.precision, ctx.device)
    start, rows = checkpoints.restore(folder, previous, engine, optimizers, scalers, notes, ctx)
    check_same_step(start, ctx)
    saved_step, saved_at = start, time.monotonic()
    slowest = max(n for _, n in method.objectives.values())
    # a multiple of the slowest objective's period, so that each row has all objectives
    every = slowest * ceil(max(1, plan.steps // ROWS) / slowest)
    pool, factor = next(iter(method.pools.items()))
    images, run = plan.batch_size * factor, ctx.watch(folder.name)
    epoch = max(1, len(data[pool]) // images)
    for earlier in metrics_log.joined([json.loads(row) for row in rows], folder):
        run.log(earlier)
    try:
        with bar(label, plan.stop) as advance:
            for step in train(
                method, nets, optimizers, data, plan, ctx.device, start, engine, scalers
            ):
                count = len(step.metrics)
                yield step
                # the first step too: a final loss says little without the initial one
                first_or_last = step.done in (1, plan.stop)
                if first_or_last or step.done % every == 0 or len(step.metrics) > count:
                    step.check()
                    row = metrics_row(step, epoch, images)
                    rows.append(json.dumps(row))
                    run.log(row)
                    advance(
                        step.done,
                        " ".join(
                            f"{k} {v:.4g}"
                            for k, v in row.items()
                            if k not in ("step", "epoch", "images")
                        ),
                    )
                late = time.monotonic() - saved_at > ctx.hardware.checkpoint_seconds
                stop, due = ctx.any(Stop.asked, late and ctx.first)
                if stop or due:
                    step.check()
                    check_finite(engine.nets, step.done)
                    record(folder, rows)
                    checkpoints.save(
                        folder, step.done, engine, optimizers, scalers, rows, notes, ctx
                    )
                    saved_step, saved_at = step.done, time.monotonic()
                if stop:
                    raise Interrupted(
                        f"{label}: stopped after step {saved_step} of {plan.stop};"
                        " the same command continues from there"
                    )
        check_finite(engine.nets, plan.stop)
    except GeneratorExit:  # the caller has ended the training at this step
        row = metrics_row(step, epoch, images)
        run.log(row)
        record(folder, [*rows, json.dumps(row)])
        raise
    except NonFiniteError as error:
        record(folder, rows)
        last = "there is no checkpoint yet"
        if saved_step:
            file = checkpoints.newest(folder, engine)
            last = f"the last good checkpoint, {file}, is of step {saved_step}"
        raise NonFiniteError(f"{label}: {error}; {last}. Try a smaller learning rate.") from error
    except torch.OutOfMemoryError as error:
        record(folder, rows)
        raise DeviceMemoryError(
            f"{label}: {out_of_memory(method, engine.nets, plan, saved_step)}"
        ) from error
    if plan.stop < plan.steps:
        checkpoints.save(folder, plan.stop, engine, optimizers, scalers, rows, notes, ctx)
    record(folder, rows)
    engine.refresh()


def check_same_step(start: int, ctx: Context) -> None:
    """StorageError if the processes of a group do not resume from the same step."""
    if ctx.group and len({*(starts := ctx.group.same(start))}) > 1:
        raise StorageError(
            f"processes found checkpoints of different steps ({starts}):"
            " the store must be on a disk they share"
        )


def metrics_row(step: Step, epoch: int, images: int) -> dict[str, float]:
    """A row of metrics.jsonl: `epoch` steps an epoch, `images` of the first pool a step."""
    scalars = {k: round(v.item(), 6) for k, v in step.metrics.items()}
    return {
        "step": step.done,
        "epoch": round(step.done / epoch, 4),
        "images": step.done * images,
        **scalars,
    }


def check_finite(nets: nn.ModuleDict, done: int) -> None:
    """NonFiniteError if the last update made a weight non-finite, which its loss could not show."""
    for name, value in nets.state_dict().items():
        if not value.isfinite().all():
            raise NonFiniteError(f"{name} is not finite after step {done}")


def out_of_memory(method: Method, nets: nn.ModuleDict, plan: Plan, saved_step: int) -> str:
    """The words for a step that did not fit into the device's memory: which, and what may fit."""
    pools = ", ".join(
        f"{plan.batch_size * factor} of {pool}" for pool, factor in method.pools.items()
    )
    once = plan.micro_batch_size or plan.batch_size
    normed = any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in nets.modules())
    less = max(1, once // 2)
    stage = plan.name[1]  # pretrain or finetune
    if method.per_row and not normed:
        remedy = f"{stage}.micro_batch_size={less} may fit and computes the same"
    else:
        remedy = f"{stage}.batch_size={less} may fit, but changes the result"
    resumed = f" The same command continues after step {saved_step}." if saved_step else ""
    return (
        f"the device has too little memory for a batch of {plan.batch_size} ({pools}), of which"
        f" {once} are computed at once; {remedy}. hardware.recompute=true and"
        f" hardware.precision=bf16 need less memory, too.{resumed}"
    )


def record(folder: Path, rows: list[str]) -> None:
    atomic_io.write(folder / "metrics.jsonl", "".join(row + "\n" for row in rows))


def forget(folder: Path, request: Request) -> None:
    """Delete unneeded checkpoints; a training short of its schedule's end may be continued."""
    checkpoints.forget(folder, request["stop"] == request["steps"])


def plan_of(request: Request, phases: Phases, name: tuple[int | str, ...], ctx: Context) -> Plan:
    """The training plan of a request; `name` names its random streams."""
    return Plan(
        steps=request["steps"],
        stop=request["stop"],
        batch_size=request["batch_size"],
        schedule=request["schedule"],
        phases=phases,
        name=name,
        micro_batch_size=request["micro_batch_size"],
        gradient_accumulation_steps=ctx.hardware.gradient_accumulation_steps,
        precision=request["precision"],
        compile=ctx.hardware.compile,
        recompute=ctx.hardware.recompute,
        clip=request["clip"],
    )
