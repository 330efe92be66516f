"""A cache of stage results on disk, in folders named by the hash of the request.

    <root>/<stage>-<hash>/
        request.json, the stage's files, done.json (checksums); never changed again
    <root>/work/<process>/<stage>-<hash>/
        the folder while a process writes it; another process continues what a killed one left
    <root>/locks/
        one file lock per folder, held while it is computed; the kernel frees those of killed owners;
        and how a computation failed, for the processes that wait for it
    <root>/damaged/
        folders whose content no longer matched their checksums

Locks only avoid double work. The hash, the folder per process and the atomic rename keep results
correct even on file systems without working locks.
"""

import hashlib
import json
import os
import platform
import sys
import time
import uuid
from collections.abc import Callable, Hashable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from glob import glob
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from sft_exp.errors import (
    ConfigError,
    DataError,
    Failure,
    Interrupted,
    NonFiniteError,
    StorageError,
    ToleranceError,
)
from sft_exp.store import atomic_io

Request = dict[str, Any]
# failures that the same request has each time, unlike a full disk or a lost process
REPEATING = (ConfigError, DataError, NonFiniteError, ToleranceError)
PATIENCE = 10.0  # seconds between messages while waiting for a lock


@dataclass(frozen=True)
class Stage:
    """A function that computes the results of requests and writes them into folders.

    `plain` turns a request into JSON. Requests with equal `batch_key` are computed by one call;
    None computes each alone. A folder may contain files of a killed run of the same request.
    """

    name: str
    run: Callable[[list[Path], list[Request]], None]
    plain: Callable[[Request], Any]
    batch_key: Callable[[Request], Hashable] | None = None

    def folder_name(self, request: Request) -> str:
        text = json.dumps(self.plain(request), sort_keys=True)
        return f"{self.name}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


@dataclass(frozen=True)
class Result:
    """The finished folder of a request."""

    folder: Path
    cached: bool  # whether it existed before this call
    seconds: float  # duration of its computation


class Repeated(Failure):
    """The failure of another process, which computed the same request."""

    def __init__(self, code: int, text: str):
        super().__init__(text)
        self.code = code


class Store:
    """The results in a folder. Several processes may use it at the same time.

    Args:
        root: the folder.
        stopped: whether a stop was requested; it is called before each computation and while
            waiting for another process.
    """

    def __init__(self, root: Path, stopped: Callable[[], bool] = lambda: False):
        self.root = Path(root)
        self.work = self.root / "work" / f"{time.time_ns()}.{os.getpid()}.{platform.node()}"
        self.stopped = stopped
        self.verified: set[Path] = set()  # folders whose checksums this object has compared

    def has(self, name: str) -> bool:
        """Whether a finished folder of this name exists."""
        return (self.root / name / atomic_io.SEAL).exists()

    def run(self, stage: Stage, requests: Sequence[Request]) -> list[Result]:
        """Compute the missing results; equal requests are computed once.

        Returns:
            The result of each request, in order.

        Raises:
            Interrupted: a stop was requested.
            StorageError: the disk is full or cannot be written to.
        """
        by_name = {stage.folder_name(r): r for r in requests}
        cached = {name for name in by_name if not self._faults(name)}
        groups: dict[Hashable, list[str]] = {}
        for name in by_name:
            if name not in cached:
                key = stage.batch_key(by_name[name]) if stage.batch_key else None
                groups.setdefault(name if key is None else key, []).append(name)
        for names in groups.values():
            self._compute(stage, {n: by_name[n] for n in names})
        results = {}
        for name in by_name:
            folder = self.root / name
            seconds = atomic_io.read_seal(folder)["seconds"]
            results[name] = Result(folder, name in cached, seconds)
        return [results[stage.folder_name(r)] for r in requests]

    def run_if_free(self, stage: Stage, request: Request) -> bool:
        """Compute one request unless it is done or another process is computing it.

        This does nothing on a file system without locks, where that cannot be known.

        Returns:
            Whether this call computed it.
        """
        name = stage.folder_name(request)
        lock = FileLock(
            atomic_io.folder(self.root / "locks") / f"{name}.lock", fallback_to_soft=False
        )
        try:
            lock.acquire(timeout=0)
        except (Timeout, NotImplementedError, OSError):
            return False
        with ExitStack() as locks:
            locks.callback(lock.release)
            if not self._faults(name):
                return False
            self._make(stage, {name: request})
        return True

    def _compute(self, stage: Stage, missing: dict[str, Request]) -> None:
        """Compute a group of requests under their locks.

        Locks are acquired in the order of names, so that processes cannot deadlock.
        """
        with ExitStack() as locks:
            earlier = {name: self._failure(name) for name in missing}
            for name in sorted(missing):
                self._lock(name, locks)
            # another process may have finished some while this one waited for the locks
            remaining = {n: r for n, r in missing.items() if self._faults(n)}
            if not remaining:
                return
            for name in remaining:
                if (failure := self._failure(name)) and failure != earlier[name]:
                    raise Repeated(failure["code"], failure["error"])
            if self.stopped():
                raise Interrupted(
                    f"{stage.name}: stopped before it began; the same command continues"
                )
            try:
                self._make(stage, remaining)
            except REPEATING as error:
                for name in remaining:
                    failure = {"code": error.code, "error": str(error), "id": uuid.uuid4().hex}
                    atomic_io.write_json(self._failure_file(name), failure)
                raise
            except StorageError:
                # Without working locks, another process may have finished first and removed the
                # work folders of both. Then all results are there.
                if any(self._faults(n) for n in remaining):
                    raise

    def _make(self, stage: Stage, requests: dict[str, Request]) -> None:
        """Run the stage, seal its folders and move them to their final names."""
        for name in requests:
            self._set_aside(name)
        folders = [self._workplace(name) for name in requests]
        for folder, request in zip(folders, requests.values(), strict=True):
            atomic_io.write_json(folder / "request.json", stage.plain(request))
        started = time.perf_counter()
        stage.run(folders, list(requests.values()))
        seconds = (time.perf_counter() - started) / len(requests)
        for name, folder in zip(requests, folders, strict=True):
            atomic_io.seal(folder, {"seconds": round(seconds, 3)})
            atomic_io.publish(folder, self.root / name)
            if self._failure(name):
                atomic_io.remove(self._failure_file(name))
            self.verified.add(self.root / name)
            for unfinished in [*self._find(f"work/*/{name}"), *self._find(f"work/*/.{name}")]:
                atomic_io.discard(unfinished)
        for work in self._find("work/*"):
            if has_ended(work):
                atomic_io.prune(work)

    def _failure_file(self, name: str) -> Path:
        return self.root / "locks" / f"{name}.failed.json"

    def _failure(self, name: str) -> dict[str, Any]:
        """How the last computation of a folder failed in a way that repeats, or {}. Processes that have
        waited for it meanwhile fail likewise, instead of computing it once more each."""
        try:
            return json.loads(self._failure_file(name).read_bytes())
        except (OSError, ValueError):
            return {}

    def _lock(self, name: str, locks: ExitStack) -> None:
        """Acquire the lock of a folder; on a file system without locks, continue without it."""
        lock = FileLock(
            atomic_io.folder(self.root / "locks") / f"{name}.lock", fallback_to_soft=False
        )
        while not lock.is_locked:
            try:
                if not atomic_io.acquire(lock, timeout=PATIENCE, cancel_check=self.stopped):
                    return
            except Timeout:
                if self.stopped():
                    raise Interrupted(
                        f"{name}: stopped while another process computes it; "
                        "the same command continues"
                    ) from None
                print(f"store: waiting for another process that computes {name}", file=sys.stderr)
        locks.callback(lock.release)

    def _workplace(self, name: str) -> Path:
        """A work folder of this process that starts with the files of an earlier process, if any.

        The folder of a killed process is moved; that of one that may be alive, as without working
        locks, is copied.
        """
        own, partial_copy = self.work / name, self.work / f".{name}"
        newest = max(self._find(f"work/*/{name}"), default=own)
        if newest != own:
            atomic_io.remove(own)
            if has_ended(newest.parent):
                atomic_io.move(newest, own)
            else:
                if not copy_folder(newest, partial_copy):
                    atomic_io.remove(partial_copy)
                # renamed last, so that other processes never find an incomplete copy as the newest
                atomic_io.move(atomic_io.folder(partial_copy), own)
        return atomic_io.folder(own)

    def _find(self, pattern: str) -> list[Path]:
        """Paths below the root. `Path.glob` fails if other processes remove folders meanwhile."""
        return [self.root / path for path in glob(pattern, root_dir=self.root)]

    def _faults(self, name: str) -> list[str]:
        """Why no finished folder of this name with correct checksums exists; [] if it does."""
        folder = self.root / name
        if folder in self.verified:
            return []
        faults = atomic_io.check(folder)
        if not faults:
            self.verified.add(folder)
        return faults

    def _set_aside(self, name: str) -> None:
        """Move a damaged folder away.

        The caller holds the folder's lock, so that no other process repairs it at the same time.
        """
        folder = self.root / name
        damaged = self.root / "damaged" / f"{name}.{uuid.uuid4().hex[:8]}"
        # checked again, because without working locks another process may have just finished it
        if folder.exists() and (faults := atomic_io.check(folder)):
            print(
                f"store: {'; '.join(faults)}. Set aside as {damaged}; it is computed again.",
                file=sys.stderr,
            )
            atomic_io.move(folder, damaged)


def copy_folder(source: Path, to: Path) -> bool:
    """Copy a folder, and return whether the copy is complete.

    The process that owns the folder may finish meanwhile and remove files.
    """
    try:
        atomic_io.copy(source, to)
    except StorageError:
        return False
    return source.exists()


def has_ended(work: Path) -> bool:
    """Whether the process of a work folder is known to have ended; False for other machines."""
    _, pid, host = work.name.split(".", 2)
    if host != platform.node():
        return False
    if int(pid) == os.getpid():
        return True
    if platform.system() == "Windows":  # os.kill would end the process there, whatever the signal
        return False
    try:
        os.kill(int(pid), 0)
    except OSError as error:
        return isinstance(error, ProcessLookupError)
    return False
