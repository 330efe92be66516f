"""A training inside a store folder: continued where a killed one stopped, recorded, shown, and stoppable."""

import io
import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import nn

from sft_exp import durable
from sft_exp.core import Method
from sft_exp.data import Images
from sft_exp.errors import Interrupted, NonFiniteError, StorageError
from sft_exp.progress import bar, console
from sft_exp.stages.context import Context, Stop
from sft_exp.store import Request
from sft_exp.train import Optimizers, Phases, Plan, Step, train

ROWS = 200  # rows of metrics.jsonl a training leaves, about
CHECKPOINT, PREVIOUS = "checkpoint.pt", "checkpoint.previous.pt"


def fit(
    folder: Path,
    method: Method,
    nets: nn.ModuleDict,
    optimizers: Optimizers,
    data: Mapping[str, Images],
    plan: Plan,
    ctx: Context,
    label: str,
    notes: dict[str, Any] | None = None,
    previous: Path | None = None,
) -> Iterator[Step]:
    """Train `nets` in place, yielding each step; scalars that the caller adds to its metrics are recorded with it. Killed at
    any moment and called again, it ends in the same bits.

    A checkpoint is the whole truth: networks, optimizers, the rows of metrics.jsonl, one integer, and `notes`, which is
    whatever the caller wants to know again when it goes on (tensors and plain values). A training that stops before its
    schedule ends leaves one, and a longer one of the same settings, told of it as `previous`, goes on from there.
    """
    notes = {} if notes is None else notes
    start, rows = restore(folder, previous, nets, optimizers, notes, ctx.device)
    kept, saved = start, time.monotonic()
    every, epoch, run = max(1, plan.steps // ROWS), steps_an_epoch(method, data, plan), ctx.watch(folder.name)
    for earlier in rows:
        run.log(json.loads(earlier))
    try:
        with bar(label, plan.stop) as advance:
            for step in train(method, nets, optimizers, data, plan, ctx.device, start):
                own = len(step.metrics)
                yield step
                if step.done % every == 0 or step.done == plan.stop or len(step.metrics) > own:
                    row = row_of(step, epoch)
                    rows.append(json.dumps(row))
                    run.log(row)
                    advance(step.done, " ".join(f"{k} {v:.4g}" for k, v in row.items() if k not in ("step", "epoch")))
                if Stop.asked or time.monotonic() - saved > ctx.hardware.checkpoint_seconds:
                    check_finite(nets, step.done)
                    save(folder, step.done, nets, optimizers, rows, notes)
                    kept, saved = step.done, time.monotonic()
                if Stop.asked:
                    raise Interrupted(f"{label}: stopped after step {kept} of {plan.stop}; the same command continues from there")
        check_finite(nets, plan.stop)
    except GeneratorExit:  # whoever iterates has seen enough, in this step
        row = row_of(step, epoch)
        run.log(row)
        record(folder, [*rows, json.dumps(row)])
        raise
    except NonFiniteError as error:
        record(folder, rows)
        last = f"the last good checkpoint, {folder / CHECKPOINT}, is of step {kept}" if kept else "there is no checkpoint yet"
        raise NonFiniteError(f"{label}: {error}; {last}. Try a smaller learning rate.") from error
    if plan.stop < plan.steps:
        save(folder, plan.stop, nets, optimizers, rows, notes)
    record(folder, rows)


def row_of(step: Step, epoch: int) -> dict[str, float]:
    """A row of metrics.jsonl; `epoch` in steps."""
    scalars = {k: round(v.item(), 6) for k, v in step.metrics.items()}
    return {"step": step.done, "epoch": round(step.done / epoch, 4), **scalars}


def steps_an_epoch(method: Method, data: Mapping[str, Images], plan: Plan) -> int:
    """Batches that the method's first pool fills."""
    pool, rows = next(iter(method.pools.items()))
    return max(1, len(data[pool]) // (plan.batch_size * rows))


def check_finite(nets: nn.ModuleDict, done: int) -> None:
    """The last update may have spoiled what the loss before it could not show; nothing is kept of that."""
    for name, value in nets.state_dict().items():
        if not value.isfinite().all():
            raise NonFiniteError(f"{name} is not finite after step {done}")


def record(folder: Path, rows: list[str]) -> None:
    durable.write(folder / "metrics.jsonl", "".join(row + "\n" for row in rows))


def save(folder: Path, done: int, nets: nn.ModuleDict, optimizers: Optimizers, rows: list[str], notes: dict[str, Any]) -> None:
    """Write the record and the checkpoint; the one before is kept."""
    record(folder, rows)
    state = {
        "step": done,
        "nets": nets.state_dict(),
        "optimizers": {o: opt.state_dict() for o, opt in optimizers.items()},
        "rows": rows,
        "notes": notes,
    }
    buffer = io.BytesIO()
    torch.save(state, buffer)
    if (folder / CHECKPOINT).exists():
        durable.move(folder / CHECKPOINT, folder / PREVIOUS)
    durable.write_checked(folder / CHECKPOINT, buffer.getvalue())


def restore(
    folder: Path,
    previous: Path | None,
    nets: nn.ModuleDict,
    optimizers: Optimizers,
    notes: dict[str, Any],
    device: torch.device,
) -> tuple[int, list[str]]:
    """Fill networks, optimizers and notes from the newest sound checkpoint; gives the step it holds and the record's rows."""
    for file in (folder / CHECKPOINT, folder / PREVIOUS, previous and previous / CHECKPOINT):
        if file and file.exists():
            try:
                state = load(file, device)
            except StorageError as error:
                console.print(f"{error}; going back to the one before, or to the start", markup=False, soft_wrap=True)
                if file.parent == folder:
                    durable.remove(file)
                continue
            nets.load_state_dict(state["nets"])
            for objective, optimizer in optimizers.items():
                optimizer.load_state_dict(state["optimizers"][objective])
            notes.update(state["notes"])
            return state["step"], state["rows"]
    return 0, []


def load(file: Path, device: torch.device) -> dict[str, Any]:
    """A checkpoint's content: tensors and plain values, never code."""
    try:
        return torch.load(io.BytesIO(durable.read_checked(file)), map_location=device, weights_only=True)
    except (UnpicklingError, RuntimeError) as error:
        raise StorageError(f"{file}: no checkpoint of ours ({str(error).splitlines()[0]})") from error


def forget(folder: Path, request: Request) -> None:
    """Drop what only an unfinished training needs; one that stopped before its schedule's end may be gone on with."""
    durable.remove(folder / PREVIOUS)
    if request["stop"] == request["steps"]:
        durable.remove(folder / CHECKPOINT)


def plan_of(request: Request, phases: Phases, name: tuple[int | str, ...], ctx: Context) -> Plan:
    """How the request trains; `name` names its random streams."""
    return Plan(
        steps=request["steps"],
        stop=request["stop"],
        batch_size=request["batch_size"],
        schedule=request["schedule"],
        phases=phases,
        name=name,
        piece=request["piece"],
        precision=request["precision"],
        compile=ctx.hardware.compile,
        clip=request["clip"],
    )
