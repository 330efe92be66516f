"""What a store holds: its folders and the runs that refer to them, with size, age and state."""

import json
import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from sft_exp.store import atomic_io, results

RUN = "run"  # what runs are called beside the stages
# where in the store a folder lies -> its state
PLACES = {"": "done", "work": "unfinished", "damaged": "damaged"}


@dataclass(frozen=True)
class Entry:
    """A folder of the store, or of a run."""

    stage: str
    name: str  # <stage>-<hash>, wherever in the store it lies; a run's path
    path: Path
    state: str
    size: int
    changed: float  # seconds since 1970


def folders(store: Path) -> Iterator[Entry]:
    """Every folder of the store that a stage made or makes."""
    for place, state in PLACES.items():
        for path in listed(store / place):
            name = path.name.lstrip(".").partition(".")[0]
            stage, dash, _ = name.rpartition("-")
            if dash and path.is_dir():
                sound = place or (path / atomic_io.SEAL).exists()
                yield Entry(stage, name, path, state if sound else "damaged", *measure(path))


def runs(root: Path, store: Path) -> Iterator[Path]:
    """Every folder below `root` in which a run wrote how it ended."""
    for path, inside, files in os.walk(root):
        if "status.json" in files:
            inside.clear()
            yield Path(path)
        else:
            inside[:] = [
                d
                for d in inside
                if d[0] != "." and d != "wandb" and (Path(path) / d).absolute() != store.absolute()
            ]


def run(path: Path) -> Entry:
    return Entry(
        RUN,
        str(path),
        path,
        str(read(path / "status.json").get("state", "damaged")),
        *measure(path),
    )


def words(entry: Entry, store: Path) -> str:
    """What it was: `VAE full, Digits, 10 labels a class, draw 3, seed 0, 600 steps, Adam lr 0.001`."""
    if entry.stage == RUN:
        return told(entry.path)
    return asked(read(entry.path / "request.json"), store)


def told(path: Path) -> str:
    """What a run was and came to, from its results; what stopped it, if it has none."""
    result = results.read_if_complete(path)
    if result is None:
        return next(iter(str(read(path / "status.json").get("error") or "").splitlines()), "")
    choices, config = result.choices, result.config
    parts = [choices[g] for g in ("pretrainer", "strategy", "optim", "dataset") if g in choices]
    parts += [f"{key} {config[key]}" for key in ("labels", "seed") if key in config]
    measured = {"val": result.validated, "test": result.tested}
    parts += [f"{key} {100 * score:.1f}" for key, score in measured.items() if score is not None]
    return ", ".join(parts)


def asked(request: dict[str, Any], store: Path) -> str:
    """A request in words."""
    if "forms" in request:
        return f"bill of {', '.join(request['forms'])}"
    if "model" in request:
        model = asked(known(store / str(request["model"])), store)
        if "exporter" in request:
            return f"{kind(request['exporter'])} file of {model}"
        if isinstance(request.get("steps"), list):
            return f"{' '.join(map(kind, request['steps'])) or 'graph'} of {model}"
        return f"test of {model}"
    start, optim, labels = (
        request.get("start"),
        request.get("optim"),
        counted(request.get("labels") or {}),
    )
    if "strategy" in request:
        arm = (
            kind(known(store / start).get("method"))
            if start
            else f"scratch {kind(request.get('encoder'))}"
        )
        parts = [f"{arm} {kind(request['strategy'])}"]
    else:
        parts = (
            [f"{kind(request['method'])} {kind(request.get('encoder'))}"]
            if "method" in request
            else []
        )
    parts.append(kind(request.get("dataset")))
    if labels:
        parts.append(labels)
    parts += [
        f"{key} {request[key]}" for key in ("fold", "draw", "seed") if request.get(key) is not None
    ]
    if optim:
        parts += [
            f"{request.get('steps')} steps",
            f"{optim['path'].rpartition('.')[2]} lr {optim['options'].get('lr')}",
        ]
    return ", ".join(filter(None, parts))


def counted(labels: dict[str, Any]) -> str:
    """`10 labels a class`, `all chosen labels`"""
    count = str(labels.get("count", ""))
    chosen = " chosen" if labels.get("chosen") else ""
    return (
        f"{count.removeprefix('total:')}{chosen} labels{' a class' if count.isdecimal() else ''}"
        if count
        else ""
    )


def kind(part: dict[str, Any] | None) -> str:
    return str((part or {}).get("is", "")).rpartition(".")[2]


@cache
def known(folder: Path) -> dict[str, Any]:
    return read(folder / "request.json")


def read(path: Path) -> dict[str, Any]:
    """A JSON file's content; empty if it is not there or not whole."""
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def listed(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def measure(path: str | Path) -> tuple[int, float]:
    """(bytes, when something in it last changed) of a file or folder that others may be changing; zeros if it is gone."""
    size, changed = 0, 0.0
    with suppress(OSError):
        about = os.stat(path, follow_symlinks=False)
        if not stat.S_ISDIR(about.st_mode):
            return about.st_size, about.st_mtime
        with os.scandir(path) as entries:
            for entry in entries:
                inner, when = measure(entry.path)
                size, changed = size + inner, max(changed, when)
        changed = changed or about.st_mtime
    return size, changed


def bytes_(n: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if n < 1000:
            return f"{n:.0f} {unit}" if unit == "B" or n >= 100 else f"{n:.1f} {unit}"
        n /= 1000
    return f"{n:.1f} TB"


def ago(seconds: float) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(0, seconds):.0f} s"


def totals(entries: list[Entry]) -> str:
    """`12 pretrain 3.1 MB, 40 finetune 8.0 MB; 52 in all, 11.1 MB`"""
    kinds = {
        stage: [e.size for e in entries if e.stage == stage]
        for stage in sorted({e.stage for e in entries})
    }
    each = ", ".join(f"{len(sizes)} {stage} {bytes_(sum(sizes))}" for stage, sizes in kinds.items())
    return (
        f"{each}; {len(entries)} in all, {bytes_(sum(e.size for e in entries))}"
        if entries
        else "nothing here"
    )
