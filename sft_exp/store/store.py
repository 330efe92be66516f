"""Results on disk, each in a folder named by the hash of what made it. Knows nothing of what a stage computes.

    <root>/<stage>-<hash>/              request.json, the stage's files, done.json (checksums); never changed again
    <root>/work/<who>/<stage>-<hash>/   the same while a process makes it; what a killed one left is taken up by the next
    <root>/locks/                       one file lock a folder: who computes it. The kernel frees a killed holder's lock.
    <root>/damaged/                     folders that no longer held what they were sealed with

The lock saves work; the hash, a folder for each process and the rename make results right even where locks do nothing.
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
from errno import ENOLCK, ENOSYS, ENOTSUP
from glob import glob
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from sft_exp.errors import Interrupted, StorageError
from sft_exp.store import atomic_io

Request = dict[str, Any]
PATIENCE = 10.0  # seconds between two words of somebody who waits


@dataclass(frozen=True)
class Stage:
    """A function from requests to files in folders. `plain` turns a request into JSON; `batch_key` names the requests that
    one call may serve together (equal keys); None: each alone.

    The folders may hold what an earlier, killed run of the same requests left."""

    name: str
    run: Callable[[list[Path], list[Request]], None]
    plain: Callable[[Request], Any]
    batch_key: Callable[[Request], Hashable] | None = None

    def folder_name(self, request: Request) -> str:
        text = json.dumps(self.plain(request), sort_keys=True)
        return f"{self.name}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


@dataclass(frozen=True)
class Result:
    folder: Path
    cached: bool  # it was there before this call
    seconds: float  # that computing it took, whenever that was


class Store:
    def __init__(self, root: Path, stopped: Callable[[], bool] = lambda: False):
        self.root = Path(root)
        self.work = self.root / "work" / f"{time.time_ns()}.{os.getpid()}.{platform.node()}"
        # asked before each computation and while waiting for another process's
        self.stopped = stopped
        self.verified: set[Path] = set()

    def has(self, name: str) -> bool:
        return (self.root / name / atomic_io.SEAL).exists()

    def run(self, stage: Stage, requests: Sequence[Request]) -> list[Result]:
        """The finished folder of each request, in order: what is missing is computed, equal requests once."""
        named = {stage.folder_name(r): r for r in requests}
        cached = {name for name in named if not self._faults(name)}
        groups: dict[Hashable, list[str]] = {}
        for name in named:
            if name not in cached:
                key = stage.batch_key(named[name]) if stage.batch_key else None
                groups.setdefault(name if key is None else key, []).append(name)
        for names in groups.values():
            self._compute(stage, {n: named[n] for n in names})
        results = {}
        for name in named:
            folder = self.root / name
            seconds = atomic_io.read_seal(folder)["seconds"]
            results[name] = Result(folder, name in cached, seconds)
        return [results[stage.folder_name(r)] for r in requests]

    def run_if_free(self, stage: Stage, request: Request) -> bool:
        """Compute one missing request unless another process is computing it; whether this call did.

        Does nothing where the file system has no locks, since nobody would know who is at work.
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
        """Run one group under its locks. Locks are taken in the order of names, so two processes cannot wait for each other."""
        with ExitStack() as locks:
            for name in sorted(missing):
                self._lock(name, locks)
            # somebody else may have finished it meanwhile
            left = {n: r for n, r in missing.items() if self._faults(n)}
            if not left:
                return
            if self.stopped():
                raise Interrupted(
                    f"{stage.name}: stopped before it began; the same command continues"
                )
            try:
                self._make(stage, left)
            except StorageError:
                if any(self._faults(n) for n in left):
                    # else, where locks do nothing, another process was faster and has cleared up
                    # behind both
                    raise

    def _make(self, stage: Stage, left: dict[str, Request]) -> None:
        for name in left:
            self._set_aside(name)
        folders = [self._workplace(name) for name in left]
        for folder, request in zip(folders, left.values(), strict=True):
            atomic_io.write_json(folder / "request.json", stage.plain(request))
        started = time.perf_counter()
        stage.run(folders, list(left.values()))
        seconds = (time.perf_counter() - started) / len(left)
        for name, folder in zip(left, folders, strict=True):
            atomic_io.seal(folder, {"seconds": round(seconds, 3)})
            atomic_io.publish(folder, self.root / name)
            self.verified.add(self.root / name)
            for unfinished in [*self._find(f"work/*/{name}"), *self._find(f"work/*/.{name}")]:
                atomic_io.discard(unfinished)
        for work in self._find("work/*"):
            if ended(work):
                atomic_io.prune(work)

    def _lock(self, name: str, locks: ExitStack) -> None:
        """Wait for the right to compute a folder; where the file system has no locks, go on without."""
        lock = FileLock(
            atomic_io.folder(self.root / "locks") / f"{name}.lock", fallback_to_soft=False
        )
        while not lock.is_locked:
            try:
                lock.acquire(timeout=PATIENCE, cancel_check=self.stopped)
            except Timeout:
                if self.stopped():
                    raise Interrupted(
                        f"{name}: stopped while another process computes it; the same command continues"
                    ) from None
                print(f"store: waiting for another process that computes {name}", file=sys.stderr)
            except NotImplementedError:
                return
            except OSError as error:
                if error.errno in (ENOSYS, ENOTSUP, ENOLCK):
                    return
                raise StorageError(f"{lock.lock_file}: {error.strerror or error}") from error
        locks.callback(lock.release)

    def _workplace(self, name: str) -> Path:
        """A folder of our own that begins with what a killed process left: its folder, or a copy if it may be alive, as it may
        where locks do nothing."""
        mine, coming = self.work / name, self.work / f".{name}"
        left = max(self._find(f"work/*/{name}"), default=mine)
        if left != mine:
            atomic_io.remove(mine)
            if ended(left.parent):
                atomic_io.move(left, mine)
            else:
                if not copied(left, coming):
                    atomic_io.remove(coming)
                atomic_io.move(atomic_io.folder(coming), mine)  # only now ours is the newest
        return atomic_io.folder(mine)

    def _find(self, pattern: str) -> list[Path]:
        """What there is below the root; other processes may take folders away while we look, which `Path.glob` does not bear."""
        return [self.root / found for found in glob(pattern, root_dir=self.root)]

    def _faults(self, name: str) -> list[str]:
        """Why there is no finished folder of that name which holds what it held when it was sealed; empty if there is."""
        folder = self.root / name
        if folder in self.verified:
            return []
        faults = atomic_io.check(folder)
        if not faults:
            self.verified.add(folder)
        return faults

    def _set_aside(self, name: str) -> None:
        """Clear the name of a damaged folder. Only under its lock: what another process has repaired must stay."""
        folder, aside = self.root / name, self.root / "damaged" / f"{name}.{uuid.uuid4().hex[:8]}"
        # sound, where locks do nothing: somebody has just finished it
        if folder.exists() and (faults := atomic_io.check(folder)):
            print(
                f"store: {'; '.join(faults)}. Set aside as {aside}; it is computed again.",
                file=sys.stderr,
            )
            atomic_io.move(folder, aside)


def copied(left: Path, to: Path) -> bool:
    """Whether the copy is whole: its owner, who was alive, may have finished meanwhile and taken files or all away."""
    try:
        atomic_io.copy(left, to)
    except StorageError:
        return False
    return left.exists()


def ended(work: Path) -> bool:
    """Whether the process that had this folder to work in is surely gone; of another machine's nobody here can say."""
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
