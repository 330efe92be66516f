"""Remove what no run refers to: `sft_exp gc dry_run=true`, then without.

A run refers to the store folders that it named in <store>/roots/ before it began (`refer`), to those that its results.json
names, and to what their requests were made from; when its folder is gone, it refers to nothing. Folders that somebody
computes right now stay, and so does unfinished work of the last week. damaged/ goes.

What goes is first moved to <store>/trash/, each by one rename and under the lock of whoever might compute it, while no run
can begin. So nobody meets half a folder, and what a killed gc leaves in trash/ the next one deletes.
"""

import hashlib
import os
import re
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from errno import ENOLCK, ENOSYS, ENOTSUP
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from sft_exp.errors import StorageError
from sft_exp.store import atomic_io, results
from sft_exp.store.listing import listed, measure, read, runs

# a store folder's name, and nothing that a user puts there
FOLDER = re.compile(r"[a-z][a-z0-9_]*-[0-9a-f]{16}")
ABANDONED = 7 * 86400.0  # seconds after which unfinished work that nobody refers to goes


def refer(store: Path, run: Path, folders: Iterable[str]) -> None:
    """Say which folders of the store a run will use, before it looks for them: from then on no gc takes them."""
    if store.exists() and not os.access(store, os.W_OK):
        return  # whoever may only read here cannot say so; what is there can still be used
    name = hashlib.sha256(str(run.absolute()).encode()).hexdigest()[:16]
    where = {
        "run": str(run.absolute()),
        "from_store": os.path.relpath(run.absolute(), store.absolute()),
    }
    with deciding(store):
        atomic_io.write_json(
            store / "roots" / f"{name}.json", {**where, "folders": sorted(set(folders))}
        )


@contextmanager
def deciding(store: Path) -> Iterator[bool]:
    """Either a run says what it uses, or a gc decides what nobody uses. False where the file system has no locks."""
    lock = FileLock(atomic_io.folder(store / "locks") / "roots.lock", fallback_to_soft=False)
    try:
        lock.acquire()
    except NotImplementedError:
        yield False
        return
    except OSError as error:
        if error.errno not in (ENOSYS, ENOTSUP, ENOLCK):
            raise StorageError(f"{lock.lock_file}: {error.strerror or error}") from error
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def rubbish(store: Path, runs_root: Path) -> list[Path]:
    """Everything in the store that can go. Only reads. StorageError if it cannot be known what a run uses."""
    working, locks = ours(store / "work"), ours(store / "locks")
    held = {lock.stem for lock in locks if in_use(lock)}
    young = {name_of(p) for p in working if not old(p)}
    living = reachable(store, referred(store, runs_root) | held | young)
    finished = [p for p in listed(store) if FOLDER.fullmatch(p.name)]
    unused = [p for p in finished if p.name not in living]
    done = {p.name for p in finished if (p / atomic_io.SEAL).exists()}
    abandoned = [p for p in working if old(p) and (name_of(p) in done or name_of(p) not in living)]
    needed = held | {name_of(p) for p in (*finished, *working)}
    locks = [p for p in locks if p.stem not in needed]
    notes = [
        p
        for p in listed(store / "roots")
        if (not alive(store, p) if p.suffix == ".json" else old(p))
    ]
    return [*unused, *abandoned, *ours(store / "damaged"), *ours(store / "trash"), *locks, *notes]


def thinned(paths: Iterable[Path], excess: int) -> list[Path]:
    """Those of the paths that must go, oldest first, so that `excess` bytes are freed; all, if that is not enough."""
    chosen: list[Path] = []
    for size, _, path in sorted(((*measure(p), p) for p in paths), key=lambda entry: entry[1]):
        if excess <= 0:
            break
        chosen.append(path)
        excess -= size
    return chosen


def referred(store: Path, runs_root: Path) -> set[str]:
    """Names of the folders that runs name themselves."""
    names = {
        n
        for file in (store / "roots").glob("*.json")
        if alive(store, file)
        for n in note(file)["folders"]
    }
    for run in runs(runs_root, store):
        # Not `results.read`: also a file that this version cannot read keeps what it names.
        names |= named(read(run / results.FILE).get("stages"))
    return names


def reachable(store: Path, names: set[str]) -> set[str]:
    """These folders, what they were made from, what that was made from, ..."""
    unfinished: dict[str, list[Path]] = {}
    for path in ours(store / "work"):
        unfinished.setdefault(name_of(path), []).append(path)
    found, todo = set(names), list(names)
    while todo:
        name = todo.pop()
        for folder in (store / name, *unfinished.get(name, [])):
            new = named(read(folder / "request.json")) - found
            found |= new
            todo += new
    return found


def named(value: Any) -> set[str]:
    """Every name of a store folder in a piece of JSON, also at the end of a path."""
    if isinstance(value, dict | list):
        return {
            name
            for v in (value.values() if isinstance(value, dict) else value)
            for name in named(v)
        }
    name = Path(value).name if isinstance(value, str) else ""
    return {name} if FOLDER.fullmatch(name) else set()


def note(file: Path) -> dict[str, Any]:
    """What a run had said it uses."""
    said = read(file)
    if not said.keys() >= {"run", "folders"}:
        raise StorageError(
            f"{file}: unreadable, so nobody knows what its run uses; nothing was removed"
        )
    return said


def alive(store: Path, file: Path) -> bool:
    """Whether the run of a note is there, or where it would be if store and runs were moved together."""
    said = note(file)
    return (
        Path(said["run"]).is_dir()
        or (store.absolute() / said.get("from_store", said["run"])).is_dir()
    )


def in_use(file: Path) -> bool:
    """Whether somebody holds a lock; also where that cannot be found out."""
    lock = FileLock(file, fallback_to_soft=False)
    try:
        lock.acquire(timeout=0)
    except (Timeout, NotImplementedError, OSError):
        return True
    lock.release()
    return False


def old(path: Path) -> bool:
    return 0 < measure(path)[1] < time.time() - ABANDONED


def ours(folder: Path) -> list[Path]:
    """What the store put into its work/, damaged/ or trash/."""
    return [p for p in listed(folder) if FOLDER.fullmatch(name_of(p))]


def name_of(path: Path) -> str:
    """The store folder that something in there was or is to become."""
    return path.name.lstrip(".").partition(".")[0]


def collect(store: Path, runs_root: Path, shown: Iterable[Path]) -> list[Path]:
    """Remove those of the paths `shown` that can still go, and give them."""
    wanted = set(shown)
    with deciding(store) as locked:
        if not locked:
            raise StorageError(
                f"{store}: this file system has no locks, so nobody knows what is in use; nothing was removed"
            )
        going = [
            path for path in rubbish(store, runs_root) if path in wanted and discard(store, path)
        ]
    for path in ours(store / "trash"):
        atomic_io.remove(path)
    return going


def discard(store: Path, path: Path) -> bool:
    """Take one path out of the way in one step, a folder's lock with it; False if somebody computes that folder."""
    if path.parent.name == "trash":
        return True
    if path.parent.name == "roots":
        atomic_io.remove(path)
        return True
    lock = FileLock(store / "locks" / f"{name_of(path)}.lock", fallback_to_soft=False)
    try:
        with lock.acquire(timeout=0):
            if not path.exists():  # somebody took it up since
                return False
            if path.parent.name != "locks":
                atomic_io.move(path, store / "trash" / f"{path.name}.{uuid.uuid4().hex[:8]}")
            # whoever waits for it notices that, and makes a new one
            atomic_io.remove(Path(lock.lock_file))
    except Timeout:
        return False
    return True
