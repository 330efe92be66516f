"""The only module that writes, replaces or removes files of the store and of runs.

Files are replaced atomically: temporary file in the same folder, fsync, rename, fsync of the
folder. Folders are published by one rename. Common weight formats do not detect flipped bits, so
finished folders are sealed with a checksum of each file, and checkpoints end with a checksum.
"""

import errno
import hashlib
import json
import os
import platform
import shutil
import tempfile
import uuid
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from functools import wraps
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec

from filelock import FileLock, Timeout

from sft_exp.errors import StorageError

if TYPE_CHECKING:
    import numpy as np

P = ParamSpec("P")
SEAL = "done.json"
OWN = "seal"  # the last key of a seal: the checksum of the seal itself
KEYS_0_1 = ({"seconds", "sha256"}, {"step", "sha256"})  # keys of seals that version 0.1.0 wrote
_follows: list[bool] = []  # not empty: this process is a follower of one that writes the results
BINARY = getattr(os, "O_BINARY", 0)  # of Windows
HALF_DONE = ".*.tmp"  # files that a killed `write` or `link` may leave


def disable_writes() -> None:
    """Make this process change nothing on disk: another one, which does the same work, writes the
    results."""
    _follows.append(True)


def changes(function: Callable[P, None]) -> Callable[P, None]:
    """A decorator of functions that do nothing after `disable_writes`."""

    @wraps(function)
    def unless_following(*args: P.args, **kwargs: P.kwargs) -> None:
        if not _follows:
            function(*args, **kwargs)

    return unless_following


def acquire(lock: FileLock, **options: Any) -> bool:
    """Acquire a lock with the options of `FileLock.acquire`; False on a file system without locks.

    Raises:
        Timeout: another process holds the lock.
        StorageError: the file system refuses for another reason.
    """
    try:
        lock.acquire(**options)
    except NotImplementedError:
        return False
    except Timeout:
        raise
    except OSError as error:
        if error.errno in (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK):
            return False
        raise StorageError(f"{lock.lock_file}: {error.strerror or error}") from error
    return True


@contextmanager
def storage(path: Path, needed: int | None = None) -> Iterator[None]:
    """Turn errors of the file system into StorageErrors with the path and the free space."""
    try:
        yield
    except OSError as error:
        needs = "" if needed is None else f"{needed:,} bytes needed, "
        problem = f"{path}: {error.strerror or error}; {needs}{free(path)} free"
        raise StorageError(problem) from error


@changes
def write(path: Path, content: bytes | str) -> None:
    """Replace `path` by `content` atomically: readers see the old file or the new one, even after a
    kill."""
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
    """Write data followed by its checksum, which `read_checked` compares."""
    write(path, data + hashlib.sha256(data).digest())


def read_checked(path: Path) -> bytes:
    """Read a file of `write_checked`; StorageError if a single bit of it has changed."""
    with storage(path):
        content = path.read_bytes()
    data, digest = content[:-32], content[-32:]
    if hashlib.sha256(data).digest() != digest:
        raise StorageError(f"{path}: damaged, its content does not fit its checksum")
    return data


@changes
def seal(folder: Path, facts: dict) -> None:
    """Mark a folder as finished: write `facts` and the SHA-256 of every file, after all files are
    on disk."""
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
    """`facts` as JSON with their checksum as the last key; `read_sealed` compares it."""
    digest = hashlib.sha256(spelled(facts).encode()).hexdigest()
    return spelled({**facts, OWN: digest})


def spelled(facts: dict) -> str:
    return json.dumps(facts, indent=1) + "\n"


def read_sealed(path: Path, earlier: Collection[set[str]]) -> dict:
    """The JSON object that `sealed` spelled. StorageError if a bit of the file has changed.

    Args:
        path: the file.
        earlier: sets of keys of files that earlier versions wrote, without a checksum.
    """
    with storage(path):
        content = path.read_bytes()
    try:
        facts = json.loads(content)
        is_whole = (
            set(facts) in earlier
            or sealed({k: v for k, v in facts.items() if k != OWN}).encode() == content
        )
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise StorageError(f"{path}: unreadable ({type(error).__name__})") from error
    if not is_whole:
        raise StorageError(f"{path}: damaged, its content does not fit its checksum")
    return facts


def read_seal(folder: Path) -> dict:
    """The content of a folder's seal. StorageError if a bit of the seal has changed.

    Seals of version 0.1.0 have no checksum of themselves, so only their keys are checked.
    """
    path = folder / SEAL
    facts = read_sealed(path, KEYS_0_1)
    if not isinstance(facts.get("sha256"), dict):
        raise StorageError(f"{path}: damaged, its content does not fit its checksum")
    return facts


def check(folder: Path, only: Collection[str] = ()) -> list[str]:
    """The faults of a sealed folder, one line per file; empty for an intact folder.

    Args:
        folder: the folder.
        only: names of the files that are read; by default all.
    """
    try:
        expected = read_seal(folder)["sha256"]
    except StorageError as error:
        return [str(error).partition(";")[0]]
    faults = []
    for name, digest in expected.items():
        if only and name not in only:
            continue
        try:
            if checksum(folder / name) != digest:
                faults.append(f"{folder / name}: changed")
        except OSError as error:
            faults.append(f"{folder / name}: {error.strerror}")
    return faults


def require_intact(folder: Path) -> None:
    """Check a folder that is used without a request for its result. A folder without a seal, such
    as a copy of some of its files, passes.

    Raises:
        StorageError: names the damaged files.
    """
    if (folder / SEAL).exists() and (faults := check(folder)):
        problem = "damaged, and computed again by the command of the run that uses it"
        raise StorageError(f"{'; '.join(faults)}: {problem}")


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
def write_record(path: Path, number: int, record: bytes) -> None:
    """Write one of the records of equal length of a file, which may have holes.

    A killed process may leave a part of it, so a record has to say whether it is whole.
    """
    with storage(path, len(record)):
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(
            os.open(path, os.O_RDWR | os.O_CREAT | BINARY, 0o666), "r+b", buffering=0
        ) as file:
            file.seek(number * len(record))
            file.write(record)


def read_record(path: Path, number: int, length: int) -> bytearray:
    """A record of `write_record`; an empty one where the file is absent or cannot be read, and a
    shorter one at its end."""
    record = bytearray(length)
    try:
        with open(path, "rb", buffering=0) as file:
            file.seek(number * length)
            read = file.readinto(record)
    except OSError:
        read = 0
    return record[:read] if read < length else record


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
    """Give a sealed folder its final name. If another process was first, drop this one: both hold
    the same result."""
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
def require_writable(path: Path) -> None:
    """StorageError unless files can be written into the folder, which is made if need be."""
    with storage(path):
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass


@changes
def remove(path: Path) -> None:
    """Remove a file, link or folder if it exists; files that another process adds meanwhile
    stay."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with storage(path):
            path.unlink(missing_ok=True)


@changes
def discard(path: Path) -> None:
    """Remove a folder that others may be copying: rename it first, so that nobody takes a part for
    the whole."""
    renamed = path.with_name(f".{uuid.uuid4().hex[:8]}.gone")
    with suppress(OSError):  # another process was faster
        path.rename(renamed)
    remove(renamed)


@changes
def prune(folder: Path) -> None:
    """Remove a folder if it is empty."""
    with suppress(OSError):
        folder.rmdir()


@changes
def copy(path: Path, to: Path) -> None:
    """Copy a folder's files into `to`, replacing files of the same names."""
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
    """Point the symbolic link `path` at `to` atomically; does nothing on file systems without
    links."""
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
    """Wait until a file's content, or a folder's list of names, is on disk.

    Windows cannot open folders, and flushes only files that are open for writing.
    """
    windows = platform.system() == "Windows"
    if windows and path.is_dir():
        return
    handle = os.open(path, os.O_RDWR if windows else os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        # some network file systems cannot sync folders
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)


def free_bytes(path: Path) -> int | None:
    """The free space on the file system of `path`; None if it is unknown."""
    with suppress(OSError):
        for parent in path.absolute().parents:
            if parent.exists():
                return shutil.disk_usage(parent).free
    return None


def free(path: Path) -> str:
    """The free space on the file system of `path`, for messages."""
    space = free_bytes(path)
    return "unknown" if space is None else f"{space:,} bytes"
