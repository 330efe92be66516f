"""Multiruns on Hydra's own launchers: checked whole before job 0, run by a worker, finished by the same command again.

Hydra composes each job and calls the task function, in this process or in a launcher's; the task function hands the
resolved config to a worker subprocess, so a job can only lose itself. The sweep's folder is named by the hash of its
resolved jobs, and jobs are composed from the copy of conf/ that lies in it, whatever happens to the YAML files meanwhile.
"""

import hashlib
import io
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from sft_exp.config import build, hydra_state, recipe, register
from sft_exp.errors import ConfigError, Failure, Interrupted
from sft_exp.execution import ownership, watchdog
from sft_exp.progress import console
from sft_exp.store import atomic_io, results
from sft_exp.sweep.composition import Composer
from sft_exp.sweep.display import Display
from sft_exp.sweep.job_list import listed

BASIC_LAUNCHER = "hydra._internal.core_plugins.basic_launcher.BasicLauncher"
BASIC = f"{BasicSweeper.__module__}.{BasicSweeper.__name__}"
TIMED = "hydra_plugins.sft_exp_timed.TimedSweeper"
UNTIL = "hydra_plugins.sft_exp_until.UntilSweeper"
LISTED = "hydra_plugins.sft_exp_listed.ListedSweeper"
JOBS = "jobs.json"  # in the sweep's folder: every job's overrides, resolved config and choices
NEITHER = {"tracker": None, "replace": None}  # keys that make no other job
COMMON = "common.json"  # there too: the overrides that all its jobs share
Jobs = list[dict[str, Any]]
_worker: "Worker | None" = None  # of this process
_display: list[Display] = []  # of the sweep that this process began, or launches jobs of
_folder: list[Path] = []  # of the sweep that this process began
_driver = False  # whether this process began the sweep, or was started by its launcher


class JobFailure(Failure):
    def __init__(self, text: str, code: int):
        super().__init__(text)
        self.code = code


class Worker:
    """A subprocess that runs jobs, and what it said last."""

    def __init__(self, threads: int | None):
        ours, theirs = socket.socketpair()
        owned = [str(os.getpid()), "sft_exp.sweep.worker"]
        block = _display[-1] if _display and _display[-1].live else None
        threaded = {"OMP_NUM_THREADS": str(threads)} if threads else {}
        share = getattr(theirs, "share", None)  # of Windows, where sockets are not inherited
        self.process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
            [
                sys.executable,
                "-m",
                "sft_exp.execution.child",
                *owned,
                "-" if share else str(theirs.fileno()),
            ],
            pass_fds=[] if share else [theirs.fileno()],
            stdin=subprocess.PIPE if share else None,
            stderr=subprocess.PIPE if block else None,
            env={**os.environ, **threaded},
        )
        if block and self.process.stderr:
            block.listen(io.TextIOWrapper(self.process.stderr, errors="replace"))
        if share and self.process.stdin:
            self.process.stdin.write(share(self.process.pid))
            self.process.stdin.close()
        theirs.close()
        self.line = ours.makefile("rw")

    def ask(self, message: dict[str, Any]) -> dict[str, Any]:
        """The worker's answer; a worker that died answers with how. Slurm's word that time is up reaches the job first, then
        the launcher, which queues it again."""
        try:
            with preemptible() as launcher:
                return self._ask(message)
        except Preempted:
            self.process.send_signal(signal.SIGTERM)
            self.line.readline()
            launcher(signal.SIGUSR2, None)
            return {"code": Interrupted.code, "error": "interrupted; the same command continues"}

    def _ask(self, message: dict[str, Any]) -> dict[str, Any]:
        try:
            self.line.write(json.dumps(message) + "\n")
            self.line.flush()
            if answer := self.line.readline():
                return json.loads(answer)
        except KeyboardInterrupt:
            self.process.send_signal(signal.SIGTERM)
            self.line.readline()
            return {"code": Interrupted.code, "error": "interrupted; the same command continues"}
        except OSError:
            pass  # it died while we wrote
        code = self.process.wait()
        how = (
            f"killed by {signal.Signals(-code).name}" if code < 0 else f"left with exit code {code}"
        )
        return {
            "code": code if code > 0 else 128 - code,
            "error": f"the worker was {how}" if code < 0 else f"the worker {how}",
        }


class Preempted(BaseException):
    """The time that Slurm gave this job is almost up."""


@contextmanager
def preemptible() -> Iterator[Callable[..., Any]]:
    """Inside, the signal by which Slurm says so raises Preempted; gives whoever else listens to it."""
    number = getattr(signal, "SIGUSR2", None)
    launcher = signal.getsignal(number) if number else None
    if (
        number is None
        or not callable(launcher)
        or threading.current_thread() is not threading.main_thread()
    ):
        yield lambda *_: None
        return

    def hear(*_: Any) -> None:
        raise Preempted

    signal.signal(number, hear)
    try:
        yield launcher
    finally:
        signal.signal(number, launcher)


def ranked() -> int:
    """Of a Slurm job with several tasks, each is a process of one group: its rank, told to the worker by the environment."""
    if (
        "SUBMITIT_EXECUTOR" in os.environ
        and int(os.environ.get("SLURM_NTASKS", 1)) > 1
        and "RANK" not in os.environ
    ):
        import submitit

        found = submitit.helpers.TorchDistributedEnvironment()
        for name in (
            "master_addr",
            "master_port",
            "rank",
            "world_size",
            "local_rank",
            "local_world_size",
        ):
            os.environ[name.upper()] = str(getattr(found, name))
    return int(os.environ.get("RANK", 0))


def worker(threads: int | None = None) -> Worker:
    """This process's worker; a new one if the last has died."""
    global _worker
    if _worker is None and not _driver:
        # without its driver a launcher's process would wait for ever
        watchdog.when_orphaned(lambda: os._exit(Interrupted.code))
    if _worker is None or _worker.process.poll() is not None:
        _worker = Worker(threads)
    return _worker


def begin(cfg: DictConfig) -> None:
    """Compose and check every job, give the sweep its folder and its own copy of conf/. ConfigError or DataError names the job.

    Only Hydra's basic sweeper knows its jobs beforehand; other sweepers' jobs are checked one by one as they come.
    """
    global _driver
    _driver = True
    watchdog.interrupt_once()
    os.environ[watchdog.DRIVER] = str(os.getpid())
    lay_out(cfg)
    if budget := cfg.hydra.sweeper.get("budget"):
        refuse_budget(cfg.hydra.overrides.task, budget)
    if cfg.hydra.sweeper._target_ not in (BASIC, LISTED):
        if cfg.plan:
            raise ConfigError(
                "plan",
                True,
                "must be false where the sweeper chooses its jobs as it goes: nobody knows them yet",
            )
        text = json.dumps([list(cfg.hydra.overrides.task), list(cfg.hydra.overrides.hydra)])
        register.name_sweep(hashlib.sha256(text.encode()).hexdigest()[:10])
        atomic_io.write_json(Path(cfg.hydra.sweep.dir) / COMMON, list(cfg.hydra.overrides.task))
        snapshot(Path(cfg.hydra.sweep.dir) / "conf")
        return
    jobs = compose(cfg)
    text = json.dumps([(j["config"], j["choices"]) for j in jobs], sort_keys=True)
    register.name_sweep(f"{hashlib.sha256(text.encode()).hexdigest()[:10]}")
    folder = Path(cfg.hydra.sweep.dir)
    places = lay_folders(cfg, jobs)
    left = [(n, j) for n, j in enumerate(jobs) if not finished(places[n], j)]
    common = sorted(set.intersection(*(set(j["overrides"]) for j in jobs)))
    if left:
        shared = f"; all have {' '.join(common)}" if common else ""
        console.print(
            f"checking {len(left)} jobs{shared}",
            highlight=False,
            markup=False,
            soft_wrap=not console.is_terminal,
        )
    if len(left) < len(jobs):
        console.print(
            f"{len(jobs) - len(left)} of {len(jobs)} jobs were done before; {folder}",
            highlight=False,
        )
    alone = cfg.hydra.launcher._target_ == BASIC_LAUNCHER  # no other process draws on the terminal
    display = Display(len(jobs), len(jobs) - len(left), common, live=alone and not cfg.plan)
    _display.append(display)
    for n, job in left:
        display.begin(f"checking {display.describe(n, job['overrides'])}")
        if not job["config"]["replace"]:  # else the job itself clears its folder
            ownership.fits(places[n], job["config"], job["choices"], "hydra.sweep.dir")
        answer = worker(threads(cfg)).ask(
            {"do": "check", "config": job["config"], "choices": job["choices"]}
        )
        if answer["code"]:
            raise JobFailure(
                f"job {n} ({' '.join(job['overrides'])}): {answer['error']}", answer["code"]
            )
    if cfg.plan:
        answer = worker(threads(cfg)).ask({"do": "plan", "jobs": jobs})
        if answer["code"]:
            raise JobFailure(answer["error"], answer["code"])
        sys.exit(0)
    _folder.append(folder)
    os.environ["PYTHONPATH"] = register.plugins_path()
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    planned = [
        {**j, "folder": os.path.relpath(p, folder)} for j, p in zip(jobs, places, strict=True)
    ]
    atomic_io.write_json(folder / JOBS, planned)
    atomic_io.write_json(folder / COMMON, common)
    snapshot(folder / "conf")


def lay_folders(cfg: DictConfig, jobs: Jobs) -> list[Path]:
    """The folder that Hydra will give each job, by `hydra.sweep.dir` and `hydra.sweep.subdir` as the job resolves them.

    Raises ConfigError if two jobs would share one.
    """
    composer, before = Composer(cfg), HydraConfig.instance().cfg
    places: list[Path] = []
    for number, job in enumerate(jobs):
        node = composer.naming(job["overrides"])
        with read_write(node.hydra), open_dict(node.hydra):
            node.hydra.job.id = node.hydra.job.num = number
        HydraConfig.instance().set_config(node)  # `${hydra:job.num}` reads it
        try:
            places.append(Path(node.hydra.sweep.dir) / node.hydra.sweep.subdir)
        finally:
            HydraConfig.instance().cfg = before
    seen: dict[Path, int] = {}
    for number, place in enumerate(places):
        if (first := seen.setdefault(place.absolute(), number)) != number:
            subdir = OmegaConf.to_container(cfg.hydra.sweep, resolve=False)["subdir"]  # type: ignore[index,call-overload]
            valid = f"jobs {first} and {number} would share the folder {place}; ${{hydra:job.num}} tells all jobs apart"
            raise ConfigError("hydra.sweep.subdir", subdir, valid)
    return places


def refuse_budget(overrides: Sequence[str], budget: str) -> None:
    """ConfigError if the user sets what each rung of hydra/sweeper=halving sets itself."""
    stage = budget.partition(".")[0]
    for override in overrides:
        key, _, value = override.lstrip("+").partition("=")
        if key in (budget, f"{stage}.schedule_length", f"{stage}.resume_from"):
            said = "is set by each rung of hydra/sweeper=halving; give it hydra.sweeper.least (the first rung) and"
            raise ConfigError(
                key, value, f"{said} hydra.sweeper.factor (how many times longer the next one is)"
            )


def lay_out(cfg: DictConfig) -> None:
    """Let the study, if the sweep is one, say which jobs there are, or what a sweeper that chooses them ranges over."""
    if not cfg.get("study"):
        return
    job = job_of(cfg)
    study = OmegaConf.to_container(cfg.study, resolve=True)
    answer = worker(threads(cfg)).ask({"do": "lay out", "study": study, **job})
    if answer["code"]:
        raise JobFailure(answer["error"], answer["code"])
    for override in cfg.hydra.overrides.task:
        key, _, value = override.partition("=")
        if key in answer["reserved_keys"]:
            raise ConfigError(
                key, value, f"is what the study ranges over; give it {answer['reserved_keys'][key]}"
            )
    with read_write(cfg), open_dict(cfg.hydra), open_dict(cfg.hydra.sweeper):
        if answer["jobs"]:
            cfg.hydra.sweeper._target_ = LISTED
            cfg.hydra.sweeper.jobs = answer["jobs"]
        if answer["looks"]:
            cfg.hydra.sweeper._target_ = UNTIL
            cfg.hydra.sweeper.looks = answer["looks"]
        if answer["candidates"]:
            cfg.hydra.sweeper = {
                "_target_": TIMED,
                "minutes": cfg.study.minutes,
                "candidates": answer["candidates"],
                "params": {},
            }
        cfg.hydra.sweeper.params = {**(cfg.hydra.sweeper.params or {}), **answer["grid"]}


def compose(cfg: DictConfig) -> Jobs:
    """Every job of the sweep, resolved, in the order in which Hydra will run them."""
    loader = GlobalHydra.instance().config_loader()
    given = [f"{k}={v}" for k, v in (cfg.hydra.sweeper.params or {}).items()] + list(
        cfg.hydra.overrides.task
    )
    overrides = OverridesParser.create(config_loader=loader).parse_overrides(given)
    (batch,) = BasicSweeper.split_arguments(overrides, None)
    jobs = []
    composer = Composer(cfg)
    for one in listed(batch, cfg.hydra.sweeper.get("jobs") or [[]]):
        jobs.append({"overrides": list(one), **job_of(composer.job(one))})
    return jobs


def job_of(cfg: DictConfig, hydra: Any = None) -> dict[str, Any]:
    """A job's resolved config and choices.

    A sweep's settings are compared, so its jobs cross-validate where the user left `val` at auto.
    Folds depend on the draw alone, so all jobs are judged on the same ones.
    """
    config = build.plain(cfg)
    if config["val"] == "auto":
        config["val"] = "cv"
    return {"config": config, "choices": build.choices(cfg, hydra)}


def snapshot(folder: Path) -> None:
    """Compose from a copy from now on. (Rebuilding the loader is the one private call of Hydra's we make.)"""
    loader: Any = GlobalHydra.instance().config_loader()
    for n, entry in enumerate(loader.get_search_path().get_path()):
        source = entry.path.removeprefix("file://")
        if "://" not in source and Path(source).is_dir():
            copy = (folder / str(n)).absolute()
            atomic_io.copy(Path(source), copy)
            entry.path = f"file://{copy}"
    type(loader).__init__(loader, loader.get_search_path())


def run(cfg: DictConfig) -> float:
    """One job, in the worker. Returns the validation's score (test is for reading, not for choosing), NaN if it failed."""
    hydra = HydraConfig.get()
    folder = Path(hydra.runtime.output_dir)
    job = job_of(cfg, hydra)
    if ranked():
        return follow(cfg, job)
    common = json.loads((Path(hydra.sweep.dir) / COMMON).read_text())
    display = display_of(Path(hydra.sweep.dir), common)
    name = display.describe(hydra.job.num, hydra.overrides.task)
    if finished(folder, job):
        result = results.read(folder)
        display.consider(name, result.validated)
        return result.chosen_by
    job["config"]["tracker"] = grouped(job["config"]["tracker"], Path(hydra.sweep.dir))
    siblings = str(Path(hydra.sweep.dir) / JOBS)
    alone = (
        recipe.overrides(job["config"], job["choices"])
        if cfg.get("study")
        else [*hydra_state.search_path(), *hydra.overrides.task]
    )
    if cfg.val == "auto" and not cfg.get("study"):
        alone.append(f"val={job['config']['val']}")
    command = ["python", "-m", "sft_exp", *alone]
    told = {
        "logging": logging_of(hydra),
        "siblings": siblings,
        "command": command,
        "varying": [o for o in hydra.overrides.task if o not in common],
    }
    display.begin(name)
    answer = worker(threads(hydra)).ask({"do": "run", **job, "folder": str(folder), **told})
    if answer["code"]:
        display.fail(name, answer["error"])
        if not ended(folder) and ownership.idle(folder):
            code = answer["code"]
            atomic_io.write_json(
                folder / "status.json",
                {"state": "failed", "exit_code": code, "resumable": True, "error": answer["error"]},
            )
        if answer["code"] == Interrupted.code and answer["error"].startswith("interrupted"):
            sys.exit(Interrupted.code)
        return float("nan")
    display.end(name, answer["val"], answer["test"])
    return answer["test"] if answer["val"] is None else answer["val"]


def display_of(sweep: Path, common: Sequence[str]) -> Display:
    """This process's display; in a launcher's process a new one, which prints a line for each job."""
    if not _display:
        planned = sweep / JOBS
        total = len(json.loads(planned.read_text())) if planned.exists() else None
        _display.append(Display(total, common=common))
    return _display[-1]


def logging_of(hydra: Any) -> dict[str, Any]:
    """Hydra's logging of a job with `hydra.verbose` applied, for `logging.config.dictConfig`; {} where it is off."""
    config: Any = OmegaConf.to_container(hydra.job_logging, resolve=True) or {}
    if not config.get("root"):
        return {}
    if hydra.verbose is True:
        config["root"]["level"] = "DEBUG"
    elif hydra.verbose:
        names = [hydra.verbose] if isinstance(hydra.verbose, str) else hydra.verbose
        loggers = config.setdefault("loggers", {})
        for name in names:
            loggers[name] = {**loggers.get(name, {}), "level": "DEBUG"}
    return config


def follow(cfg: DictConfig, job: dict[str, Any]) -> float:
    """The part of a job's processes that are not the first."""
    answer = worker(threads(HydraConfig.get())).ask({"do": "follow", **job})
    if answer["code"] not in (0, Interrupted.code):
        console.print(
            f"process {os.environ['RANK']}: {answer['error']}",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )
    return float("nan")


def lost(error: BaseException) -> int:
    """A launcher has lost a job: say so, show what there is, 6. The others may still be at work; nothing of them is lost."""
    print(f"sft_exp: a job was lost: {str(error).splitlines()[0]}", file=sys.stderr)
    print(
        "sft_exp: other jobs may still run; the same command again waits for them and does what is missing",
        file=sys.stderr,
    )
    if _folder:
        from sft_exp.compare import output

        output.finish(_folder[-1])
    return 6


def finish(cfg: DictConfig) -> int:
    """The table of the whole sweep, and what a study concludes; 6 if jobs failed, else 0."""
    from sft_exp.compare import output

    if _display:
        _display[-1].close()
    folder = Path(cfg.hydra.sweep.dir)
    undone = output.finish(folder)
    if study := build.study(cfg):
        from sft_exp.sweep import study as studies

        studies.finish(study, folder, shlex.join(["python", "-m", "sft_exp", *sys.argv[1:]]))
    return 6 if undone else 0


def finished(folder: Path, job: dict[str, Any]) -> bool:
    """Whether this very job is done: the same resolved config, whatever has happened to the store since."""
    try:
        done = json.loads((folder / "status.json").read_text())["state"] == "done"
    except (OSError, ValueError, KeyError):
        return False
    if not done or (result := results.read_if_complete(folder)) is None:
        return False
    same = {**result.config, **NEITHER} == {**job["config"], **NEITHER}
    return same and result.choices == job["choices"]


def ended(folder: Path) -> bool:
    """Whether the job itself has said how it ended; a worker that was killed leaves `running` behind."""
    try:
        return json.loads((folder / "status.json").read_text())["state"] in (
            "failed",
            "interrupted",
            "done",
        )
    except (OSError, ValueError, KeyError):
        return False


def grouped(tracker: dict[str, Any], sweep: Path) -> dict[str, Any]:
    """The sweep's runs belong together and lie in its folder, unless the user said otherwise."""
    usual = {"group": os.environ.get("WANDB_RUN_GROUP") or sweep.name, "dir": str(sweep)}
    parts = {name: grouped(part, sweep) for name, part in tracker.get("trackers", {}).items()}
    return {
        **tracker,
        **{key: value for key, value in usual.items() if key in tracker and tracker[key] is None},
        **({"trackers": parts} if parts else {}),
    }


def threads(hydra: Any) -> int | None:
    """CPU threads a worker may use where a launcher runs several at once; None: all."""
    jobs = (
        OmegaConf.select(hydra, "hydra.launcher.n_jobs")
        or OmegaConf.select(hydra, "launcher.n_jobs")
        or 1
    )
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    parallel = cores if jobs < 0 else jobs
    return max(1, cores // parallel) if parallel > 1 else None
