"""Weights & Biases tracker. Training goes on without a key, a network or a working server.

Each W&B run has a `pending.json` in its folder until the server has all of it; `sft_exp sync` uses
it to upload the rest. A run is resumed from the store's metrics.jsonl, because W&B's own files lack
the last seconds before a kill.
"""

import json
import netrc
import os
import re
import shlex
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlparse

from sft_exp.core.tracker import About, Artifact, Logged, Run, Tracker
from sft_exp.errors import DataError, StorageError, first_line, require
from sft_exp.models.download import require_reachable
from sft_exp.progress import console
from sft_exp.store import atomic_io
from sft_exp.training import metrics_log

PENDING = "pending.json"
OLDER_WORDS = {"dryrun": "offline", "run": "online"}
MODES = ("auto", "online", "offline", "disabled")
TABLE = "results"  # a row per fine-tuning, for charts over many runs
COLUMNS = {"val_score": "val/score", "test_score": "test/score", "gain": "gain_vs_scratch"}
LINEAGE = 10.0  # maximum seconds for linking artifacts at a run's end
COLLECTION = r"([^/:\s]+/){1,2}[^/:\s]+(:[^/:\s]+)?"  # of a registry
LONGEST_NAME, LONGEST_TAG = 128, 64  # maximum characters
# default folder of W&B's files, where `sft_exp.sync` looks
OUTPUTS = "outputs"
_printed: set[str] = set()  # explanations that this process has printed
_offline = threading.Event()  # set once the server did not answer: this process does not retry


@dataclass
class Wandb(Tracker):
    project: str = "sft_exp"
    entity: str | None = None
    mode: str = "auto"  # auto (online with a key, else offline), online, offline, disabled
    group: str | None = None  # runs shown together; null: the runs of a sweep
    name: str | None = None  # of the run; null: its options, in a sweep those that vary
    # in addition to those of options that are not the defaults
    tags: list[str] = field(default_factory=lambda: [])
    notes: str | None = None  # a longer description of the run
    job_type: str | None = None  # null: pretrain or finetune
    # collection of the registry to which models are linked: wandb-registry-model/NAME, or NAME:ALIAS
    registry: str | None = None
    images: bool = True  # upload pictures; false keeps private images out
    dir: str | None = None  # folder of wandb/; null: the sweep's folder, or outputs
    init_timeout: float = 5.0  # seconds to reach the server before going offline
    finish_timeout: float = 15.0  # seconds to upload the rest at the end

    def __post_init__(self):
        require(self.mode in MODES, "mode", self.mode, ", ".join(MODES))
        # of the environment, which W&B would refuse after the first training
        known = (*MODES, "shared", *OLDER_WORDS)
        asked = self.mode_asked_for()
        require(asked in known, "mode", f"{asked} (WANDB_MODE)", ", ".join(known))
        valid = f"a list of words of 1 to {LONGEST_TAG} characters"
        words = isinstance(self.tags, list) and all(isinstance(tag, str) for tag in self.tags)
        short = words and all(0 < len(tag) <= LONGEST_TAG for tag in self.tags)
        require(short, "tags", self.tags, valid)
        place = self.registry is None or re.fullmatch(COLLECTION, self.registry) is not None
        example = "PROJECT/NAME or PROJECT/NAME:ALIAS, as wandb-registry-model/digits:candidate"
        require(place, "registry", self.registry, example)

    @property
    def uploading(self) -> str:
        """The command that uploads the runs that this tracker has stored on the disk."""
        where = Path(self.dir or OUTPUTS)
        below = where.resolve().is_relative_to(Path(OUTPUTS).resolve())
        return shlex.join(["sft_exp", "sync", *([] if below else [str(where)])])

    def mode_asked_for(self) -> str:
        """The mode of the environment, where W&B knows older words, too, or else of the config."""
        if os.environ.get("WANDB_DISABLED", "").strip().casefold() in ("true", "1", "yes", "on"):
            return "disabled"
        mode = os.environ.get("WANDB_MODE", "").strip() or self.mode
        return OLDER_WORDS.get(mode, mode)

    def open(self, about, stop):
        mode = self.mode_asked_for()
        if mode == "disabled":
            return Run()
        # before W&B reads its environment
        trial = claimed()
        forget_empty_variables()
        sweep = trial.get("WANDB_SWEEP_ID")
        env = os.environ.get
        tracker = replace(
            self,
            project=env("WANDB_PROJECT") or self.project,
            group=self.group or env("WANDB_RUN_GROUP") or sweep,
            name=self.name or env("WANDB_NAME"),
            tags=[*self.tags, *tags_of_environment()],
            notes=self.notes or env("WANDB_NOTES"),
            job_type=self.job_type or env("WANDB_JOB_TYPE"),
            dir=env("WANDB_DIR") or self.dir or OUTPUTS,
        )
        if mode == "auto":
            mode = "online" if has_key() else "offline"
            if mode == "offline":
                print_line(
                    "W&B: no key, so runs stay offline;"
                    f" after `wandb login`, `{tracker.uploading}` uploads them"
                )
        # the trial of a W&B sweep is the fine-tuning run
        identity = trial.pop("WANDB_RUN_ID", None) if about.kind == "finetune" else None
        offline = _offline.is_set() or mode == "offline"
        for attempt in ("offline",) if offline else (mode, "offline"):
            try:
                return tracker.start(
                    about, identity or about.folder.name, attempt, stop, sweep if identity else None
                )
            except Exception as error:  # noqa: BLE001 - no error of W&B may stop the experiment
                teardown()
                _offline.set()
                later = f"offline; `{tracker.uploading}` uploads"
                going_on = "without it; metrics are in the store" if attempt == "offline" else later
                print_line(f"W&B: {first_line(error)}; going on {going_on}")
        return Run()

    def start(
        self,
        about: About,
        identity: str,
        mode: str,
        stop: Callable[[], None],
        sweep: str | None = None,
    ) -> "Mirror":
        """Start a run in this mode, without fallback; raises W&B's exceptions."""
        where = Path(self.dir or OUTPUTS)
        for older in (where / "wandb").glob(f"*run-*-{identity}"):
            # its training was killed or failed; all its metrics are logged again
            if (older / PENDING).exists():
                atomic_io.remove(older)
        wandb = library()
        settings = wandb.Settings(  # a new object each time: init writes its arguments into it
            init_timeout=self.init_timeout,
            finish_timeout=self.finish_timeout,
            finish_timeout_raises=True,
            quiet=True,
            silent=True,
            console="off",
            save_code=False,
            stop_fn=stop,
            run_id=identity,
            sweep_id=sweep,
        )
        run = wandb.init(
            project=self.project,
            entity=self.entity,
            group=self.group,
            name=shortened(self.name or about.name, LONGEST_NAME),
            tags=[shortened(tag, LONGEST_TAG) for tag in dict.fromkeys([*about.tags, *self.tags])],
            notes=self.notes,
            job_type=self.job_type or about.kind,
            dir=str(atomic_io.folder(where)),
            config=about.config,
            mode=mode,
            resume=None if mode == "offline" else "allow",
            settings=settings,
            reinit="create_new",
        )
        if not run.offline:
            print_line(f"W&B: {run.project_url}")
        return Mirror(run, about, replace(self, entity=run.entity or self.entity))


class Mirror(Run):
    """A W&B run that is abandoned at its first failure."""

    def __init__(self, run: Any, about: About, tracker: Wandb):
        self.run, self.id, self.about, self.tracker = run, run.id, about, tracker
        self.logged = Logged(run.starting_step - 1)
        self.axis = "epoch" if about.kind == "finetune" else "step"
        self.defined: set[str] = set()
        self.folder = Path(run.settings.sync_dir)
        self.where = run.url or os.path.relpath(self.folder)
        self.results: dict[str, Any] = {}
        self.note(None)

    def log(self, row):
        named = {
            k if "/" in k else f"{self.about.kind}/{k}": v for k, v in self.logged.new(row).items()
        }
        for name in named.keys() - self.defined:
            self.define(name)
        if named:
            self.tried(lambda: self.run.log(named, step=row["step"]))

    def define(self, name: str) -> None:
        """Define a curve's x axis and its value in the summary.

        The summary of a fine-tuning holds results of all draws, so it has no values of the curves,
        which are of one draw. Of a monitor, where more is better, it has the maximum too.
        """
        self.defined.add(name)
        axes = [f"{self.about.kind}/{axis}" for axis in ("step", "epoch", "images")]
        against = None if name in axes else f"{self.about.kind}/{self.axis}"
        best = "last,max" if name.startswith("monitor/") else None
        shown = "none" if self.about.kind == "finetune" else best
        self.tried(lambda: self.run.define_metric(name, step_metric=against, summary=shown))

    def summary(self, values):
        self.results |= values

    def pictures(self, pngs):
        if not self.tracker.images:
            return
        files = {title: self.folder / "pictures" / f"{title}.png" for title in pngs}
        with suppress(StorageError):
            for title, png in pngs.items():
                atomic_io.write(files[title], png)
        image = library().Image
        if files:
            self.tried(
                lambda: self.run.log(
                    {f"pictures/{title}": image(str(file)) for title, file in files.items()}
                )
            )

    def table(self, title, rows):
        columns = list(rows[0])
        data = [[row[c] for c in columns] for row in rows]
        self.tried(lambda: self.run.log({title: library().Table(columns=columns, data=data)}))

    def finish(self, code=0):
        self.note(code)
        linked = code != 0
        if self.run is not None and not linked:
            try:
                within(LINEAGE, self.link)
                linked = True
            except Exception as error:  # noqa: BLE001
                print_line(
                    f"W&B: the artifacts are not linked yet ({first_line(error)});"
                    f" `{self.tracker.uploading}` links them"
                )
        # last, so that no logged value replaces it
        self.tried(lambda: self.run.summary.update(self.results))
        self.tried(lambda: self.run.finish(exit_code=code))
        if self.run is not None and not self.run.offline and linked:
            atomic_io.remove(self.folder / PENDING)
        self.run = None

    def link(self) -> None:
        """Log the row of results and the artifacts data -> encoder -> model; waits for the server.

        Content determines an artifact's version, so the first run that has it uploads it.
        """
        if "test/score" in self.results:
            row = cells(self.about.config, self.results)
            self.run.log({TABLE: library().Table(columns=list(row), data=[list(row.values())])})
        if not self.run.offline:
            for artifact in self.about.uses:
                self.run.use_artifact(draft(artifact), aliases=[artifact.folder.name])
        for artifact in self.about.makes:
            made = self.run.log_artifact(draft(artifact), aliases=[artifact.folder.name])
            if self.tracker.registry and self.about.kind == "finetune" and not self.run.offline:
                place, _, alias = self.tracker.registry.partition(":")
                self.run.link_artifact(made, place, aliases=[alias] if alias else None)

    def note(self, code: int | None) -> None:
        """Write the state that `sync` needs; `code` is None while the run is running."""
        state = {
            "id": self.id,
            "tracker": asdict(self.tracker),
            "about": asdict(self.about),
            "summary": self.results,
            "code": code,
        }
        with suppress(StorageError):
            atomic_io.write(
                self.folder / PENDING,
                json.dumps(state, default=lambda path: str(path.absolute()), indent=1),
            )

    def tried(self, call: Callable[[], Any]) -> None:
        """Call W&B; abandon the run if that fails."""
        if self.run is None:
            return
        try:
            call()
        except TimeoutError:
            self.run = None
            _offline.set()
            print_line(
                "W&B: the server did not answer in time;"
                f" `{self.tracker.uploading}` uploads what it does not have"
            )
        except Exception as error:  # noqa: BLE001 - a dead wandb-core must not stop training
            self.run = None
            if isinstance(error, ConnectionError):
                teardown()
            why = f"{type(error).__name__}: {first_line(error)}"
            print_line(
                f"W&B stopped ({why}); metrics are in the store,"
                f" `{self.tracker.uploading}` uploads them"
            )


def shortened(text: str, most: int) -> str:
    """The text, or its beginning and an ellipsis if it is longer than `most` characters."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def cells(config: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """A fine-tuning's row of the results table: column -> value."""
    choices = {
        group: config["choices"].get(group) for group in ("pretrainer", "encoder", "strategy")
    }
    settings = {
        "optimizer": config["choices"].get("optim"),
        "lr": config["optim"]["lr"],
        "labels": str(config["labels"]),
    }
    scores = {column: values.get(key) for column, key in COLUMNS.items()}
    return {**choices, **settings, "seed": config["seed"], **scores}


def draft(artifact: Artifact) -> Any:
    """W&B's artifact object. Files of a finished store folder are immutable, so not copied."""
    result = library().Artifact(artifact.name, type=artifact.kind, metadata=artifact.facts)
    for file in artifact.files:
        result.add_file(str(artifact.folder / file), name=file, policy="immutable", skip_cache=True)
    return result


def fetch(artifact: str) -> Path:
    """Download an artifact, e.g. `team/project/encoder-vae-digits:latest`; returns its folder.

    DataError if that fails.
    """
    try:
        # the client itself retries for half a minute
        require_reachable(library().setup().settings.base_url)
        remote = library().Api().artifact(artifact)
        folder = Path(OUTPUTS) / "artifacts" / remote.source_qualified_name.replace(":", "-")
        return Path(remote.download(root=str(atomic_io.folder(folder))))
    except Exception as error:
        raise DataError(
            f"artifact {artifact}: {first_line(error)}; where W&B can be reached, "
            f"`wandb artifact get {artifact}` downloads a folder, whose path is taken instead"
        ) from error


def pending(roots: list[Path]) -> list[Path]:
    """Folders of W&B runs that may be incomplete on the server, oldest first; of those that began in
    one second the pretraining, whose address the others state."""
    folders = {
        file.parent
        for root in roots
        for depth in ("", "*/", "*/*/", "*/*/*/", "*/*/*/*/")
        for file in root.glob(f"{depth}{PENDING}")
        if not file.parent.is_symlink()  # latest-run
    }

    def begun(folder: Path) -> tuple[str, bool]:
        second, _, identity = folder.name.rpartition("run-2")[2].partition("-")
        return second, not identity.startswith("pretrain")

    return sorted(folders, key=begun)


def sync(folder: Path) -> str:
    """Upload what the server does not have of a run; returns its address. Raises W&B's exceptions.

    The result is empty for a run that has not ended: the command that started it resumes it.

    `wandb sync` uploads a run that the server does not know, with what only W&B has recorded. To a
    run that is there in part it would append; such a run, and what W&B's file lacks, is uploaded
    from the store.
    """
    record = json.loads((folder / PENDING).read_text())
    fields = record["about"]
    if (
        record["code"] is None
        and fields["kind"] == "pretrain"
        and (Path(fields["folder"]) / atomic_io.SEAL).exists()
    ):
        record["code"] = 0  # killed just after its end; later jobs only link to the pretraining
    if record["code"] is None:
        return ""
    artifacts = {
        key: [Artifact(**{**a, "folder": Path(a["folder"])}) for a in fields[key]]
        for key in ("uses", "makes")
    }
    about = About(**{**fields, **artifacts, "folder": Path(fields["folder"])})
    with TemporaryDirectory() as scratch:
        tracker = Wandb(**{**record["tracker"], "mode": "online", "dir": scratch})
        uploaded = False
        if not known(tracker, record["id"]):
            command = [sys.executable, "-m", "wandb", "sync", str(folder)]
            subprocess.run(command, check=True, capture_output=True)  # noqa: S603
            uploaded = known(tracker, record["id"])
        if start := about.config["lineage"].get("pretrain"):
            start["url"] = tracker.shown(about.uses[-1].folder)
            record["summary"] |= {"pretrain/url": start["url"]} if record["summary"] else {}
        run = tracker.start(about, record["id"], "online", lambda: None)
        for row in metrics_log.read_with_monitors(about.folder):
            run.log(row)
        if uploaded:
            run.tried(lambda: run.run.summary.update(record["summary"]))
        else:
            run.summary(record["summary"])
            run.pictures(
                {png.stem: png.read_bytes() for png in sorted(folder.glob("pictures/*.png"))}
            )
        run.finish(record["code"])
        if (run.folder / PENDING).exists():
            raise TimeoutError("the server did not take all of it")
    tracker.show(about.folder, run.where)
    atomic_io.remove(folder / PENDING)
    return run.where


def known(tracker: Wandb, identity: str) -> bool:
    """Whether the server has a run of that id."""
    wandb = library()
    api = wandb.Api()
    try:
        api.run("/".join([tracker.entity or api.default_entity, tracker.project, identity]))
    except (ValueError, wandb.errors.CommError):
        return False
    return True


def claimed() -> dict[str, str]:
    """The environment variables of `wandb agent` for this process's trial, removed from there.

    W&B would otherwise give every run of the process the trial's id, and replace configuration
    groups by parameters of the same name.
    """
    for name in ("WANDB_RUN_ID", "WANDB_SWEEP_ID", "WANDB_SWEEP_PARAM_PATH"):
        if name in os.environ:
            _trial()[name] = os.environ.pop(name)
    return _trial()


def forget_empty_variables() -> None:
    """Remove W&B's variables that are set to nothing: it refuses an empty WANDB_MODE as invalid."""
    for name in [n for n, v in os.environ.items() if n.startswith("WANDB_") and not v.strip()]:
        del os.environ[name]


def tags_of_environment() -> list[str]:
    """The tags in WANDB_TAGS, which is left without blanks and empty ones: W&B refuses these."""
    tags = [tag for text in os.environ.pop("WANDB_TAGS", "").split(",") if (tag := text.strip())]
    if tags:
        os.environ["WANDB_TAGS"] = ",".join(tags)
    return tags


@cache
def _trial() -> dict[str, str]:
    return {}


def has_key() -> bool:
    """Whether W&B can find a key without asking the user."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    hosts = {urlparse(library().setup().settings.base_url).hostname or "", "api.wandb.ai"}
    try:
        logins = netrc.netrc(os.environ.get("NETRC"))
    except (OSError, netrc.NetrcParseError):
        return False
    return any(logins.authenticators(host) for host in hosts)


def library() -> Any:
    import wandb

    wandb.setup(wandb.Settings(silent=True))
    return wandb


def teardown() -> None:
    """End wandb-core, which is dead or has a run that did not start; the next run restarts it."""
    with suppress(Exception):
        library().teardown()


def within(seconds: float, call: Callable[[], Any]) -> None:
    """Run `call()` with a time limit: W&B waits for ever for a server that hangs. TimeoutError."""
    failed: list[Exception] = []

    def work() -> None:
        try:
            call()
        except Exception as error:  # noqa: BLE001 - raised again below
            failed.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise TimeoutError(f"no answer within {seconds:.0f} s")
    if failed:
        raise failed[0]


def print_line(line: str) -> None:
    if line not in _printed:
        console.message(line)
    _printed.add(line)
