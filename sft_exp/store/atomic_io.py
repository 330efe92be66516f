"""The only code that writes, replaces or removes files of the store and of runs.

A file appears whole or not at all: temporary file in the same folder, fsync, rename, fsync of the folder. A folder is
published by one rename. No common weight format notices a flipped bit, so finished folders are sealed with a checksum of
each file, and checkpoints end with their own.
"""

import errno
import hashlib
import json
import os
import platform
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import wraps
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec

from sft_exp.errors import StorageError

if TYPE_CHECKING:
    import numpy as np

P = ParamSpec("P")
SEAL = "done.json"
OWN = "seal"  # key of a seal's own checksum, its last one
KEYS_0_1 = ({"seconds", "sha256"}, {"step", "sha256"})  # of seals that version 0.1.0 wrote
_follows: list[bool] = []  # whether this process only follows another one, which keeps the results
HALF_DONE = ".*.tmp"  # what a kill may leave of `write` and `link`


def disable_writes() -> None:
    """From now on this process changes nothing on disk: another one, doing the same, keeps the results."""
    _follows.append(True)


def changes(what: Callable[P, None]) -> Callable[P, None]:
    @wraps(what)
    def unless_following(*args: P.args, **kwargs: P.kwargs) -> None:
        if not _follows:
            what(*args, **kwargs)

    return unless_following


@contextmanager
def storage(path: Path, needed: int | None = None) -> Iterator[None]:
    """What the file system refuses, in the user's terms."""
    try:
        yield
    except OSError as error:
        needs = "" if needed is None else f"{needed:,} bytes needed, "
        raise StorageError(
            f"{path}: {error.strerror or error}; {needs}{free(path)} free"
        ) from error


@changes
def write(path: Path, content: bytes | str) -> None:
    """Replace `path` by `content`, so that whoever reads, and whenever we are killed, it is the old file or the new."""
    data = content.encode() if isinstance(content, str) else content
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    with storage(path, len(data)):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise
        sync(path.parent)


def write_json(path: Path, value: object) -> None:
    write(path, json.dumps(value, indent=1) + "\n")


def write_checked(path: Path, data: bytes) -> None:
    """`write`, with a checksum behind the data that `read_checked` compares."""
    write(path, data + hashlib.sha256(data).digest())


def read_checked(path: Path) -> bytes:
    """The data `write_checked` was given; StorageError if a single bit of it has changed."""
    with storage(path):
        content = path.read_bytes()
    data, digest = content[:-32], content[-32:]
    if hashlib.sha256(data).digest() != digest:
        raise StorageError(f"{path}: damaged, its content does not fit its checksum")
    return data


@changes
def seal(folder: Path, facts: dict) -> None:
    """Mark the folder's work as finished: `facts` and the SHA-256 of every file, written when all else is on disk."""
    with storage(folder):
        for path in folder.rglob(HALF_DONE):
            path.unlink()
        paths = sorted(folder.rglob("*"))
        for path in paths:
            sync(path)
        files = {
            p.relative_to(folder).as_posix(): checksum(p)
            for p in paths
            if p.is_file() and p != folder / SEAL
        }
    write(folder / SEAL, sealed({**facts, "sha256": files}))


def sealed(facts: dict) -> str:
    """The text of a seal: `facts` as JSON, and behind them the checksum of their text."""
    digest = hashlib.sha256(spelled(facts).encode()).hexdigest()
    return spelled({**facts, OWN: digest})


def spelled(facts: dict) -> str:
    return json.dumps(facts, indent=1) + "\n"


def read_seal(folder: Path) -> dict:
    """The facts and the checksums that a folder was sealed with. StorageError if a bit of the seal has changed.

    Seals of version 0.1.0 have no checksum of their own; of them only the keys are checked.
    """
    path = folder / SEAL
    with storage(path):
        content = path.read_bytes()
    try:
        facts = json.loads(content)
        is_whole = (
            set(facts) in KEYS_0_1
            or sealed({k: v for k, v in facts.items() if k != OWN}).encode() == content
        )
    except (ValueError, TypeError, AttributeError) as error:
        raise StorageError(f"{path}: unreadable ({type(error).__name__})") from error
    if not (is_whole and isinstance(facts["sha256"], dict)):
        raise StorageError(f"{path}: damaged, its content does not fit its checksum")
    return facts


def check(folder: Path) -> list[str]:
    """What is wrong with a sealed folder, one line a file; empty if nothing is."""
    try:
        expected = read_seal(folder)["sha256"].items()
    except StorageError as error:
        return [str(error).partition(";")[0]]
    faults = []
    for name, digest in expected:
        try:
            if checksum(folder / name) != digest:
                faults.append(f"{folder / name}: changed")
        except OSError as error:
            faults.append(f"{folder / name}: {error.strerror}")
    return faults


def array(path: Path, shape: tuple[int, ...]) -> "np.memmap":
    """A float32 array in a .npy file [*shape], to be filled in place: a file of that shape as it is, else a new one.

    The file is not whole before the caller has flushed it, so it may only lie in a work folder.
    """
    import numpy as np

    with storage(path, 4 * prod(shape)):
        if path.exists():
            existing = np.lib.format.open_memmap(path, mode="r+")
            if existing.shape == shape:
                return existing
        return np.lib.format.open_memmap(path, mode="w+", dtype="float32", shape=shape)


@changes
def share(path: Path, source: Path) -> None:
    """Make `path` the same file as `source`, which is never changed, or a copy on file systems without hard links."""
    remove(path)
    try:
        path.hardlink_to(source)
    except OSError:
        with storage(path):
            shutil.copyfile(source, path)


@changes
def publish(work: Path, final: Path) -> None:
    """Give a sealed folder its name. Whoever comes second to the same name drops its own: both hold the same result."""
    with storage(final):
        sync(work)
        try:
            work.rename(final)
        except OSError:
            if check(final):
                raise
            discard(work)
        sync(final.parent)


def folder(path: Path) -> Path:
    if not _follows:
        with storage(path):
            path.mkdir(parents=True, exist_ok=True)
    return path


@changes
def remove(path: Path) -> None:
    """A file, link or folder, if it is there; what another process adds to the folder meanwhile stays."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with storage(path):
            path.unlink(missing_ok=True)


@changes
def discard(path: Path) -> None:
    """A folder that others may be copying: it loses its name before its files, so that nobody takes half of it for all."""
    nameless = path.with_name(f".{uuid.uuid4().hex[:8]}.gone")
    with suppress(OSError):  # somebody else was faster
        path.rename(nameless)
    remove(nameless)


@changes
def prune(folder: Path) -> None:
    """Remove a folder if it is empty."""
    with suppress(OSError):
        folder.rmdir()


@changes
def copy(path: Path, to: Path) -> None:
    """A folder's files, over what `to` holds."""
    with storage(to):
        shutil.copytree(
            path, to, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__", HALF_DONE)
        )


@changes
def move(path: Path, to: Path) -> None:
    with storage(to):
        to.parent.mkdir(parents=True, exist_ok=True)
        path.replace(to)  # on Windows, `rename` does not replace a file


@changes
def link(path: Path, to: Path) -> None:
    """Point the symbolic link `path` at `to`, replacing an older link in one step; file systems without links do without."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        temporary.symlink_to(os.path.relpath(to, path.parent))
        temporary.replace(path)
    except OSError:
        with suppress(OSError):
            temporary.unlink()


def checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Wait until a file's content, or a folder's list of names, is on the disk. Windows opens no folders, and flushes files
    that are open for writing alone."""
    windows = platform.system() == "Windows"
    if windows and path.is_dir():
        return
    handle = os.open(path, os.O_RDWR if windows else os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        # some network file systems cannot for folders
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)


def free(path: Path) -> str:
    """Free space where `path` lies, for messages."""
    for parent in path.absolute().parents:
        if parent.exists():
            return f"{shutil.disk_usage(parent).free:,} bytes"
    return "unknown"
