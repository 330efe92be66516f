"""Weights & Biases, behind a shield: without a key, without a network or with a dying server, training goes on."""

import netrc
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from sft_exp.durable import folder
from sft_exp.progress import console
from sft_exp.track import Run, Tracker

_told = False  # the one line of explanation, once a process


@dataclass
class Wandb(Tracker):
    project: str = "sft_exp"
    entity: str | None = None
    mode: str = "auto"  # auto (online with a key, else offline), online, offline, disabled
    group: str | None = None  # runs shown together; a sweep's are, unless this says otherwise
    dir: str = "outputs"  # where wandb/ is written
    init_timeout: float = 5.0  # seconds to reach the server before going offline
    finish_timeout: float = 20.0  # seconds to upload what is left at the end

    def open(self, kind, identity, config):
        mode = os.environ.get("WANDB_MODE", self.mode if self.mode != "auto" else "online" if has_key() else "offline")
        if self.mode == "auto" and mode == "offline":
            tell("W&B: no key, so runs stay offline; `wandb login` and `wandb sync outputs/wandb/offline-run-*` upload them")
        try:
            return self.start(kind, identity, config, mode)
        except Exception as error:  # noqa: BLE001 - whatever W&B does, the experiment runs
            tell(f"Weights & Biases: {error}; going on offline.")
        try:
            return self.start(kind, identity, config, "offline")
        except Exception as error:  # noqa: BLE001
            tell(f"Weights & Biases: {error}; going on without it. Metrics are in the store.")
            return Run()

    def start(self, kind: str, identity: str, config: dict[str, Any], mode: Any) -> Run:
        import wandb

        settings = wandb.Settings(  # a fresh one each time: init writes its arguments into it
            init_timeout=self.init_timeout,
            finish_timeout=self.finish_timeout,
            quiet=True,
            silent=True,
            console="off",
            save_code=False,
        )
        run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", self.project),
            entity=self.entity,
            group=self.group,
            name=title(kind, config),
            tags=sorted({kind, *config["choices"].values()}),
            id=identity,
            job_type=kind,
            dir=str(folder(Path(self.dir))),
            config=config,
            mode=mode,
            resume="allow",
            settings=settings,
            reinit="finish_previous",
        )
        run.define_metric(f"{kind}/step")
        run.define_metric(f"{kind}/*", step_metric=f"{kind}/step")
        return Mirror(run, kind)


class Mirror(Run):
    """A W&B run that is let go of at its first failure."""

    def __init__(self, run: Any, kind: str):
        self.run, self.kind = run, kind

    def log(self, row):
        self.tried(lambda: self.run.log({f"{self.kind}/{k}": v for k, v in row.items()}))

    def summary(self, values):
        self.tried(lambda: self.run.summary.update(values))

    def pictures(self, files):
        import wandb

        self.tried(lambda: self.run.log({title: wandb.Image(str(path)) for title, path in files.items()}))

    def finish(self, failed=False):
        self.tried(lambda: self.run.finish(exit_code=int(failed)))
        self.run = None

    def tried(self, call) -> None:
        if self.run is None:
            return
        try:
            call()
        except Exception as error:  # noqa: BLE001 - wandb-core dead, disk full, server gone: all the same to training
            self.run = None
            tell(f"Weights & Biases stopped answering ({type(error).__name__}: {error}); metrics are in the store.")


def title(kind: str, config: dict[str, Any]) -> str:
    """What the run is, from the choices that matter to its kind."""
    taken = config["choices"]
    words = [taken["pretrainer"], taken["dataset"], f"seed{config['seed']}"]
    if kind == "finetune":
        words += [taken["strategy"], taken["optim"], f"lr{config['optim']['lr']}", f"labels{config['labels']}"]
    return " ".join(str(w) for w in [kind, *words])


def has_key() -> bool:
    """Whether W&B would find a key without asking."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def tell(line: str) -> None:
    global _told
    if not _told:
        console.print(line, highlight=False)
    _told = True
