"""The only code that writes, replaces or removes files of the store and of runs.

A file appears whole or not at all: temporary file in the same folder, fsync, rename, fsync of the folder. A folder is
published by one rename. No common weight format notices a flipped bit, so `seal` records a checksum for each file of a
folder and `check` compares them.
"""

import hashlib
import json
import os
import shutil
import uuid
from pathlib import Path

from sft_exp.errors import StorageError

SEAL = "done.json"


def write(path: Path, content: bytes | str) -> None:
    """Replace `path` by `content`, so that whoever reads, and whenever we are killed, it is the old file or the new."""
    data = content.encode() if isinstance(content, str) else content
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise StorageError(f"{path}: {error.strerror}; {len(data):,} bytes needed, {free(path)} free") from error


def write_json(path: Path, value: object) -> None:
    write(path, json.dumps(value, indent=1) + "\n")


def append(path: Path, lines: list[str]) -> None:
    """Add lines to a record such as metrics.jsonl; a kill may tear the last one, which `cut` removes."""
    try:
        with path.open("a") as file:
            file.writelines(line + "\n" for line in lines)
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror}; {free(path)} free") from error


def cut(path: Path, size: int) -> None:
    """Take a record back to its first `size` bytes: what it held when the checkpoint was written."""
    if path.exists() and path.stat().st_size > size:
        os.truncate(path, size)


def seal(folder: Path, facts: dict) -> None:
    """Mark the folder's work as finished: `facts` and the SHA-256 of every file, written last."""
    files = {str(p.relative_to(folder)): checksum(p) for p in sorted(folder.rglob("*")) if p.is_file() and p.name[0] != "."}
    write_json(folder / SEAL, {**facts, "sha256": {name: digest for name, digest in files.items() if name != SEAL}})


def check(folder: Path) -> list[str]:
    """What is wrong with a sealed folder, one line a file; empty if nothing is."""
    try:
        expected = json.loads((folder / SEAL).read_text())["sha256"]
    except (OSError, ValueError, KeyError) as error:
        return [f"{folder / SEAL}: unreadable ({type(error).__name__})"]
    return [
        f"{folder / name}: {'changed' if (folder / name).is_file() else 'missing'}"
        for name, digest in expected.items()
        if not (folder / name).is_file() or checksum(folder / name) != digest
    ]


def publish(work: Path, final: Path) -> None:
    """Give a finished folder its name. Whoever comes second to the same name drops its own: both hold the same result."""
    for file in work.rglob("*"):
        if file.is_file():
            with file.open("rb") as handle:
                os.fsync(handle.fileno())
    sync_folder(work)
    try:
        work.rename(final)
    except OSError as error:
        if not (final / SEAL).exists():
            raise StorageError(f"{final}: {error.strerror}") from error
        shutil.rmtree(work)
    sync_folder(final.parent)


def folder(path: Path) -> Path:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror}") from error
    return path


def remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def copy(path: Path, to: Path) -> None:
    """A folder's files, over what `to` holds."""
    shutil.copytree(path, to, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))


def move(path: Path, to: Path) -> None:
    to.parent.mkdir(parents=True, exist_ok=True)
    path.rename(to)


def link(path: Path, to: Path) -> None:
    """Point the symbolic link `path` at `to`, replacing an older link in one step; file systems without links do without."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        temporary.symlink_to(os.path.relpath(to, path.parent))
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)


def checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync_folder(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def free(path: Path) -> str:
    """Free space where `path` lies, for messages."""
    for parent in path.absolute().parents:
        if parent.exists():
            return f"{shutil.disk_usage(parent).free:,} bytes"
    return "unknown"
