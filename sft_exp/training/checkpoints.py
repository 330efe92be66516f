"""A training's state on disk: networks, optimizers, the record's rows, one integer, and notes. The one before is kept.

Where an engine shares the state out, each process writes its part into a new folder, by torch.distributed.checkpoint; the
first one adds the rest, seals the folder with a checksum of every file and gives it its name. Any number of processes can go
on from it.
"""

import io
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from sft_exp.distributed.local import Engine
from sft_exp.errors import StorageError
from sft_exp.progress import console
from sft_exp.store import atomic_io
from sft_exp.training.context import Context
from sft_exp.training.optim import Optimizers

CHECKPOINT, PREVIOUS = "checkpoint.pt", "checkpoint.previous.pt"
SHARDS, EARLIER, COMING = "shards", "shards.previous", "shards.coming"
REST = "rest.pt"  # in the folder of shards: what is not shared out


def save(
    folder: Path,
    done: int,
    engine: Engine,
    optimizers: Optimizers,
    rows: list[str],
    notes: dict[str, Any],
    ctx: Context,
) -> None:
    rest = {"step": done, "rows": rows, "notes": notes}
    if engine.shares:
        return share(folder, rest, engine, optimizers, ctx)
    if ctx.first:
        nets, states = (
            engine.nets.state_dict(),
            {o: opt.state_dict() for o, opt in optimizers.items()},
        )
        if (folder / CHECKPOINT).exists():
            atomic_io.move(folder / CHECKPOINT, folder / PREVIOUS)
        atomic_io.write_checked(
            folder / CHECKPOINT, packed({"nets": nets, "optimizers": states, **rest})
        )


def share(
    folder: Path, rest: dict[str, Any], engine: Engine, optimizers: Optimizers, ctx: Context
) -> None:
    atomic_io.remove(folder / COMING)
    atomic_io.folder(folder / COMING)
    ctx.any()  # nobody writes before the folder is there
    engine.write(folder / COMING, optimizers)
    atomic_io.write(folder / COMING / REST, packed(rest))
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
    notes: dict[str, Any],
    ctx: Context,
) -> tuple[int, list[str]]:
    """Fill networks, optimizers and notes from the newest sound checkpoint; gives the step it holds and the record's rows."""
    for file in (
        newest(folder, engine),
        folder / (EARLIER if engine.shares else PREVIOUS),
        previous and newest(previous, engine),
    ):
        if file and file.exists():
            try:
                state = sound(file) if engine.shares else load(file, ctx.device)
            except StorageError as error:
                console.print(
                    f"{error}; going back to the one before, or to the start",
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
            notes.update(state["notes"])
            return state["step"], state["rows"]
    return 0, []


def newest(folder: Path, engine: Engine) -> Path:
    """Where the last checkpoint lies, if there is one."""
    return folder / (SHARDS if engine.shares else CHECKPOINT)


def sound(folder: Path) -> dict[str, Any]:
    """What a folder of shards holds beside them. StorageError if a bit of any file has changed."""
    if faults := atomic_io.check(folder):
        raise StorageError("; ".join(faults))
    return unpacked((folder / REST).read_bytes(), folder / REST)


def load(file: Path, device: torch.device) -> dict[str, Any]:
    """A checkpoint's content: tensors and plain values, never code."""
    return unpacked(atomic_io.read_checked(file), file, device)


def unpacked(content: bytes, file: Path, device: torch.device | None = None) -> dict[str, Any]:
    """The inverse of `packed`. StorageError, named by `file`, for content that holds anything but plain values."""
    try:
        return torch.load(io.BytesIO(content), map_location=device, weights_only=True)
    except (UnpicklingError, RuntimeError, EOFError) as error:
        raise StorageError(
            f"{file}: no checkpoint of ours ({str(error).splitlines()[0]})"
        ) from error


def packed(state: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def forget(folder: Path, whole: bool) -> None:
    """Drop the checkpoint before the last; the last one too, unless a longer training may go on from it."""
    for name in (PREVIOUS, EARLIER, COMING, *((CHECKPOINT, SHARDS) if whole else ())):
        atomic_io.remove(folder / name)
