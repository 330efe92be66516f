"""The contents of a store: its folders and the runs that refer to them, with size, age and
state."""

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

RUN = "run"  # the `stage` of a run's entry
# subfolder of the store -> state of the folders in it
REQUEST = "request.json"
DAMAGED = {"method": {"is": "damaged"}}
PLACES = {"": "done", "work": "unfinished", "damaged": "damaged"}
# keys of a config, at any depth, that name files and folders
NAMING_FILES = ("root", "labels", "table", "unlabelled", "store", "init")


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
    """Every stage folder of the store, finished or not."""
    for place, state in PLACES.items():
        for path in listed(store / place):
            name = path.name.lstrip(".").partition(".")[0]
            stage, dash, _ = name.rpartition("-")
            if dash and path.is_dir():
                sound = place or (path / atomic_io.SEAL).exists()
                yield Entry(stage, name, path, state if sound else "damaged", *measure(path))


def runs(root: Path, store: Path) -> Iterator[Path]:
    """Every run folder below `root`, by its status.json."""
    for path, subfolders, files in os.walk(root):
        if "status.json" in files:
            subfolders.clear()
            yield Path(path)
        else:
            visible = [name for name in subfolders if name[0] != "." and name != "wandb"]
            outside = [name for name in visible if Path(path, name).absolute() != store.absolute()]
            subfolders[:] = outside


def near(run: Path, place: Path) -> Iterator[Path]:
    """Where a path of a run may lie that is relative to the folder in which the run was started: seen
    from each folder above the run's, the nearest first, and from the present folder."""
    yield from (start / place for start in (*run.resolve().parents, Path()))


def located(config: Any, run: Path) -> Any:
    """A run's config, whose relative files and folders are named as they are found from the present
    folder (`near`); those that are not found stay."""
    if not isinstance(config, dict):
        return config

    def found(place: Any) -> Any:
        if isinstance(place, list):
            return [found(each) for each in place]
        if not isinstance(place, str) or not place:
            return place
        there = next((p for p in near(run, Path(place)) if p.exists()), None)
        same = there is None or (Path(place).exists() and there.samefile(place))
        return place if same else str(there)

    return {k: found(v) if k in NAMING_FILES else located(v, run) for k, v in config.items()}


def run(path: Path) -> Entry:
    state = str(read(path / "status.json").get("state", "damaged"))
    return Entry(RUN, str(path), path, state, *measure(path))


def words(entry: Entry, store: Path) -> str:
    """A description: `VAE full, Digits, 10 labels a class, draw 3, seed 0, 600 steps, Adam lr
    0.001`."""
    if entry.stage == RUN:
        return of_run(entry.path)
    return of_folder(entry.path, store)


def of_run(path: Path) -> str:
    """A run's choices and scores, or its error if it has no results."""
    result = results.read_if_complete(path)
    if result is None:
        return next(iter(str(read(path / "status.json").get("error") or "").splitlines()), "")
    choices, config = result.choices, result.config
    parts = [choices[g] for g in ("pretrainer", "strategy", "optim", "dataset") if g in choices]
    parts += [f"{key} {config[key]}" for key in ("labels", "seed") if key in config]
    scores = {"val": result.validated, "test": result.tested}
    parts += [f"{key} {100 * score:.1f}" for key, score in scores.items() if score is not None]
    return ", ".join(parts)


def of_folder(path: Path, store: Path) -> str:
    """A description of a stage's folder; of one whose request is damaged, that it is."""
    if (path / atomic_io.SEAL).exists() and (faults := atomic_io.check(path, [REQUEST])):
        return "; ".join(faults)
    return of_request(read(path / REQUEST), store)


def of_request(request: dict[str, Any], store: Path) -> str:
    """A description of a request."""
    if "forms" in request:
        return f"bill of {', '.join(request['forms'])}"
    if "model" in request:
        model = of_request(request_of(store / str(request["model"])), store)
        if "exporter" in request:
            return f"{kind(request['exporter'])} file of {model}"
        if isinstance(request.get("steps"), list):
            return f"{' '.join(map(kind, request['steps'])) or 'graph'} of {model}"
        return f"test of {model}"
    start, optim, encoder = request.get("start"), request.get("optim"), kind(request.get("encoder"))
    parts = []
    if "strategy" in request:
        arm = kind(request_of(store / start).get("method")) if start else f"scratch {encoder}"
        parts.append(f"{arm} {kind(request['strategy'])}")
    elif "method" in request:
        parts.append(f"{kind(request['method'])} {encoder}")
    parts += [kind(request.get("dataset")), label_count(request.get("labels") or {})]
    keys = ("fold", "draw", "seed")
    parts += [f"{key} {request[key]}" for key in keys if request.get(key) is not None]
    if optim:
        name = optim["path"].rpartition(".")[2]
        parts += [f"{request.get('steps')} steps", f"{name} lr {optim['options'].get('lr')}"]
    return ", ".join(filter(None, parts))


def label_count(labels: dict[str, Any]) -> str:
    """`10 labels a class`, `all chosen labels`"""
    if not (count := str(labels.get("count", ""))):
        return ""
    chosen = " chosen" if labels.get("chosen") else ""
    per_class = " a class" if count.isdecimal() else ""
    return f"{count.removeprefix('total:')}{chosen} labels{per_class}"


def kind(part: dict[str, Any] | None) -> str:
    """The class name of a part in a request."""
    return str((part or {}).get("is", "")).rpartition(".")[2]


@cache
def request_of(folder: Path) -> dict[str, Any]:
    """A folder's request; a damaged one is described as such, rather than as another one."""
    sealed = (folder / atomic_io.SEAL).exists()
    return DAMAGED if sealed and atomic_io.check(folder, [REQUEST]) else read(folder / REQUEST)


def read(path: Path) -> dict[str, Any]:
    """A JSON object from a file; {} if the file is missing or damaged."""
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def listed(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def measure(path: str | Path) -> tuple[int, float]:
    """(bytes, time of the last change) of a file or folder; zeros if another process has removed
    it."""
    size, changed = 0, 0.0
    with suppress(OSError):
        status = os.stat(path, follow_symlinks=False)
        if not stat.S_ISDIR(status.st_mode):
            return status.st_size, status.st_mtime
        with os.scandir(path) as entries:
            for entry in entries:
                inner, when = measure(entry.path)
                size, changed = size + inner, max(changed, when)
        changed = changed or status.st_mtime
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
    if not entries:
        return "nothing here"
    sizes: dict[str, list[int]] = {}
    for entry in sorted(entries, key=lambda entry: entry.stage):
        sizes.setdefault(entry.stage, []).append(entry.size)
    stages = ", ".join(f"{len(all_)} {stage} {bytes_(sum(all_))}" for stage, all_ in sizes.items())
    return f"{stages}; {len(entries)} in all, {bytes_(sum(entry.size for entry in entries))}"
