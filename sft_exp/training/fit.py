"""A training inside a store folder: continued where a killed one stopped, recorded, shown, and stoppable."""

import json
import time
from collections.abc import Iterator, Mapping
from math import ceil
from pathlib import Path
from typing import Any

from torch import nn

from sft_exp.config.schema import OptimizerConfig
from sft_exp.core.method import Method
from sft_exp.data.images import Images
from sft_exp.errors import Interrupted, NonFiniteError, StorageError
from sft_exp.progress import bar
from sft_exp.store import atomic_io
from sft_exp.store.store import Request
from sft_exp.training import checkpoints, metrics_log
from sft_exp.training.context import Context, Stop
from sft_exp.training.loop import Plan, Step, train
from sft_exp.training.optim import Phases, optimizers_for

ROWS = 200  # rows of metrics.jsonl a training leaves, about


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
    """Train `nets` in place, yielding each step; scalars that the caller adds to its metrics are recorded with it. Killed at
    any moment and called again, it ends in the same bits. Whoever looks at `nets` meanwhile calls `step.refresh()` first.

    A checkpoint is the whole truth: networks, optimizers, the rows of metrics.jsonl, one integer, and `notes`, which is
    whatever the caller wants to know again when it goes on (tensors and plain values). A training that stops before its
    schedule ends leaves one, and a longer one of the same settings, told of it as `previous`, goes on from there.
    """
    notes = {} if notes is None else notes
    engine = ctx.engine(method, nets, plan, data)
    optimizers = optimizers_for(method, engine.nets, optim, plan.phases)
    start, rows = checkpoints.restore(folder, previous, engine, optimizers, notes, ctx)
    agreed(start, ctx)
    kept, saved = start, time.monotonic()
    slowest = max(n for _, n in method.objectives.values())
    every = slowest * ceil(max(1, plan.steps // ROWS) / slowest)  # a row says every objective
    pool, sets = next(iter(method.pools.items()))
    images, run = plan.batch_size * sets, ctx.watch(folder.name)
    epoch = max(1, len(data[pool]) // images)
    for earlier in metrics_log.joined([json.loads(row) for row in rows], folder):
        run.log(earlier)
    try:
        with bar(label, plan.stop) as advance:
            for step in train(method, nets, optimizers, data, plan, ctx.device, start, engine):
                own = len(step.metrics)
                yield step
                # where a loss ended says little without where it began
                marked = step.done in (1, plan.stop)
                if marked or step.done % every == 0 or len(step.metrics) > own:
                    row = row_of(step, epoch, images)
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
                late = time.monotonic() - saved > ctx.hardware.checkpoint_seconds
                stop, due = ctx.any(Stop.asked, late and ctx.first)
                if stop or due:
                    check_finite(engine.nets, step.done)
                    record(folder, rows)
                    checkpoints.save(folder, step.done, engine, optimizers, rows, notes, ctx)
                    kept, saved = step.done, time.monotonic()
                if stop:
                    raise Interrupted(
                        f"{label}: stopped after step {kept} of {plan.stop}; the same command continues from there"
                    )
        check_finite(engine.nets, plan.stop)
    except GeneratorExit:  # whoever iterates has seen enough, in this step
        row = row_of(step, epoch, images)
        run.log(row)
        record(folder, [*rows, json.dumps(row)])
        raise
    except NonFiniteError as error:
        record(folder, rows)
        last = (
            f"the last good checkpoint, {checkpoints.newest(folder, engine)}, is of step {kept}"
            if kept
            else "there is no checkpoint yet"
        )
        raise NonFiniteError(f"{label}: {error}; {last}. Try a smaller learning rate.") from error
    if plan.stop < plan.steps:
        checkpoints.save(folder, plan.stop, engine, optimizers, rows, notes, ctx)
    record(folder, rows)
    engine.refresh()


def agreed(start: int, ctx: Context) -> None:
    """StorageError if the processes of a group do not go on from the same step."""
    if ctx.group and len({*(starts := ctx.group.same(start))}) > 1:
        raise StorageError(
            f"processes found checkpoints of different steps ({starts}): the store must be on a disk they share"
        )


def row_of(step: Step, epoch: int, images: int) -> dict[str, float]:
    """A row of metrics.jsonl; an epoch is `epoch` steps, and a step sees `images` rows of the method's first pool."""
    scalars = {k: round(v.item(), 6) for k, v in step.metrics.items()}
    return {
        "step": step.done,
        "epoch": round(step.done / epoch, 4),
        "images": step.done * images,
        **scalars,
    }


def check_finite(nets: nn.ModuleDict, done: int) -> None:
    """The last update may have spoiled what the loss before it could not show; nothing is kept of that."""
    for name, value in nets.state_dict().items():
        if not value.isfinite().all():
            raise NonFiniteError(f"{name} is not finite after step {done}")


def record(folder: Path, rows: list[str]) -> None:
    atomic_io.write(folder / "metrics.jsonl", "".join(row + "\n" for row in rows))


def forget(folder: Path, request: Request) -> None:
    """Drop what only an unfinished training needs; one that stopped before its schedule's end may be gone on with."""
    checkpoints.forget(folder, request["stop"] == request["steps"])


def plan_of(request: Request, phases: Phases, name: tuple[int | str, ...], ctx: Context) -> Plan:
    """How the request trains; `name` names its random streams."""
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
