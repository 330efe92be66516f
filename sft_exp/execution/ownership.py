"""One run folder has one writer: a lock while a process works there, and a token that says whose the folder is.

The lock ends with the process, however it ends. The token tells a process that outlived its run (an orphan of a killed
launcher) that somebody else has taken the folder up since, and that nothing there is its own any more.
"""

import json
import os
import platform
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from errno import ENOLCK, ENOSYS, ENOTSUP
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from sft_exp.errors import ConfigError, StorageError
from sft_exp.store import atomic_io, results

OWNER = ".owner.json"  # in the run folder: token, pid, host
LOCK = ".owner.lock"
IGNORED = (
    "tracker",
    "hardware",
    "store",
    "name",
    "plan",
    "report",
    "report_images",
    "monitors",
    "choices",
    "replace",
    "auto",
)  # of an experiment's identity
# what a run leaves in its folder
WRITTEN = ("*.json", "*.png", "*.html", "*.md", "export", ".hydra")

_held: dict[Path, tuple[str, FileLock | None]] = {}  # folder -> (token, lock) of this process


@contextmanager
def holding(folder: Path) -> Iterator[str]:
    """Own a run folder inside, or go on owning it; gives the token. ConfigError names who works there."""
    token = take(folder)
    try:
        yield token
    finally:
        release(folder)


def take(folder: Path) -> str:
    """Own a run folder until `release`, or the end of this process."""
    place = folder.absolute()
    if place in _held:
        return _held[place][0]
    lock: FileLock | None = FileLock(atomic_io.folder(place) / LOCK, fallback_to_soft=False)
    assert lock is not None
    try:
        lock.acquire(timeout=0)
    except Timeout:
        who = read(place / OWNER)
        at_work = f"process {who.get('pid', '?')} on {who.get('host', '?')} is at work there; wait, or give another folder"
        raise ConfigError("hydra.run.dir", folder, at_work) from None
    except NotImplementedError:
        lock = None  # a file system without locks: the token alone
    except OSError as error:
        if error.errno not in (ENOSYS, ENOTSUP, ENOLCK):
            raise StorageError(f"{place / LOCK}: {error.strerror or error}") from error
        lock = None
    token = uuid.uuid4().hex
    _held[place] = (token, lock)
    atomic_io.write_json(
        place / OWNER, {"token": token, "pid": os.getpid(), "host": platform.node()}
    )
    return token


def release(folder: Path) -> None:
    _, lock = _held.pop(folder.absolute(), ("", None))
    if lock:
        lock.release()


def adopt(folder: Path, token: str) -> None:
    """Work in a folder that the process which started this one holds."""
    _held[folder.absolute()] = (token, None)


def owned(folder: Path) -> bool:
    """Whether nobody has taken the folder up since this process did."""
    token, _ = _held.get(folder.absolute(), ("", None))
    return bool(token) and read(folder / OWNER).get("token") == token


def require(folder: Path) -> None:
    """StorageError if somebody has taken the folder up since this process did."""
    if not owned(folder):
        who = read(folder / OWNER)
        raise StorageError(
            f"{folder}: process {who.get('pid', '?')} on {who.get('host', '?')} has taken it up; nothing was written"
        )


def idle(folder: Path) -> bool:
    """Whether no other process works in the folder."""
    try:
        take(folder)
    except ConfigError:
        return False
    release(folder)
    return True


def fits(
    folder: Path, config: dict[str, Any], choices: dict[str, str], key: str = "hydra.run.dir"
) -> None:
    """ConfigError if the folder holds the results of another experiment. With `replace=true` what that one wrote is removed."""
    result = results.read_if_complete(folder)
    if result is None or identity(result.config, result.choices) == identity(config, choices):
        return
    if not config.get("replace"):
        theirs, ours = (dict(flat(c)) for c in (result.config, config))
        differs = next(
            (k for k in ours if k.partition(".")[0] not in IGNORED and theirs.get(k) != ours[k]),
            "a choice",
        )
        valid = f"holds another experiment's results ({differs} differs); give another folder, or replace=true to remove them"
        raise ConfigError(key, folder, valid)
    for pattern in WRITTEN:
        for path in folder.glob(pattern):
            if path.name != OWNER:
                atomic_io.remove(path)


def identity(config: dict[str, Any], choices: dict[str, str]) -> tuple[Any, Any]:
    """What makes two experiments the same: nothing that only says how, where or how loudly they run."""
    kept = {k: v for k, v in config.items() if k not in IGNORED}
    kept["precision"] = config.get("hardware", {}).get("precision")
    return kept, {k: v for k, v in choices.items() if k not in IGNORED}


def flat(node: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of every leaf."""
    for key, value in node.items():
        if isinstance(value, dict) and value:
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def read(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
