"""The command line: compose, check, run, and end with the exit code that says how it went."""

import os
import sys
import warnings
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig

from sft_exp.config import build, compose, help_text, register, sources
from sft_exp.config.build import plain
from sft_exp.config.hydra_state import VERSION_BASE
from sft_exp.config.rerun import again, flags_first, named
from sft_exp.config.weight_names import with_encoder
from sft_exp.errors import ConfigError, Interrupted
from sft_exp.execution import memo, ownership, watchdog
from sft_exp.failures import reported
from sft_exp.guidance import image_defaults

if TYPE_CHECKING:
    from sft_exp.jobs.stage_requests import Job


_prepared: list["Job"] = []  # checked before Hydra made a folder, waiting for the task function
_memos: list[memo.Memo] = []  # a run that is answered from its memo, likewise
_recorders: list[memo.Recorder] = []  # notes what a run prints, for its memo
_codes: list[int] = []  # how this process's single run ended

register.register()  # at import, so that a launcher's own processes can compose too
watchdog.end_with_driver()


def command(words: list[str]) -> NoReturn:
    """Do what the words of a command say, and leave with the exit code."""
    if "RANK" in os.environ:
        watchdog.end_with_parent()
    with reported():
        words = compose.with_multirun(compose.typed(flags_first(named(words))))
        words = with_encoder(again(words))
        words = image_defaults.with_defaults(words, silent=os.environ.get("RANK", "0") != "0")
    sys.argv[1:] = words
    if os.environ.get("RANK", "0") != "0":
        run_follower(words)
    # Hydra raises instead of printing, and we say it in our words
    os.environ["HYDRA_FULL_ERROR"] = "1"
    with reported():
        register.plug(register.plugins_in(words))
        if folder := register.config_dir_in(words):
            register.add_options(Path(folder).expanduser().resolve())
        one_each(words)
        if "RANK" in os.environ and {"-m", "--multirun"} & set(words):
            raise ConfigError(
                "--multirun",
                "torchrun",
                "each job starts its own processes: hardware=ddp hardware.processes=2",
            )
        # of Hydra 1.4, on every call of a program with callbacks or plugins of its own
        warnings.filterwarnings("ignore", r"hydra\.utils\.instantiate\(\) resolved _target_=")
        try:
            hydra.main(config_path=str(sources.CONF), config_name="config", **VERSION_BASE)(task)()
        except (KeyboardInterrupt, SystemExit) as ended:
            if isinstance(ended, SystemExit) and ended.code not in (Interrupted.code, 130):
                raise
            from sft_exp.sweep import sweeps

            code = sweeps.interrupted()
            sys.exit(ended.code if isinstance(ended, SystemExit) else code)
        except Exception as error:
            if type(error).__module__.partition(".")[0] not in ("submitit", "ray"):
                raise
            from sft_exp.sweep import sweeps

            sys.exit(sweeps.lost(error))  # a launcher has lost a job
    exit_process(max(_codes, default=0))


def run_follower(overrides: list[str]) -> NoReturn:
    """Work on the job of the first process that torchrun started. Hydra would make this one a run folder of its own."""
    from sft_exp.config import compose
    from sft_exp.execution import followers
    from sft_exp.jobs import prepare

    with reported():
        job = prepare.prepare(build.experiment(*compose.compose(overrides)))
        exit_process(followers.run_follower(job))
    raise AssertionError


def exit_process(code: int) -> NoReturn:
    if "RANK" in os.environ:
        from sft_exp.execution import followers

        followers.exit_process(code)
    sys.exit(code)


def one_each(overrides: list[str]) -> None:
    """Hydra would merge the options of `group=[a,b]` into one, and the last would win in silence. ConfigError."""
    for group, _, value in (o.partition("=") for o in overrides):
        if group in help_text.GROUPS and value.startswith("["):
            study = (
                f"study=label_efficiency 'study.pretrainers={value}', or "
                if group == "pretrainer"
                else ""
            )
            raise ConfigError(
                group,
                value,
                f"takes one option; for several: {study}-m {group}={value.strip('[]')}",
            )


def task(cfg: DictConfig) -> float:
    """One job. Returns the validation's score, for sweepers; failures become exit codes, not exceptions."""
    if HydraConfig.get().job.chdir:  # paths of a config are relative to where the command was typed
        os.chdir(HydraConfig.get().runtime.cwd)
    if HydraConfig.get().mode == RunMode.MULTIRUN:
        from sft_exp.sweep import sweeps

        return sweeps.run(cfg)
    with reported(leave=False) as ended:
        folder = Path(HydraConfig.get().runtime.output_dir)
        if _memos:
            known = _memos.pop()
            if known.recall(folder):
                return known.score
            _prepared.append(prepare(cfg, HydraConfig.get()))
        return run_prepared(cfg, folder)
    _codes.append(ended[0])
    return float("nan")


def run_prepared(cfg: DictConfig, folder: Path) -> float:
    """Run the job that was prepared, show its results, and keep a memo of it if nothing was
    computed."""
    from sft_exp.execution import session
    from sft_exp.reports import report

    job, config = _prepared.pop(), build.plain(cfg)
    recorder = _recorders.pop() if _recorders else None
    command = ["python", "-m", "sft_exp", *sys.argv[1:]]
    with recorder.listening(folder) if recorder else nullcontext():
        result = session.work(job, folder, config, command)
        if job.results:  # else the processes that worked on it have shown it
            report.show(job, result, folder, command)
    stored = [r for results in job.results.values() for r in results]
    if recorder and stored and all(r.cached for r in stored):
        used = [r.folder.name for r in stored]
        now = memo.key_of(config, job.experiment.choices, sys.argv[1:])
        recorder.keep(Path(job.experiment.store), folder, used, result.objective, now)
    return result.objective


class Line(Callback):
    """What happens around Hydra's jobs: everything is checked before anything is on disk, and a sweep ends with its table."""

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        with reported():
            values, choices = plain(config), build.choices(config, config.hydra)
            key = memo.key_of(values, choices, sys.argv[1:])
            if key and (known := memo.find(Path(values["store"]), key)):
                folder = run_folder(config)
                ownership.take(folder)
                ownership.refuse_other_results(folder, values, choices)
                _memos.append(known)
                return
            if key:
                _recorders.append(memo.Recorder(key))
            with _recorders[-1].listening() if key else nullcontext():
                job = prepare(config, config.hydra)
            if job.experiment.plan:
                planned(job)
            folder = run_folder(config)
            ownership.take(folder)  # before Hydra writes into it
            ownership.refuse_other_results(folder, plain(config), job.experiment.choices)
            _prepared.append(job)

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        from sft_exp.sweep import sweeps

        with reported():
            sweeps.begin(config)

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        if sys.exc_info()[0]:  # Hydra 1.4 calls this after an error or an exit, too
            return
        from sft_exp.sweep import sweeps

        with reported():
            sys.exit(sweeps.finish(config))


def run_folder(cfg: DictConfig) -> Path:
    """The folder that Hydra will make for a single run; what it resolves is kept, so that both resolve the same."""
    before = HydraConfig.instance().cfg
    HydraConfig.instance().set_config(cfg)  # `${hydra:...}` reads it
    try:
        return Path(str(cfg.hydra.run.dir))
    finally:
        HydraConfig.instance().cfg = before


def prepare(cfg: DictConfig, hydra_node: Any) -> "Job":
    from sft_exp.jobs import prepare

    return prepare.prepare(build.experiment(build.plain(cfg), build.choices(cfg, hydra_node)))


def planned(job: "Job") -> None:
    from sft_exp.core.tracker import Tracker
    from sft_exp.execution import pilot
    from sft_exp.reports import report
    from sft_exp.training.context import Context

    expected = pilot.estimate(job, Context.on(job.experiment.hardware, Tracker()))
    report.plan([job], expected.by_folder, expected.sentence)
    sys.exit(0)
