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
from sft_exp.errors import (
    DeviceMemoryError,
    Interrupted,
    NonFiniteError,
    StorageError,
    beyond_memory,
)
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

    A training that was killed at any moment and is started again gives bitwise equal results. A
    caller that reads `nets` between steps calls `step.refresh()` first.

    A checkpoint holds all state: networks, optimizers, the rows of metrics.jsonl, the step, and
    `notes`. A training that stops before its schedule ends leaves a checkpoint.

    Args:
        folder: the stage's folder, for metrics.jsonl and checkpoints.
        method: the training method.
        nets: its networks.
        optim: the optimizer.
        data: the images of each of the method's pools.
        plan: the settings of the training.
        ctx: device, tracker and processes.
        label: name of the training in messages.
        notes: the caller's own state (tensors and plain values), which is saved and restored.
        previous: the folder of a shorter training of the same settings, which is continued.

    Raises:
        Interrupted: a stop was requested; a further call continues.
        NonFiniteError: a loss or a weight is not finite.
        DeviceMemoryError: a step does not fit into the device's memory.
        StorageError: the processes of a group see different checkpoints.
    """
    notes = {} if notes is None else notes
    engine = ctx.engine(method, nets, plan, data)
    optimizers = optimizers_for(method, engine.nets, optim, plan.phases)
    scalers = scalers_for(optimizers, plan.precision, ctx.device)
    start, rows = checkpoints.restore(folder, previous, engine, optimizers, scalers, notes, ctx)
    check_same_step(start, ctx)
    saved_step, saved_at = start, time.monotonic()
    longest_period = max(n for _, n in method.objectives.values())
    # a multiple of the slowest objective's period, so that each row has all objectives
    log_every = longest_period * ceil(max(1, plan.steps // ROWS) / longest_period)
    pool, factor = next(iter(method.pools.items()))
    images_per_step, run = plan.batch_size * factor, ctx.watch(folder.name)
    steps_per_epoch = max(1, len(data[pool]) // images_per_step)
    monitored = notes.get(metrics_log.MONITORS, [])
    for earlier in metrics_log.with_monitors([json.loads(row) for row in rows], monitored):
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
                if first_or_last or step.done % log_every == 0 or len(step.metrics) > count:
                    step.check()
                    row = metrics_row(step, steps_per_epoch, images_per_step)
                    rows.append(json.dumps(row))
                    run.log(row)
                    advance(step.done, progress_text(row))
                late = time.monotonic() - saved_at > ctx.hardware.checkpoint_seconds
                stop, due = ctx.any(Stop.requested, late and ctx.first)
                if stop or due:
                    step.check()
                    check_finite(engine.nets, step.done)
                    write_metrics(folder, rows)
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
        row = metrics_row(step, steps_per_epoch, images_per_step)
        run.log(row)
        write_metrics(folder, [*rows, json.dumps(row)])
        raise
    except NonFiniteError as error:
        write_metrics(folder, rows)
        last = "there is no checkpoint yet"
        if saved_step:
            file = checkpoints.newest(folder, engine)
            last = f"the last good checkpoint, {file}, is of step {saved_step}"
        raise NonFiniteError(f"{label}: {error}; {last}. Try a smaller learning rate.") from error
    except (RuntimeError, MemoryError) as error:
        if not isinstance(error, torch.OutOfMemoryError) and not beyond_memory(error):
            raise
        write_metrics(folder, rows)
        raise DeviceMemoryError(
            f"{label}: {out_of_memory(method, engine.nets, plan, saved_step)}"
        ) from error
    if plan.stop < plan.steps:
        checkpoints.save(folder, plan.stop, engine, optimizers, scalers, rows, notes, ctx)
    write_metrics(folder, rows)
    engine.refresh()


def check_same_step(start: int, ctx: Context) -> None:
    """StorageError if the processes of a group do not resume from the same step."""
    if ctx.group and len({*(starts := ctx.group.same(start))}) > 1:
        raise StorageError(
            f"processes found checkpoints of different steps ({starts}):"
            " the store must be on a disk they share"
        )


def metrics_row(step: Step, steps_per_epoch: int, images_per_step: int) -> dict[str, float]:
    """A row of metrics.jsonl; epochs and images are counted in the method's first pool."""
    scalars = {k: round(v.item(), 6) for k, v in step.metrics.items()}
    return {
        "step": step.done,
        "epoch": round(step.done / steps_per_epoch, 4),
        "images": step.done * images_per_step,
        **scalars,
    }


def progress_text(row: dict[str, float]) -> str:
    """The scalars of a row of metrics.jsonl as text."""
    counters = ("step", "epoch", "images")
    return " ".join(f"{name} {value:.4g}" for name, value in row.items() if name not in counters)


def check_finite(nets: nn.ModuleDict, done: int) -> None:
    """NonFiniteError if the last update made a weight non-finite, which its loss could not show."""
    for name, value in nets.state_dict().items():
        if not value.isfinite().all():
            raise NonFiniteError(f"{name} is not finite after step {done}")


def out_of_memory(method: Method, nets: nn.ModuleDict, plan: Plan, saved_step: int) -> str:
    """A message on a step that did not fit into the device's memory, with a setting that may fit."""
    pools = ", ".join(
        f"{plan.batch_size * factor} of {pool}" for pool, factor in method.pools.items()
    )
    at_once = plan.micro_batch_size or plan.batch_size
    normed = any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in nets.modules())
    less = max(1, at_once // 2)
    stage = plan.name[1]  # pretrain or finetune
    if method.per_row and not normed:
        remedy = f"{stage}.micro_batch_size={less} may fit and computes the same"
    else:
        remedy = f"{stage}.batch_size={less} may fit, but changes the result"
    resumed = f" The same command continues after step {saved_step}." if saved_step else ""
    return (
        f"the device has too little memory for a batch of {plan.batch_size} ({pools}), of which"
        f" {at_once} are computed at once; {remedy}. hardware.recompute=true and"
        f" hardware.precision=bf16 need less memory, too.{resumed}"
    )


def write_metrics(folder: Path, rows: list[str]) -> None:
    """Write metrics.jsonl, whose lines are `rows`."""
    atomic_io.write(folder / "metrics.jsonl", "".join(row + "\n" for row in rows))


def delete_checkpoints(folder: Path, request: Request) -> None:
    """Delete checkpoints that are not needed: all, unless the training may be continued later."""
    checkpoints.delete(folder, request["stop"] == request["steps"])


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
        sampling={"labelled": request["sampler"]} if "sampler" in request else {},
    )
