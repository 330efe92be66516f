"""A training inside a store folder: continued where a killed one stopped, recorded, shown, and stoppable."""

import io
import json
import time
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import nn

from sft_exp import durable
from sft_exp.core import Method
from sft_exp.data import Images
from sft_exp.errors import Interrupted, NonFiniteError
from sft_exp.progress import bar, console
from sft_exp.stages.context import Context, Stop
from sft_exp.train import Optimizers, Plan, Step, train

ROWS = 200  # rows of metrics.jsonl a training leaves, about


def fit(
    folder: Path,
    method: Method,
    nets: nn.ModuleDict,
    optimizers: Optimizers,
    data: Mapping[str, Images],
    plan: Plan,
    ctx: Context,
    label: str,
) -> Iterator[Step]:
    """Train `nets` in place, yielding each step. Killed at any moment and called again, it ends in the same bits."""
    record, checkpoint = folder / "metrics.jsonl", folder / "checkpoint.pt"
    start = restore(checkpoint, nets, optimizers, record, ctx.device)
    every = max(1, plan.steps // ROWS)
    saved = time.monotonic()
    pending: list[str] = []
    with bar(label, plan.steps) as advance:
        steps = train(method, nets, optimizers, data, plan, ctx.device, start)
        while True:
            try:
                step = next(steps, None)
            except NonFiniteError as error:
                durable.append(record, pending)
                last = f"the last good checkpoint is {checkpoint}" if checkpoint.exists() else "no checkpoint was written yet"
                raise NonFiniteError(f"{label}: {error}; {last}. Try a smaller learning rate.") from error
            if step is None:
                break
            if step.done % every == 0 or step.done == plan.steps:
                row = {"step": step.done, **{k: round(v.item(), 6) for k, v in step.metrics.items()}}
                pending.append(json.dumps(row))
                ctx.watcher.log(row)
                advance(step.done, " ".join(f"{k} {v:.4g}" for k, v in row.items() if k != "step"))
            yield step
            if Stop.asked or time.monotonic() - saved > ctx.hardware.checkpoint_seconds:
                durable.append(record, pending)
                pending = []
                save(checkpoint, step.done, nets, optimizers, record)
                saved = time.monotonic()
                if Stop.asked:
                    raise Interrupted(
                        f"{label}: stopped after step {step.done} of {plan.steps}; the same command continues from there"
                    )
    durable.append(record, pending)


def save(path: Path, step: int, nets: nn.ModuleDict, optimizers: Optimizers, record: Path) -> None:
    """Networks, optimizers, one integer, and how long the record of metrics was; the checkpoint before is kept."""
    state = {
        "step": step,
        "nets": nets.state_dict(),
        "optimizers": {o: opt.state_dict() for o, opt in optimizers.items()},
        "record": record.stat().st_size if record.exists() else 0,
    }
    buffer = io.BytesIO()
    torch.save(state, buffer)
    if path.exists():
        durable.move(path, path.with_suffix(".previous.pt"))
    durable.write(path, buffer.getvalue())


def restore(path: Path, nets: nn.ModuleDict, optimizers: Optimizers, record: Path, device: torch.device) -> int:
    """Load the newest sound checkpoint into `nets` and `optimizers` and cut the record to it; the step it holds, or 0."""
    for candidate in (path, path.with_suffix(".previous.pt")):
        if not candidate.exists():
            continue
        try:
            with zipfile.ZipFile(candidate) as archive:  # torch writes checksums and does not look at them
                torn = archive.testzip()
            if torn:
                raise zipfile.BadZipFile(torn)
            state = torch.load(candidate, map_location=device, weights_only=True)
        except (zipfile.BadZipFile, RuntimeError, OSError) as error:
            console.print(f"{candidate}: damaged ({error}); going back to the one before")
            continue
        nets.load_state_dict(state["nets"])
        for objective, optimizer in optimizers.items():
            optimizer.load_state_dict(state["optimizers"][objective])
        durable.cut(record, state["record"])
        return state["step"]
    durable.cut(record, 0)
    return 0


def forget(folder: Path) -> None:
    """Drop what only an unfinished training needs."""
    for name in ("checkpoint.pt", "checkpoint.previous.pt"):
        durable.remove(folder / name)
