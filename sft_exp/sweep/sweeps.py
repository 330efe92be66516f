"""Multiruns on Hydra's launchers: all jobs are checked before job 0 starts, and repeating the
command resumes them.

Hydra composes each job and calls the task function, in this process or in a launcher's; the task
function passes the resolved config to a worker subprocess, so that a crash loses one job. The
sweep's folder is named by the hash of its resolved jobs, which are composed from a copy of conf/ in
it, so that edits of the YAML files do not affect them.
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
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from sft_exp.config import build, hydra_state, recipe, register
from sft_exp.errors import ConfigError, Failure, Interrupted, StorageError, first_line
from sft_exp.execution import ownership, reaper, watchdog
from sft_exp.progress import console
from sft_exp.store import atomic_io, collect, results
from sft_exp.sweep import timed
from sft_exp.sweep.composition import Composer
from sft_exp.sweep.display import SHOWN, Display, varying
from sft_exp.sweep.job_list import listed

RAY_LAUNCHER = "hydra_plugins.hydra_ray_launcher.ray_launcher.RayLauncher"
BASIC_LAUNCHER = "hydra._internal.core_plugins.basic_launcher.BasicLauncher"
BASIC = f"{BasicSweeper.__module__}.{BasicSweeper.__name__}"
TIMED = "hydra_plugins.sft_exp_timed.TimedSweeper"
UNTIL = "hydra_plugins.sft_exp_until.UntilSweeper"
LISTED = "hydra_plugins.sft_exp_listed.ListedSweeper"
HALVING = "hydra_plugins.sft_exp_halving.HalvingSweeper"
# Keys by which the sweepers of Optuna, Nevergrad and Ax maximise; their defaults minimise.
MAXIMISED = {
    "direction": "maximize",
    "optim.maximize": True,
    "ax_config.experiment.minimize": False,
}
OWN_SWEEPERS = (BASIC, LISTED, HALVING, TIMED, UNTIL)
JOBS = "jobs.json"  # in the sweep's folder: every job's overrides, resolved config and choices
COMMON = "common.json"  # in the sweep's folder: the overrides that all its jobs share
# keys that do not distinguish jobs
UNCOMPARED: dict[str, None] = dict.fromkeys(("tracker", "replace", "store_max_gb"))
Jobs = list[dict[str, Any]]
_worker: "Worker | None" = None  # of this process
_display: list[Display] = []  # of the sweep that this process began or runs jobs of
_folder: list[Path] = []  # of the sweep that this process began
_driver = False  # whether this process began the sweep and was not started by its launcher


class JobFailure(Failure):
    def __init__(self, text: str, code: int):
        super().__init__(text)
        self.code = code


class Worker:
    """A subprocess that runs jobs, and the connection to it."""

    def __init__(self, threads: int | None):
        ours, theirs = socket.socketpair()
        # another program of this terminal would draw into the block
        piped = console.is_terminal and (_driver or SHOWN in os.environ)
        variables = {"OMP_NUM_THREADS": str(threads)} if threads else {}
        share = getattr(theirs, "share", None)  # only on Windows, where sockets are not inherited
        descriptor = "-" if share else str(theirs.fileno())
        child = ["sft_exp.execution.child", str(os.getpid()), "sft_exp.sweep.worker", descriptor]
        self.process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
            [sys.executable, "-m", *child],
            pass_fds=[] if share else [theirs.fileno()],
            stdin=subprocess.PIPE if share else None,
            stderr=subprocess.PIPE if piped else None,
            env={**os.environ, **variables},
        )
        if self.process.stderr:
            listen(io.TextIOWrapper(self.process.stderr, errors="replace"))
        if share and self.process.stdin:
            self.process.stdin.write(share(self.process.pid))
            self.process.stdin.close()
        theirs.close()
        self.line = ours.makefile("rw")

    def ask(self, message: dict[str, Any]) -> dict[str, Any]:
        """The worker's answer, or how the worker died.

        When Slurm announces the end of the job's time, the worker is stopped first and the launcher
        notified next, which queues the job again.
        """
        try:
            with preemptible() as launcher:
                self.line.write(json.dumps(message) + "\n")
                self.line.flush()
                if answer := self.line.readline():
                    return json.loads(answer)
        except Preempted:
            stopped = self.stop()
            launcher(signal.SIGUSR2, None)
            return stopped
        except KeyboardInterrupt:
            return self.stop()
        except OSError:
            pass  # the worker died during the write
        code = self.process.wait()
        if code < 0:
            killer = signal.Signals(-code).name
            return {"code": 128 - code, "error": f"the worker was killed by {killer}"}
        return {"code": code or 128, "error": f"the worker left with exit code {code}"}

    def stop(self) -> dict[str, Any]:
        """Stop the current job, which writes a checkpoint first; returns the answer of an
        interrupted job."""
        with suppress(OSError):  # Ctrl-C reaches the worker, too, which may have ended
            self.process.send_signal(signal.SIGTERM)
            self.line.readline()
        return {"code": Interrupted.code, "error": "interrupted; the same command continues"}


def listen(stream: IO[str]) -> None:
    """Read a worker's messages from its stderr until it ends, in a thread of its own, and show them
    where this process shows its jobs."""

    def read() -> None:
        for line in stream:
            (_display[-1] if _display else Display(None)).show_message(line.rstrip("\n"))

    threading.Thread(target=read, daemon=True).start()


class Preempted(BaseException):
    """Slurm has announced the end of this job's time."""


@contextmanager
def preemptible() -> Iterator[Callable[..., Any]]:
    """Inside, the signal with which Slurm announces the end of the time raises Preempted; yields
    the launcher's handler."""
    number = getattr(signal, "SIGUSR2", None)
    launcher = signal.getsignal(number) if number else None
    in_main = threading.current_thread() is threading.main_thread()
    if number is None or not callable(launcher) or not in_main:
        yield lambda *_: None
        return

    def preempt(*_: Any) -> None:
        raise Preempted

    signal.signal(number, preempt)
    try:
        yield launcher
    finally:
        signal.signal(number, launcher)


def ranked() -> int:
    """This process's rank, 0 outside of a process group.

    The tasks of a Slurm job form one group; its environment variables are set here for the worker.
    """
    tasks = int(os.environ.get("SLURM_NTASKS", 1)) if "SUBMITIT_EXECUTOR" in os.environ else 1
    if tasks > 1 and "RANK" not in os.environ:
        import submitit

        group = submitit.helpers.TorchDistributedEnvironment()
        for name in ("master_addr", "master_port", "rank", "world_size", "local_rank"):
            os.environ[name.upper()] = str(getattr(group, name))
        os.environ["LOCAL_WORLD_SIZE"] = str(group.local_world_size)
    return int(os.environ.get("RANK", 0))


def worker(threads: int | None = None) -> Worker:
    """This process's worker; a new one if the last has died."""
    global _worker
    if _worker is None and not _driver:
        # without its driver a launcher's process would wait forever
        watchdog.when_orphaned(lambda: os._exit(Interrupted.code))
    if _worker is None or _worker.process.poll() is not None:
        _worker = Worker(threads)
    return _worker


def begin(cfg: DictConfig) -> None:
    """Compose and check every job, and create the sweep's folder with a copy of conf/.

    Only Hydra's basic sweeper knows its jobs beforehand; other sweepers' jobs are checked when they
    start.

    Raises:
        ConfigError, JobFailure: a job cannot run; the message names it.
    """
    global _driver
    _driver = True
    watchdog.interrupt_once()
    os.environ[watchdog.DRIVER] = str(os.getpid())
    if starts_ray(cfg):
        reaper.start(os.getpid())
    hydra_state.let_sweepers_be_filled_in()
    lay_out(cfg)
    if budget := cfg.hydra.sweeper.get("budget"):
        refuse_budget(cfg.hydra.overrides.task, budget)
    if cfg.hydra.sweeper._target_ not in (BASIC, LISTED):
        if cfg.plan and cfg.hydra.sweeper._target_ == TIMED:
            names = [candidate["name"] for candidate in cfg.hydra.sweeper.candidates]
            console.message(timed.outline(cfg.study.budget, names))
            sys.exit(0)
        if cfg.plan:
            problem = "must be false where the sweeper chooses its jobs as it goes"
            raise ConfigError("plan", True, problem)
        if cfg.hydra.sweeper._target_ not in (TIMED, UNTIL):
            choose_by_validation(cfg)
        text = json.dumps([list(cfg.hydra.overrides.task), list(cfg.hydra.overrides.hydra)])
        register.name_sweep(name := hashlib.sha256(text.encode()).hexdigest()[:10])
        if chooses_anew(cfg):
            take_unused_folder(cfg, name)
        atomic_io.write_json(Path(cfg.hydra.sweep.dir) / COMMON, list(cfg.hydra.overrides.task))
        snapshot(Path(cfg.hydra.sweep.dir) / "conf")
        # how many jobs there will be is not known, nor where a launcher's processes work
        alone = cfg.hydra.launcher._target_ == BASIC_LAUNCHER
        _display.append(Display(None, common=list(cfg.hydra.overrides.task), live=alone))
        return
    if cfg.plan:
        worker(threads(cfg))  # which imports what its checks need while the jobs are composed
    composer = Composer(cfg)
    jobs = compose(cfg, composer)
    text = json.dumps([(j["config"], j["choices"]) for j in jobs], sort_keys=True)
    register.name_sweep(hashlib.sha256(text.encode()).hexdigest()[:10])
    folder = Path(cfg.hydra.sweep.dir)
    places = lay_folders(cfg, jobs, composer)
    left = [(n, j) for n, j in enumerate(jobs) if not finished(places[n], j)]
    common = sorted(set.intersection(*(set(j["overrides"]) for j in jobs)))
    if left:
        shared = f"; all have {' '.join(common)}" if common else ""
        text = f"checking {len(left)} jobs{shared}"
        whole = not console.is_terminal  # on a terminal it wraps between words
        console.print(text, highlight=False, markup=False, soft_wrap=whole)
    if len(left) < len(jobs):
        console.message(f"{len(jobs) - len(left)} of {len(jobs)} jobs were done before; {folder}")
    display = Display(len(jobs), len(jobs) - len(left), common, live=not cfg.plan)
    _display.append(display)
    for n, job in left:
        display.begin(f"checking {display.describe(n, job['overrides'])}")
        config, choices = job["config"], job["choices"]
        # the job itself clears its folder
        ownership.refuse_other_results(places[n], config, choices, "hydra.sweep.dir", clear=False)
        request = {"do": "check", "config": config, "choices": choices}
        answer = worker(threads(cfg)).ask(request)
        if answer["code"] == Interrupted.code:
            sys.exit(Interrupted.code)
        if answer["code"]:
            problem = f"job {n} ({' '.join(job['overrides'])}): {answer['error']}"
            raise JobFailure(problem, answer["code"])
    if cfg.plan:
        answer = worker(threads(cfg)).ask({"do": "plan", "jobs": jobs})
        if answer["code"]:
            raise JobFailure(answer["error"], answer["code"])
        sys.exit(0)
    if cfg.hydra.launcher._target_ == BASIC_LAUNCHER:  # other machines may see other disks
        for store in dict.fromkeys(j["config"]["store"] for _, j in left):
            try:
                atomic_io.require_writable(Path(store))
            except StorageError as error:
                raise StorageError(f"store={error}") from error
    _folder.append(folder)
    os.environ["PYTHONPATH"] = register.plugins_path()
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if cfg.hydra.sweeper._target_ == BASIC:  # it would compose every job once more
        with read_write(cfg.hydra), open_dict(cfg.hydra.sweeper):
            cfg.hydra.sweeper._target_, cfg.hydra.sweeper.jobs = LISTED, [[]]
    planned = [
        {**j, "folder": os.path.relpath(p, folder)} for j, p in zip(jobs, places, strict=True)
    ]
    atomic_io.write_json(folder / JOBS, planned)
    atomic_io.write_json(folder / COMMON, common)
    snapshot(folder / "conf")
    if not left:  # Hydra would compose every job twice to run none
        sys.exit(finish(cfg))
    if display.live and cfg.hydra.launcher._target_ != BASIC_LAUNCHER:
        display.begin("")
        os.environ[SHOWN] = "1"  # for the launcher's processes
        display.watch({places[n]: display.describe(n, job["overrides"]) for n, job in left})


def starts_ray(cfg: DictConfig) -> bool:
    """Whether the launcher starts a Ray of its own, rather than join a cluster."""
    launcher = cfg.hydra.launcher
    return launcher._target_ == RAY_LAUNCHER and launcher.ray.init.get("address") is None


def chooses_anew(cfg: DictConfig) -> bool:
    """Whether the same command has other jobs each time: with a sweeper that draws them without a
    seed, or goes on from trials that it has stored."""
    sweeper = cfg.hydra.sweeper
    if sweeper._target_ in OWN_SWEEPERS:
        return False
    seeds = [sweeper.get("seed"), (sweeper.get("sampler") or {}).get("seed")]
    return sweeper.get("storage") is not None or seeds == [None, None]


def take_unused_folder(cfg: DictConfig, name: str) -> None:
    """Name the sweep NAME-2, NAME-3, ... if the folder of NAME exists, so that new jobs do not meet
    the results of earlier ones; a folder that the user has named stays."""
    folder, number = Path(cfg.hydra.sweep.dir), 1
    while folder.exists():
        number += 1
        register.name_sweep(f"{name}-{number}")
        OmegaConf.clear_cache(cfg)
        if folder == (folder := Path(cfg.hydra.sweep.dir)):
            return


def lay_folders(cfg: DictConfig, jobs: Jobs, composer: Composer) -> list[Path]:
    """The folder that Hydra will give each job.

    Raises ConfigError if two jobs would share one.
    """
    places = [composer.folder(job["overrides"], number) for number, job in enumerate(jobs)]
    users: dict[Path, int] = {}  # folder -> the first job with it
    for number, place in enumerate(places):
        if (first := users.setdefault(place.absolute(), number)) != number:
            subdir = OmegaConf.to_container(cfg.hydra.sweep, resolve=False)["subdir"]  # type: ignore[index,call-overload]
            problem = f"jobs {first} and {number} would share the folder {place}; ${{hydra:job.num}} tells all jobs apart"
            raise ConfigError("hydra.sweep.subdir", subdir, problem)
    return places


def refuse_budget(overrides: Sequence[str], budget: str) -> None:
    """ConfigError if the user sets a key that hydra/sweeper=halving sets for each rung."""
    stage = budget.partition(".")[0]
    for override in overrides:
        key, _, value = override.lstrip("+").partition("=")
        if key in (budget, f"{stage}.schedule_length", f"{stage}.resume_from"):
            problem = (
                "is set by each rung of hydra/sweeper=halving; give it hydra.sweeper.least (the first rung) and "
                "hydra.sweeper.factor (how many times longer the next one is)"
            )
            raise ConfigError(key, value, problem)


def choose_by_validation(cfg: DictConfig) -> None:
    """Have a sweeper that chooses by scores maximise those of validation.

    Raises:
        ConfigError: the jobs have no validation scores, or the user set the sweeper to minimise.
    """
    name = cfg.hydra.runtime.choices["hydra/sweeper"]
    if job_of(cfg)["config"]["val"] == "none":
        problem = f"must be cv, holdout or full: hydra/sweeper={name} chooses by validation scores"
        raise ConfigError("val", "none", problem)
    given = {override.lstrip("+").partition("=")[0] for override in cfg.hydra.overrides.hydra}
    for field, maximised in MAXIMISED.items():
        key, value = f"hydra.sweeper.{field}", OmegaConf.select(cfg.hydra.sweeper, field)
        if value is None or getattr(value, "name", value) == maximised:
            continue
        if key in given:
            raise ConfigError(key, value, f"must be {maximised}: the higher a score, the better")
        with read_write(cfg.hydra):
            OmegaConf.update(cfg.hydra.sweeper, field, maximised)


def lay_out(cfg: DictConfig) -> None:
    """Configure the sweeper with the jobs, looks or grid of the sweep's study, if it has one."""
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
    with read_write(cfg.hydra), open_dict(cfg.hydra), open_dict(cfg.hydra.sweeper):
        if answer["jobs"]:
            cfg.hydra.sweeper._target_ = LISTED
            cfg.hydra.sweeper.jobs = answer["jobs"]
        if answer["looks"]:
            cfg.hydra.sweeper._target_ = UNTIL
            cfg.hydra.sweeper.looks = answer["looks"]
        if answer["candidates"]:
            cfg.hydra.sweeper = {
                "_target_": TIMED,
                "budget": cfg.study.budget,
                "candidates": answer["candidates"],
                "params": {},
            }
        cfg.hydra.sweeper.params = {**(cfg.hydra.sweeper.params or {}), **answer["grid"]}


def compose(cfg: DictConfig, composer: Composer) -> Jobs:
    """Every job of the sweep, resolved, in the order in which Hydra will run them."""
    loader = GlobalHydra.instance().config_loader()
    words = [f"{key}={values}" for key, values in (cfg.hydra.sweeper.params or {}).items()]
    words += list(cfg.hydra.overrides.task)
    overrides = OverridesParser.create(config_loader=loader).parse_overrides(words)
    (batch,) = BasicSweeper.split_arguments(overrides, None)
    return [
        {"overrides": list(job), **as_job(*composer.plain(job))}
        for job in listed(batch, cfg.hydra.sweeper.get("jobs") or [[]])
    ]


def job_of(cfg: DictConfig, hydra: Any = None) -> dict[str, Any]:
    """A job's resolved config and choices."""
    return as_job(build.plain(cfg), build.choices(cfg, hydra))


def as_job(config: dict[str, Any], choices: dict[str, str]) -> dict[str, Any]:
    """The config and choices of a sweep's job.

    A sweep compares settings, so its jobs cross-validate under `val=auto`. Folds depend on the draw
    alone, so all jobs are compared on the same ones. Under `seeds=auto` each has one seed: `seed=0,1,2`
    repeats the jobs that are worth it.
    """
    defaults = {"val": "cv", "seeds": 1}
    return {
        "config": config | {k: v for k, v in defaults.items() if config.get(k) == "auto"},
        "choices": choices,
    }


def snapshot(folder: Path) -> None:
    """Copy the configuration folders and compose from the copies from now on."""
    loader: Any = GlobalHydra.instance().config_loader()
    for n, entry in enumerate(loader.get_search_path().get_path()):
        source = entry.path.removeprefix("file://")
        if "://" not in source and Path(source).is_dir():
            copy = (folder / str(n)).absolute()
            atomic_io.copy(Path(source), copy)
            entry.path = f"file://{copy}"
    type(loader).__init__(loader, loader.get_search_path())  # Hydra has no public way to rebuild it


def run(cfg: DictConfig) -> float:
    """Run one job in the worker. Returns its validation score, which sweepers maximise; NaN without
    one, or if it failed."""
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
        display.consider(name, result.validated, result.kind)
        return result.objective
    job["config"]["tracker"] = grouped(job["config"]["tracker"], Path(hydra.sweep.dir))
    if cfg.get("study"):
        overrides = recipe.overrides(job["config"], job["choices"])
    else:
        overrides = [*hydra_state.search_path(), *hydra.overrides.task]
        overrides += [f"val={job['config']['val']}"] if cfg.val == "auto" else []
    request = {
        "do": "run",
        **job,
        "folder": str(folder),
        "logging": logging_of(hydra),
        "siblings": str(Path(hydra.sweep.dir) / JOBS),
        "command": ["python", "-m", "sft_exp", *overrides],
        "varying": varying(hydra.overrides.task, common),
    }
    display.begin(name)
    answer = worker(threads(hydra)).ask(request)
    if code := answer["code"]:
        error = answer["error"]
        display.fail(name, error)
        if state(folder) not in ("failed", "interrupted", "done") and ownership.idle(folder):
            status = {"state": "failed", "exit_code": code, "resumable": True, "error": error}
            atomic_io.write_json(folder / "status.json", status)
        if code == Interrupted.code and error.startswith("interrupted"):
            sys.exit(Interrupted.code)
        return float("nan")
    display.end(name, answer["val"], answer["test"], answer["kind"])
    return float("nan") if answer["val"] is None else answer["val"]


def display_of(sweep: Path, common: Sequence[str]) -> Display:
    """This process's display; in a launcher's process a new one, which prints a line for each
    job."""
    if not _display:
        planned = sweep / JOBS
        total = len(json.loads(planned.read_text())) if planned.exists() else None
        silent = SHOWN in os.environ and console.is_terminal
        _display.append(Display(total, common=common, silent=silent))
    return _display[-1]


def logging_of(hydra: Any) -> dict[str, Any]:
    """Hydra's logging of a job with `hydra.verbose` applied, for `logging.config.dictConfig`; {}
    where it is off."""
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
    """Run a job's part in a process that is not rank 0."""
    answer = worker(threads(HydraConfig.get())).ask({"do": "follow", **job})
    if answer["code"] not in (0, Interrupted.code):
        console.message(f"process {os.environ['RANK']}: {answer['error']}")
    return float("nan")


def lost(error: BaseException) -> int:
    """Report a job that a launcher has lost and print the results so far; returns exit code 6.
    Other jobs may still run."""
    print(f"sft_exp: a job was lost: {first_line(error)}", file=sys.stderr)
    print(
        "sft_exp: other jobs may still run; the same command again waits for them and does what is missing",
        file=sys.stderr,
    )
    if _folder:
        from sft_exp.compare import output

        output.finish(_folder[-1])
    return 6


def interrupted() -> int:
    """Say how far the sweep came, whose jobs were asked to stop; returns the exit code."""
    if not _driver or not _display:
        return 130
    _display[-1].interrupt()
    return Interrupted.code


def finish(cfg: DictConfig) -> int:
    """Print the sweep's table and write a study's conclusion; returns exit code 6 if jobs failed,
    else 0."""
    from sft_exp.compare import output

    if _display:
        _display[-1].close()
    folder = Path(cfg.hydra.sweep.dir)
    missing = output.finish(folder) or any(display.failed for display in _display)
    if study := build.study(cfg):
        from sft_exp.sweep import study as studies

        studies.finish(study, folder, shlex.join(["python", "-m", "sft_exp", *sys.argv[1:]]))
    collect.shrink(Path(cfg.store), folder, cfg.store_max_gb)
    return 6 if missing else 0


def finished(folder: Path, job: dict[str, Any]) -> bool:
    """Whether the folder holds finished results of the same resolved config, even if the store has
    changed since."""
    if state(folder) != "done" or (result := results.read_if_complete(folder)) is None:
        return False
    same = {**result.config, **UNCOMPARED} == {**job["config"], **UNCOMPARED}
    return same and result.choices == job["choices"]


def state(folder: Path) -> str | None:
    """The state in a job's status.json, which stays `running` if its worker was killed; None
    without one."""
    return ownership.read(folder / "status.json").get("state")


def grouped(tracker: dict[str, Any], sweep: Path) -> dict[str, Any]:
    """The tracker's config with the sweep as its group and folder, unless the user has set them."""
    defaults = {"group": os.environ.get("WANDB_RUN_GROUP") or sweep.name, "dir": str(sweep)}
    parts = {name: grouped(part, sweep) for name, part in tracker.get("trackers", {}).items()}
    unset = {key: v for key, v in defaults.items() if key in tracker and tracker[key] is None}
    return tracker | unset | ({"trackers": parts} if parts else {})


def threads(hydra: Any) -> int | None:
    """CPU threads of a worker where a launcher runs several at once; None: all."""
    keys = ("hydra.launcher.n_jobs", "launcher.n_jobs")
    jobs = next((n for key in keys if (n := OmegaConf.select(hydra, key))), 1)
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    parallel = cores if jobs < 0 else jobs
    return max(1, cores // parallel) if parallel > 1 else None
