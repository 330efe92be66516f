"""Garbage collection: removes store folders that no run refers to.

A run refers to the store folders that it listed in <store>/roots/ before it began (`refer`), to
those in its results.json, to those whose files its config names, as `pretrainer.init` may, and to
the inputs of all these; once the run folder is removed, it refers to nothing. Folders that are being
computed and unfinished work of the last week are kept. damaged/ and decoded/ are removed.

Each path is first moved to <store>/trash/ by one rename under the folder's lock, while no run can
begin. So no process sees a part of a folder, and the next collection deletes what a killed one
leaves in trash/.
"""

import hashlib
import os
import re
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from sft_exp.errors import StorageError
from sft_exp.progress import console
from sft_exp.store import atomic_io, results
from sft_exp.store.listing import bytes_, listed, measure, read, runs

# names of store folders, which users are unlikely to give to their own
FOLDER = re.compile(r"[a-z][a-z0-9_]*-[0-9a-f]{16}")
DECODED = "decoded"  # subfolder of the store; images are decoded again (data/decoded.py)
MEMOS = "memos"  # subfolder of the store; a memo names store folders (execution/memo.py)
# keys of records without a checksum
ROOTS_0_2 = ({"run", "folders"}, {"run", "from_store", "folders"})
ABANDONED = 7 * 86400.0  # seconds after which unreferenced unfinished work is removed


def refer(store: Path, run: Path, folders: Iterable[str]) -> None:
    """Record the store folders that a run will use before it looks for them, which protects them
    from collection."""
    if store.exists() and not os.access(store, os.W_OK):
        return  # a read-only store can be used, but not protected
    name = hashlib.sha256(str(run.absolute()).encode()).hexdigest()[:16]
    record = {
        "run": str(run.absolute()),
        "from_store": os.path.relpath(run.absolute(), store.absolute()),
        "folders": sorted(set(folders)),
    }
    with deciding(store):
        atomic_io.write(store / "roots" / f"{name}.json", atomic_io.sealed(record))


@contextmanager
def deciding(store: Path) -> Iterator[bool]:
    """Hold the lock of roots/, so that no run records its folders during a collection. Yields False
    without locks."""
    lock = FileLock(atomic_io.folder(store / "locks") / "roots.lock", fallback_to_soft=False)
    locked = atomic_io.acquire(lock)
    try:
        yield locked
    finally:
        lock.release()


def unreferenced(store: Path, runs_root: Path) -> list[Path]:
    """All paths of the store that can be removed. Only reads. StorageError if a run's record is
    unreadable."""
    working, locks = own_entries(store / "work"), own_entries(store / "locks")
    held = {lock.stem for lock in locks if lock.suffix == ".lock" and in_use(lock)}
    young = {name_of(p) for p in working if not old(p)}
    living = reachable(store, referred(store, runs_root) | held | young)
    finished = [p for p in listed(store) if FOLDER.fullmatch(p.name)]
    unused = [p for p in finished if p.name not in living]
    done = {p.name for p in finished if (p / atomic_io.SEAL).exists()}
    abandoned = [p for p in working if old(p) and (name_of(p) in done or name_of(p) not in living)]
    needed = held | {name_of(p) for p in (*finished, *working)}
    locks = [p for p in locks if p.stem not in needed]
    roots = listed(store / "roots")
    ended = [p for p in roots if (not alive(store, p) if p.suffix == ".json" else old(p))]
    memos = [p for p in listed(store / MEMOS) if not holds(p, living & done)]
    trash = [*own_entries(store / "damaged"), *own_entries(store / "trash")]
    trash += own_entries(store / DECODED)
    return [*unused, *abandoned, *trash, *locks, *ended, *memos]


def holds(memo: Path, finished: set[str]) -> bool:
    """Whether all store folders that a memo names are among these; True while it is written."""
    if memo.name.startswith("."):
        return not old(memo)
    used = named(read(memo / "memo.json").get("folders"))
    return bool(used) and used <= finished


def shrink(store: Path, runs_root: Path, most_gb: float | None) -> None:
    """Remove the oldest unused paths until the store is no larger than `most_gb`, and say so.

    Without a limit, and where the file system has no locks, nothing is removed. Folders that runs
    refer to stay, however large.
    """
    if most_gb is None or (excess := measure(store)[0] - round(most_gb * 1e9)) <= 0:
        return
    with suppress(StorageError):
        sizes = {p: measure(p)[0] for p in oldest(unreferenced(store, runs_root), excess)}
        removed = collect(store, runs_root, sizes)
        if removed:
            freed, left = sum(sizes[p] for p in removed), measure(store)[0]
            console.message(
                f"store_max_gb={most_gb:g}: {len(removed)} unused entries, {bytes_(freed)}, were "
                f"removed from {store}, which now has {bytes_(left)}."
            )


def oldest(paths: Iterable[Path], excess: int) -> list[Path]:
    """The oldest of the paths whose removal frees `excess` bytes; all paths if that is not
    enough."""
    chosen: list[Path] = []
    for size, _, path in sorted(((*measure(p), p) for p in paths), key=lambda entry: entry[1]):
        if excess <= 0:
            break
        chosen.append(path)
        excess -= size
    return chosen


def referred(store: Path, runs_root: Path) -> set[str]:
    """Names of the store folders that runs refer to directly."""
    files = [file for file in (store / "roots").glob("*.json") if alive(store, file)]
    names = {name for file in files for name in root(file)["folders"]}
    for run in runs(runs_root, store):
        # not `results.read`: a file that this version cannot read protects its folders, too
        result = read(run / results.FILE)
        names |= named([result.get("stages"), result.get("config")])
    return names


def reachable(store: Path, names: set[str]) -> set[str]:
    """These folders and all their direct and indirect inputs."""
    unfinished: dict[str, list[Path]] = {}
    for path in own_entries(store / "work"):
        unfinished.setdefault(name_of(path), []).append(path)
    reached, todo = set(names), list(names)
    while todo:
        name = todo.pop()
        for folder in (store / name, *unfinished.get(name, [])):
            new = named(read(folder / "request.json")) - reached
            reached |= new
            todo += new
    return reached


def named(value: Any) -> set[str]:
    """All names of store folders in JSON data, also within paths: a run repeats only with the file
    from which it began, such as outputs/store/pretrain-<hash>/encoder.safetensors."""
    if isinstance(value, dict | list):
        values = value.values() if isinstance(value, dict) else value
        return {name for inner in values for name in named(inner)}
    parts = re.split(r"[/\\]", value) if isinstance(value, str) else []
    return {part for part in parts if FOLDER.fullmatch(part)}


def root(file: Path) -> dict[str, Any]:
    """A run's record in roots/. StorageError if it is damaged.

    A record of which one bit has changed may name another run, which does not exist, or other
    folders; those that it named would be removed.
    """
    try:
        return atomic_io.read_sealed(file, ROOTS_0_2)
    except StorageError as error:
        problem = "so its run's folders are unknown; nothing was removed. Delete this file if the run is gone"
        raise StorageError(f"{error}, {problem}") from error


def alive(store: Path, file: Path) -> bool:
    """Whether the run of a record exists, also if store and runs were moved together."""
    record = root(file)
    moved = store.absolute() / record.get("from_store", record["run"])
    return Path(record["run"]).is_dir() or moved.is_dir()


def in_use(file: Path) -> bool:
    """Whether a process holds a lock; True where that is unknown."""
    lock = FileLock(file, fallback_to_soft=False)
    try:
        lock.acquire(timeout=0)
    except (Timeout, NotImplementedError, OSError):
        return True
    lock.release()
    return False


def old(path: Path) -> bool:
    return 0 < measure(path)[1] < time.time() - ABANDONED


def own_entries(folder: Path) -> list[Path]:
    """The store's own entries of its work/, damaged/ or trash/."""
    return [p for p in listed(folder) if FOLDER.fullmatch(name_of(p))]


def name_of(path: Path) -> str:
    """The name of the store folder that an entry of work/, damaged/, trash/ or locks/ belongs
    to."""
    return path.name.lstrip(".").partition(".")[0]


def collect(store: Path, runs_root: Path, offered: Iterable[Path]) -> list[Path]:
    """Remove those of the paths `offered` that can still be removed, and return them."""
    allowed = set(offered)
    with deciding(store) as locked:
        if not locked:
            problem = (
                "this file system has no locks, so folders in use are unknown; nothing was removed"
            )
            raise StorageError(f"{store}: {problem}")
        removable = [path for path in unreferenced(store, runs_root) if path in allowed]
        removed = [path for path in removable if discard(store, path)]
    for path in own_entries(store / "trash"):
        atomic_io.remove(path)
    return removed


def discard(store: Path, path: Path) -> bool:
    """Move one path to trash/ and remove its lock; False if a process computes that folder."""
    if path.parent.name == "trash":
        return True
    if path.parent.name in ("roots", MEMOS):
        atomic_io.remove(path)
        return True
    lock = FileLock(store / "locks" / f"{name_of(path)}.lock", fallback_to_soft=False)
    try:
        with lock.acquire(timeout=0):
            if not path.exists():  # another process has taken it over
                return False
            if path.parent.name != "locks":
                atomic_io.move(path, store / "trash" / f"{path.name}.{uuid.uuid4().hex[:8]}")
            # a process that waits for the lock notices this and creates a new one
            atomic_io.remove(Path(lock.lock_file))
    except Timeout:
        return False
    return True
