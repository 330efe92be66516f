"""Exclusive ownership of a run folder: a lock while a process works there, and a token that
identifies the owner.

The lock ends with the process, however it ends. By the token, a process that outlives its run (an
orphan of a killed launcher) notices that another process has taken over the folder.
"""

import os
import platform
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from sft_exp.config.dotted import leaves
from sft_exp.config.moved import completed
from sft_exp.errors import ConfigError, StorageError
from sft_exp.store import atomic_io, results
from sft_exp.store.listing import read

OWNER = ".owner.json"  # in the run folder: token, pid, host
LOCK = ".owner.lock"
LATEST = Path("outputs/latest")  # link to the run folder of the newest run
# keys of a config that do not identify an experiment
IGNORED = (
    "tracker", "hardware", "store", "name", "plan", "report", "report_images", "store_max_gb",
    "monitors", "choices", "replace", "auto", "seeds",
)  # fmt: skip
IGNORED_OF_DATA = ("cache", "cache_gb", "workers")  # keys of a data set that do not, either
# files that a run writes into its folder
WRITTEN = ("*.json", "*.png", "*.html", "*.md", "*.safetensors", "export", ".hydra")

_held: dict[Path, tuple[str, FileLock | None]] = {}  # folder -> (token, lock) of this process


@contextmanager
def holding(folder: Path) -> Iterator[str]:
    """Own a run folder inside the block; yields the token.

    Raises:
        ConfigError: another process works there.
    """
    token = take(folder)
    try:
        yield token
    finally:
        release(folder)


def take(folder: Path) -> str:
    """Own a run folder until `release`, or until this process ends; returns the token.

    Raises:
        ConfigError: another process works there.
    """
    place = folder.absolute()
    if place in _held:
        return _held[place][0]
    lock = FileLock(atomic_io.folder(place) / LOCK, fallback_to_soft=False)
    try:
        # without locks, the token alone guards the folder
        locked = atomic_io.acquire(lock, timeout=0)
    except Timeout:
        problem = f"{owner(place)} is at work there; wait, or give another folder"
        raise ConfigError("hydra.run.dir", folder, problem) from None
    token = uuid.uuid4().hex
    _held[place] = (token, lock if locked else None)
    atomic_io.write_json(
        place / OWNER, {"token": token, "pid": os.getpid(), "host": platform.node()}
    )
    return token


def release(folder: Path) -> None:
    """Stop owning a run folder."""
    _, lock = _held.pop(folder.absolute(), ("", None))
    if lock:
        lock.release()


def adopt(folder: Path, token: str) -> None:
    """Own a folder on behalf of the process that started this one and holds its lock."""
    _held[folder.absolute()] = (token, None)


def owned(folder: Path) -> bool:
    """Whether this process still owns the folder, so that no other process has taken it over."""
    token, _ = _held.get(folder.absolute(), ("", None))
    return bool(token) and read(folder / OWNER).get("token") == token


def owner(folder: Path) -> str:
    """`process 123 on host`, as the folder's owner file says."""
    record = read(folder / OWNER)
    return f"process {record.get('pid', '?')} on {record.get('host', '?')}"


def require(folder: Path) -> None:
    """StorageError unless this process still owns the folder."""
    if not owned(folder):
        raise StorageError(f"{folder}: {owner(folder)} has taken it over; nothing was written")


def idle(folder: Path) -> bool:
    """Whether no other process works in the folder."""
    try:
        take(folder)
    except ConfigError:
        return False
    release(folder)
    return True


def refuse_other_results(
    folder: Path,
    config: dict[str, Any],
    choices: dict[str, str],
    key: str = "hydra.run.dir",
    clear: bool = True,
) -> None:
    """ConfigError if a folder holds another experiment's results.

    With `replace=true`, and if they are of a `debug=` run, which nobody keeps, these are removed
    instead.

    Args:
        folder: the run folder.
        config: the plain config of the experiment that is to run there.
        choices: its option in each config group.
        key: the key that names the folder, for the message.
        clear: whether to remove results that may be removed; otherwise they stay for now.
    """
    result = results.read_if_complete(folder)
    if result is None:
        return
    before = completed(result.config, config)
    if identity(before, result.choices) == identity(config, choices):
        return
    if not config.get("replace") and "debug" not in result.choices:
        old, new = leaves(identifying(before)), leaves(identifying(config))
        different = (name for name in new if old.get(name) != new[name])
        problem = (
            f"holds another experiment's results ({next(different, 'a choice')} differs); "
            "give another folder, or replace=true to remove them"
        )
        raise ConfigError(key, folder, problem)
    for pattern in WRITTEN if clear else ():
        for path in folder.glob(pattern):
            if path.name != OWNER:
                atomic_io.remove(path)


def identity(config: dict[str, Any], choices: dict[str, str]) -> tuple[Any, Any]:
    """The config and choices that identify an experiment: all but `IGNORED`, and its precision."""
    keys = identifying(config)
    keys["precision"] = config.get("hardware", {}).get("precision")
    return keys, {k: v for k, v in choices.items() if k not in IGNORED}


def identifying(config: dict[str, Any]) -> dict[str, Any]:
    """The keys of a config that identify an experiment."""
    keys = {k: v for k, v in config.items() if k not in IGNORED}
    for name in ("dataset", "pretrain_dataset"):
        if isinstance(keys.get(name), dict):
            keys[name] = {k: v for k, v in keys[name].items() if k not in IGNORED_OF_DATA}
    return keys
