"""A memo of whole runs: a command that has run from the store alone is answered from files the next time.

    <store>/memos/<key>/
        memo.json   names of the store folders that the run used, and what it printed and logged
        files/...   what it wrote into its run folder
        done.json   checksums, as of every sealed folder

The key is a hash of everything that such a run reads: the composed config, the command, the source
of the package, the installed libraries, the data files, the machine and the terminal. Where one of
these is not understood there is no key, and the run takes the normal way. Nothing here imports
torch. See docs/decisions/0090-a-memo-of-whole-runs.md.
"""

import hashlib
import json
import logging
import os
import platform
import shutil
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from sft_exp.config import sources
from sft_exp.config.moved import current
from sft_exp.errors import StorageError
from sft_exp.execution import ownership
from sft_exp.progress import LOG
from sft_exp.store import atomic_io, collect
from sft_exp.store.code_hash import by_path, library, strings_in

# as the process began: libraries add to both when they are imported
PLACES, ENVIRONMENT = tuple(sys.path), dict(os.environ)
STARTED = time.time()  # sources that changed later may differ from those that were imported
MOST_BYTES = 64e6  # a run that leaves more, such as a large export, is not kept
# variables of the environment, by prefix, that change what runs, where, or what it looks like
VARIABLES = (
    "CUDA", "NVIDIA", "HIP", "ROCR", "OMP", "MKL", "KMP", "OPENBLAS", "TORCH", "PYTORCH", "PYTHON",
    "SFT_EXP", "HYDRA", "WANDB", "TERM", "COLORTERM", "NO_COLOR", "FORCE_COLOR", "CLICOLOR", "TTY_",
    "COLUMNS", "LINES", "LANG", "LC_", "TZ", "HOME", "JUPYTER",
)  # fmt: skip
DEVICES = ("nvidia*", "kfd", "accel*")  # in /dev: a device that comes or goes may change the page
# parts that read files besides those that `data_files` lists
READERS = {
    "sft_exp.pretrainers.checkpoint",
    "sft_exp.encoders.timm_model",
    "sft_exp.encoders.torchvision_model",
    "sft_exp.encoders.own",
}
DIGITS, FOLDER = "sft_exp.datasets.digits", "sft_exp.datasets.image_folder"
SILENT_TRACKER = "sft_exp.trackers.none"
FOLDER_MARK = "\0run folder\0"  # stands for the run folder in what was printed


def key_of(config: dict[str, Any], choices: dict[str, str], words: list[str]) -> str | None:
    """The key of the run that a composed config and its command describe.

    None where the run depends on something that is not covered: plug-ins, trackers, other data
    sets, files that the config names, interpolations of the environment, several processes.
    """
    with suppress(OSError, TypeError, ValueError, KeyError, AttributeError):
        if not is_understood(config, words):
            return None
        data = [
            data_files(config[group])
            for group in ("dataset", "pretrain_dataset")
            if config.get(group) is not None
        ]
        facts = [config, choices, words, str(Path.cwd()), code(), libraries(), data, surroundings()]
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]
    return None


def is_understood(config: dict[str, Any], words: list[str]) -> bool:
    """Whether `key_of` covers all that the run of this config reads."""
    text = json.dumps(config)
    silent = config["tracker"]["_target_"].startswith(SILENT_TRACKER) or (
        (os.environ.get("WANDB_MODE") or config["tracker"].get("mode")) == "disabled"
        and config["tracker"]["_target_"].startswith("sft_exp.trackers.wandb")
    )
    return (
        silent
        and "${" not in text
        and not sources.plugged()
        and not sources.option_folders()
        and not config.get("plan")
        and not config.get("plugins")
        and config["hardware"]["processes"] == 1
        and config["hardware"]["engine"] != "fsdp"
        and "RANK" not in os.environ
        and not any("searchpath" in word for word in words)
        and not any(names_input(entry) for entry in strings_in(without_places(config)))
        and platform.system() == "Linux"  # elsewhere, times of files and inodes say less
    )


def without_places(config: dict[str, Any]) -> dict[str, Any]:
    """The config without the paths that are dealt with otherwise (the store and the data), and that of
    decoded images, which change no result."""
    datasets = ("dataset", "pretrain_dataset")
    settings = {k: v for k, v in config.items() if k not in ("store", "name", *datasets)}
    nodes = {k: config[k] for k in datasets if config.get(k) is not None}
    places = ("root", "unlabelled", "cache")
    inner = {k: {f: v for f, v in node.items() if f not in places} for k, node in nodes.items()}
    return {**settings, **inner}


def names_input(text: str) -> bool:
    """Whether a string of the config names a file, or code that is not of this package."""
    if text.startswith("sft_exp."):
        return current(text).rpartition(".")[0] in READERS
    if text and (os.sep in text or text.startswith("~")):
        return True
    return bool(text) and (Path(text).exists() or (by_path(text) is not None and not library(text)))


def code() -> list[list[str]]:
    """(file, SHA-256 of its content) of every file of the package and of its options."""
    roots = [sources.HERE] if sources.CONF.is_relative_to(sources.HERE) else [
        sources.HERE,
        sources.CONF,
    ]  # fmt: skip
    return [[str(path), atomic_io.checksum(path)] for root in roots for path in own_files(root)]


def own_files(root: Path) -> list[Path]:
    return [path for path in below(root) if "__pycache__" not in path.parts]


def below(folder: Path) -> list[Path]:
    """All files below a folder, in the order of their paths."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


def libraries() -> list[Any]:
    """The interpreter, its path, and the name and version of every installed distribution."""
    installed = [
        sorted(name for name in os.listdir(place) if name.endswith((".dist-info", ".egg-info")))
        for place in PLACES
        if os.path.isdir(place)
    ]
    return [sys.version, sys.executable, PLACES, installed]


def data_files(dataset: dict[str, Any]) -> list[Any]:
    """(path, size, mtime, ctime, inode) of every file that the data set may read.

    ValueError for data sets of which that is not known.
    """
    module = dataset["_target_"].rpartition(".")[0]
    if module == DIGITS:
        return []  # a file of scikit-learn, whose version is in the key
    if module != FOLDER or not dataset["root"] or dataset.get("labels"):
        raise ValueError(module)
    unlabelled = dataset.get("unlabelled") or []
    places = [dataset["root"], *([unlabelled] if isinstance(unlabelled, str) else unlabelled)]
    return [described(Path(place).expanduser()) for place in places]


def described(place: Path) -> list[list[Any]]:
    """The entries below a folder, or one file.

    ValueError for other places (patterns of names) and for links to folders, which may be circular.
    """
    if place.is_file():
        return [entry(place)]
    if not place.is_dir():
        raise ValueError(place)
    entries = []
    for folder, subfolders, files in os.walk(place, onerror=refuse):
        paths = [Path(folder, name) for name in subfolders]
        if any(path.is_symlink() for path in paths):
            raise ValueError(folder)
        entries += [[str(path)] for path in paths]
        entries += [entry(Path(folder, name)) for name in files]
    return sorted(entries)


def refuse(error: OSError) -> None:
    raise error


def entry(path: Path) -> list[Any]:
    facts = path.stat()
    return [str(path), facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns, facts.st_ino]


def surroundings() -> list[Any]:
    """What else a page or a line on the terminal may depend on: machine, variables, terminal."""
    size = shutil.get_terminal_size()
    streams = [[s.isatty(), s.encoding] for s in (sys.stdout, sys.stderr)]
    variables = {k: v for k, v in ENVIRONMENT.items() if k.startswith(VARIABLES)}
    devices = sorted(str(p) for pattern in DEVICES for p in Path("/dev").glob(pattern))
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    return [platform.node(), list(size), streams, variables, devices, cores]


# Recall


@dataclass(frozen=True)
class Memo:
    """A run that is known, whose store folders are all there and intact."""

    store: Path
    folder: Path  # of the memo
    used: list[tuple[str, str]]  # (name, checksum of the seal) of store folders
    events: list[list[Any]]  # (stdout, stderr or log; level of the logger; text)
    score: float  # what the run returns to sweepers

    def recall(self, run: Path) -> bool:
        """Write the run folder and repeat the run's lines; False if the store has changed since."""
        files = self.folder / "files"
        with ownership.holding(run):
            collect.refer(self.store, run, [name for name, _ in self.used])
            try:
                if any(seal_of(self.store / name) != seal for name, seal in self.used):
                    return False
                contents = {p.relative_to(files): p.read_bytes() for p in below(files)}
            except OSError:  # a gc has just removed something
                return False
            started = time.strftime("%Y-%m-%dT%H:%M:%S")
            status = {"state": "running", "exit_code": None, "started": started}
            atomic_io.link(ownership.LATEST, run)
            atomic_io.write_json(run / "status.json", status)
            for name, content in contents.items():
                atomic_io.write(run / name, content)
            ownership.require(run)
            atomic_io.write_json(
                run / "status.json", {**status, "state": "done", "exit_code": 0, "resumable": False}
            )
        for kind, level, text in self.events:
            line = text.replace(FOLDER_MARK, str(run))
            if kind == "log":
                LOG.log(level, "%s", line)
            else:
                getattr(sys, kind).write(line)
        return True


def find(store: Path, key: str) -> Memo | None:
    """The memo of this key, if it and every store folder that it names pass their checksums."""
    folder = store / collect.MEMOS / key
    if not folder.is_dir() or atomic_io.check(folder):
        return None
    try:
        record = json.loads((folder / "memo.json").read_text())
        used = [(name, seal) for name, seal in record["folders"]]
        memo = Memo(store, folder, used, record["events"], record["score"])
        # a folder that was computed again has another seal: it states the seconds that it took
        changed = any(seal_of(store / name) != seal for name, seal in used)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return None if changed or any(atomic_io.check(store / name) for name, _ in used) else memo


def seal_of(folder: Path) -> str:
    """The checksum of a store folder's seal."""
    return atomic_io.checksum(folder / atomic_io.SEAL)


# Recording


class Tee:
    """A text stream that also notes what is written to it."""

    def __init__(self, stream: TextIO, name: str, events: list[list[Any]]):
        self.stream, self.name, self.events = stream, name, events

    def write(self, text: str) -> int:
        self.events.append([self.name, 0, text])
        return self.stream.write(text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


class Records(logging.Handler):
    """A handler that notes the messages of a logger."""

    def __init__(self, events: list[list[Any]]):
        super().__init__()
        self.events = events

    def emit(self, record: logging.LogRecord) -> None:
        self.events.append(["log", record.levelno, record.getMessage()])


@dataclass
class Recorder:
    """Notes what a run prints, and keeps it if the run has found everything in the store."""

    key: str
    events: list[list[Any]] = field(default_factory=list)
    fresh: bool = False  # whether the run folder was empty when the run began
    elsewhere: list[list[Any]] = field(default_factory=list)  # records of other loggers

    @contextmanager
    def listening(self, run: Path | None = None) -> Iterator[None]:
        """Note what is printed inside, and with a run folder also what is written to its log."""
        before = sys.stdout, sys.stderr
        handler, others = Records(self.events), Records(self.elsewhere)
        logging.root.addHandler(others)
        if run is not None:
            self.fresh = not written(run)
            LOG.addHandler(handler)
        sys.stdout = Tee(before[0], "stdout", self.events)
        sys.stderr = Tee(before[1], "stderr", self.events)
        try:
            yield
        finally:
            sys.stdout, sys.stderr = before
            LOG.removeHandler(handler)
            logging.root.removeHandler(others)

    def keep(self, store: Path, run: Path, used: list[str], score: float, now: str | None) -> None:
        """Write the memo, if the run can be repeated from it.

        `now` is the key at the end of the run; it is another one if code or data have changed.
        """
        final = store / collect.MEMOS / self.key
        work = final.with_name(f".{uuid.uuid4().hex}")
        with suppress(OSError, StorageError):  # such as a store that this user may only read
            files = {p.relative_to(run).as_posix(): p.read_bytes() for p in written(run)}
            if (
                not self.fresh
                or self.elsewhere
                or now != self.key
                or not self.may_be_stored(run, files)
            ):
                return
            record = {
                "folders": [[name, seal_of(store / name)] for name in sorted(set(used))],
                "events": [[kind, level, marked(text, run)] for kind, level, text in self.events],
                "score": score,
            }
            atomic_io.write_json(work / "memo.json", record)
            for name, content in files.items():
                atomic_io.write(work / "files" / name, content)
            atomic_io.seal(work, {"seconds": 0.0})
            if final.exists():
                atomic_io.discard(final)  # it is damaged, or a folder that it names was
            atomic_io.publish(work, final)

    def may_be_stored(self, run: Path, files: dict[str, bytes]) -> bool:
        """Whether these files are those of any run of this key, of source that is the imported one."""
        roots = (sources.HERE, sources.CONF)
        changed = max(path.stat().st_ctime for root in roots for path in own_files(root))
        in_key = any(str(run) in word for word in sys.argv)  # then the folder is part of the key
        named = any(str(run).encode() in content for content in files.values())
        size = sum(len(content) for content in files.values())
        return changed < STARTED and (in_key or not named) and size <= MOST_BYTES


def marked(text: str, run: Path) -> str:
    return text.replace(str(run), FOLDER_MARK)


def written(run: Path) -> list[Path]:
    """What a run has written into its folder, apart from its state, its lock and Hydra's files."""
    inner = [(path, path.relative_to(run).parts) for path in below(run)]
    return [
        path
        for path, parts in inner
        if not parts[0].startswith(".") and parts != ("status.json",) and path.suffix != ".log"
    ]
