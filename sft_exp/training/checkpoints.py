"""Checkpoints: networks, optimizers, metric rows, the step and notes. The previous one is kept too.

With a sharded engine each process writes its part into a new folder with
torch.distributed.checkpoint. The first process adds the rest, seals the folder with a checksum of
every file and renames it. Any number of processes can resume from it.
"""

import io
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from sft_exp.distributed.local import Engine
from sft_exp.errors import StorageError, first_line
from sft_exp.progress import console
from sft_exp.store import atomic_io
from sft_exp.training.context import Context
from sft_exp.training.optim import Optimizers, Scalers

CHECKPOINT, PREVIOUS = "checkpoint.pt", "checkpoint.previous.pt"
SHARDS, EARLIER, COMING = "shards", "shards.previous", "shards.coming"
REST = "rest.pt"  # in the folder of shards: the state that is not sharded


def save(
    folder: Path,
    done: int,
    engine: Engine,
    optimizers: Optimizers,
    scalers: Scalers,
    rows: list[str],
    notes: dict[str, Any],
    ctx: Context,
) -> None:
    """Write the checkpoint after `done` steps; the last one becomes the previous one."""
    scales = {objective: scaler.state_dict() for objective, scaler in scalers.items()}
    rest = {"step": done, "rows": rows, "notes": notes, "scalers": scales}
    rest["threads"] = torch.get_num_threads()
    if engine.shares:
        return save_shards(folder, rest, engine, optimizers, ctx)
    if ctx.first:
        state = {
            "nets": engine.nets.state_dict(),
            "optimizers": {name: opt.state_dict() for name, opt in optimizers.items()},
            **rest,
        }
        if (folder / CHECKPOINT).exists():
            atomic_io.move(folder / CHECKPOINT, folder / PREVIOUS)
        atomic_io.write_checked(folder / CHECKPOINT, to_bytes(state))


def save_shards(
    folder: Path, rest: dict[str, Any], engine: Engine, optimizers: Optimizers, ctx: Context
) -> None:
    atomic_io.remove(folder / COMING)
    atomic_io.folder(folder / COMING)
    ctx.any()  # a barrier: no process writes before the folder exists
    engine.write(folder / COMING, optimizers)
    atomic_io.write(folder / COMING / REST, to_bytes(rest))
    atomic_io.seal(folder / COMING, {"step": rest["step"]})
    if ctx.first:
        atomic_io.remove(folder / EARLIER)
        if (folder / SHARDS).exists():
            atomic_io.move(folder / SHARDS, folder / EARLIER)
    atomic_io.move(folder / COMING, folder / SHARDS)


def restore(
    folder: Path,
    previous: Path | None,
    engine: Engine,
    optimizers: Optimizers,
    scalers: Scalers,
    notes: dict[str, Any],
    ctx: Context,
) -> tuple[int, list[str]]:
    """Load networks, optimizers, scalers and notes from the newest intact checkpoint -> (step, metric rows).

    `previous` is the folder of a shorter run of the same settings, or None. Without a checkpoint
    the result is (0, []).
    """
    if ctx.first:
        warn_of_little_space(folder, engine)
    for file in (
        newest(folder, engine),
        folder / (EARLIER if engine.shares else PREVIOUS),
        previous and newest(previous, engine),
    ):
        if file and file.exists():
            try:
                state = load_rest(file) if engine.shares else load(file, ctx.device)
            except StorageError as error:
                console.print(
                    f"{error}; resuming from the previous checkpoint, or from the start",
                    markup=False,
                    soft_wrap=True,
                )
                if file.parent == folder:
                    atomic_io.remove(file)
                continue
            if engine.shares:
                engine.read(file, optimizers)
            else:
                engine.nets.load_state_dict(state["nets"])
                for objective, optimizer in optimizers.items():
                    optimizer.load_state_dict(state["optimizers"][objective])
            for objective, scaler in scalers.items():
                scaler.load_state_dict(state["scalers"][objective])
            notes.update(state["notes"])
            if ctx.first:
                warn_of_other_threads(folder, state.get("threads", torch.get_num_threads()))
            return state["step"], state["rows"]
    return 0, []


def warn_of_other_threads(folder: Path, threads: int) -> None:
    """Warn if a training that began on another number of CPU threads goes on: the order of sums, and
    with it the last bits, depend on it."""
    if threads != (present := torch.get_num_threads()):
        console.message(
            f"{folder.name}: warning: began with {threads} threads and goes on with {present}; its result "
            f"differs from an uninterrupted one in the last bits. hardware.threads={threads} avoids that."
        )


def warn_of_little_space(folder: Path, engine: Engine) -> None:
    """Warn before a training if the disk may not hold its checkpoints: the last one and the next.

    A checkpoint is taken to hold the networks and, as Adam's, two numbers more for each parameter.
    """
    nets = sum(t.numel() * t.element_size() for t in engine.nets.state_dict().values())
    moments = 2 * sum(p.numel() * p.element_size() for p in engine.nets.parameters())
    needed, free = 2 * (nets + moments), atomic_io.free_bytes(folder)
    if free is not None and free < needed:
        console.message(
            f"{folder.parent}: warning: {free:,} bytes are free, and two checkpoints of this training "
            f"take about {needed:,}. Free some, or choose another store=."
        )


def newest(folder: Path, engine: Engine) -> Path:
    """Path of the last checkpoint, which need not exist."""
    return folder / (SHARDS if engine.shares else CHECKPOINT)


def load_rest(folder: Path) -> dict[str, Any]:
    """The unsharded state of a folder of shards. StorageError if any file of it is corrupt."""
    if problems := atomic_io.check(folder):
        raise StorageError("; ".join(problems))
    return unpacked((folder / REST).read_bytes(), folder / REST)


def load(file: Path, device: torch.device) -> dict[str, Any]:
    """A checkpoint's content: tensors and plain values, never code. StorageError if unreadable."""
    return unpacked(atomic_io.read_checked(file), file, device)


def unpacked(content: bytes, file: Path, device: torch.device | None = None) -> dict[str, Any]:
    """The content of a checkpoint's bytes. StorageError, named by `file`, if they hold code."""
    try:
        return torch.load(io.BytesIO(content), map_location=device, weights_only=True)
    except (UnpicklingError, RuntimeError, EOFError) as error:
        raise StorageError(
            f"{file} is not a checkpoint of sft_exp ({first_line(error)})"
        ) from error


def to_bytes(state: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def delete(folder: Path, whole: bool) -> None:
    """Delete the previous checkpoint; with `whole` the last one too, when none can resume."""
    for name in (PREVIOUS, EARLIER, COMING, *((CHECKPOINT, SHARDS) if whole else ())):
        atomic_io.remove(folder / name)
