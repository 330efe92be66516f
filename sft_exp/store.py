"""Results on disk, each in a folder named by the hash of what made it. Knows nothing of what a stage computes.

    <root>/<stage>-<hash>/          request.json, the stage's files, done.json (checksums); never changed again
    <root>/work/<stage>-<hash>/     the same while it is made; a killed one is continued by whoever asks next
    <root>/locks/                   one file lock a folder: who computes it. The kernel frees a killed holder's lock.

The lock saves work; the hash and the rename make results right even where locks do nothing.
"""

import hashlib
import json
import time
import uuid
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from sft_exp import durable
from sft_exp.errors import StorageError

Request = dict[str, Any]


@dataclass(frozen=True)
class Stage:
    """A function from requests to files in folders. `plain` turns a request into JSON; `alike` names the requests that
    one call may serve together (equal keys); None: each alone."""

    name: str
    run: Callable[[list[Path], list[Request]], None]
    plain: Callable[[Request], Any]
    alike: Callable[[Request], Hashable] | None = None

    def folder_name(self, request: Request) -> str:
        text = json.dumps(self.plain(request), sort_keys=True)
        return f"{self.name}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


@dataclass(frozen=True)
class Result:
    folder: Path
    cached: bool  # it was there before this call
    seconds: float  # that computing it took, whenever that was


class Store:
    def __init__(self, root: Path):
        self.root = Path(root)
        self.verified: set[Path] = set()

    def has(self, name: str) -> bool:
        return (self.root / name / durable.SEAL).exists()

    def run(self, stage: Stage, requests: Sequence[Request]) -> list[Result]:
        """The finished folder of each request, in order: what is missing is computed, equal requests once."""
        named = {stage.folder_name(r): r for r in requests}
        cached = {name for name in named if self._sound(self.root / name)}
        groups: dict[Hashable, list[str]] = {}
        for name in named:
            if name not in cached:
                key = stage.alike(named[name]) if stage.alike else None
                groups.setdefault(name if key is None else key, []).append(name)
        for names in groups.values():
            self._compute(stage, {n: named[n] for n in names})
        results = {}
        for name in named:
            folder = self.root / name
            seconds = json.loads((folder / durable.SEAL).read_text())["seconds"]
            results[name] = Result(folder, name in cached, seconds)
        return [results[stage.folder_name(r)] for r in requests]

    def _compute(self, stage: Stage, missing: dict[str, Request]) -> None:
        """Run one group under its locks. Locks are taken in the order of names, so two processes cannot wait for each other."""
        with _Locks(self.root / "locks", sorted(missing)) as locked:
            left = {n: r for n, r in missing.items() if not self.has(n)}  # somebody else may have finished it meanwhile
            if not left:
                return
            suffix = "" if locked else f".{uuid.uuid4().hex[:8]}"  # without locks nobody else may touch what we write
            folders = [durable.folder(self.root / "work" / (n + suffix)) for n in left]
            for folder, request in zip(folders, left.values(), strict=True):
                durable.write_json(folder / "request.json", stage.plain(request))
            started = time.perf_counter()
            stage.run(folders, list(left.values()))
            seconds = (time.perf_counter() - started) / len(folders)
            for name, folder in zip(left, folders, strict=True):
                durable.seal(folder, {"seconds": round(seconds, 3)})
                durable.publish(folder, self.root / name)
                self.verified.add(self.root / name)

    def _sound(self, folder: Path) -> bool:
        """Whether a finished folder is there and holds what it held when it was sealed; a damaged one is set aside."""
        if folder in self.verified:
            return True
        if not (folder / durable.SEAL).exists():
            return False
        if faults := durable.check(folder):
            aside = self.root / "damaged" / f"{folder.name}.{uuid.uuid4().hex[:8]}"
            durable.move(folder, aside)
            print(f"store: {'; '.join(faults)}. Set aside as {aside}; it is computed again.")
            return False
        self.verified.add(folder)
        return True


class _Locks:
    """File locks by name, taken together; entering gives False where the file system has none."""

    def __init__(self, root: Path, names: list[str]):
        self.locks = [FileLock(durable.folder(root) / f"{n}.lock") for n in names]

    def __enter__(self) -> bool:
        try:
            for lock in self.locks:
                self._wait(lock)
        except NotImplementedError:
            self.__exit__()
            return False
        except OSError as error:
            self.__exit__()
            raise StorageError(f"{self.locks[0].lock_file}: {error.strerror}") from error
        return True

    def __exit__(self, *_: object) -> None:
        for lock in self.locks:
            lock.release()

    @staticmethod
    def _wait(lock: FileLock) -> None:
        while True:
            try:
                lock.acquire(timeout=10)
                return
            except Timeout:
                print(f"store: waiting for another process that computes {Path(lock.lock_file).stem}")
