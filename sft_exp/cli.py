"""The command line: compose, check, run, and end with the exit code that says how it went."""

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sft_exp import config
from sft_exp.errors import ConfigError, Failure, StorageError

if TYPE_CHECKING:
    from sft_exp.pipeline import Job

NOISE = ("full_key:", "reference_type=", "object_type=")  # lines of OmegaConf that name our classes, not the user's keys
TRACEBACK = os.environ.get("HYDRA_FULL_ERROR") == "1"
DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG, errno.EIO, errno.ENOTDIR, errno.EEXIST)
_prepared: list["Job"] = []  # checked before Hydra made a folder, waiting for the task function
_codes: list[int] = []  # how this process's single run ended

config.register()  # at import, so that a launcher's own processes can compose too


def main() -> None:
    if {"--help", "-h"} & set(sys.argv[1:]):  # Hydra would list what our text does not show, for two seconds
        print(config.options_help().replace("$$", "$"))
        sys.exit(0)
    if os.environ.get("RANK", "0") != "0":
        follow(sys.argv[1:])
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises instead of printing, and we say it in our words
    with reported():
        config.plug(config.plugins_in(sys.argv[1:]))
        one_each(sys.argv[1:])
        if "RANK" in os.environ and {"-m", "--multirun"} & set(sys.argv[1:]):
            raise ConfigError("--multirun", "torchrun", "each job starts its own processes: hardware=ddp hardware.processes=2")
        hydra.main(version_base="1.3", config_path=str(config.CONF), config_name="config")(task)()
    leave(max(_codes, default=0))


def follow(overrides: list[str]) -> NoReturn:
    """Work on the job of the first process that torchrun started. Hydra would make this one a run folder of its own."""
    from sft_exp import api, pipeline, together

    with reported():
        job = pipeline.prepare(config.experiment(*api.compose(overrides)))
        leave(together.follow(job))
    raise AssertionError


def leave(code: int) -> NoReturn:
    if "RANK" in os.environ:
        from sft_exp import together

        together.leave(code)
    sys.exit(code)


def one_each(overrides: list[str]) -> None:
    """Hydra would merge the options of `group=[a,b]` into one, and the last would win in silence. ConfigError."""
    for group, _, value in (o.partition("=") for o in overrides):
        if group in config.GROUPS and value.startswith("["):
            study = f"study=label_efficiency 'study.pretrainers={value}', or " if group == "pretrainer" else ""
            raise ConfigError(group, value, f"takes one option; for several: {study}-m {group}={value.strip('[]')}")


def task(cfg: DictConfig) -> float:
    """One job. Returns the validation's score, for sweepers; failures become exit codes, not exceptions."""
    if HydraConfig.get().mode == RunMode.MULTIRUN:
        from sft_exp import sweeps

        return sweeps.run(cfg)
    from sft_exp import session
    from sft_exp.reports import report

    with reported(leave=False) as ended:
        job, folder = _prepared.pop(), Path(HydraConfig.get().runtime.output_dir)
        command = ["python", "-m", "sft_exp", *sys.argv[1:]]
        result = session.work(job, folder, config.plain(cfg), command)
        if job.results:  # else the processes that worked on it have shown it
            report.show(job, result, folder, command)
        return result["val"].get(result["score"], result["test"][result["score"]])
    _codes.append(ended[0])
    return float("nan")


class Line(Callback):
    """What happens around Hydra's jobs: everything is checked before anything is on disk, and a sweep ends with its table."""

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        with reported():
            job = prepare(config, config.hydra)
            if job.experiment.plan:
                planned([job])
            _prepared.append(job)

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        from sft_exp import sweeps

        with reported():
            sweeps.begin(config)

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        from sft_exp import sweeps

        with reported():
            sys.exit(sweeps.finish(config))


def prepare(cfg: DictConfig, hydra_node: Any) -> "Job":
    from sft_exp import pipeline

    return pipeline.prepare(config.experiment(config.plain(cfg), config.choices(cfg, hydra_node)))


def planned(jobs: list["Job"]) -> None:
    from sft_exp.reports import report

    report.plan(jobs)
    sys.exit(0)


@contextmanager
def reported(leave: bool = True) -> Iterator[list[int]]:
    """Say a failure in one message and leave with its exit code; with `leave=False` only note the code."""
    code: list[int] = []
    try:
        yield code
    except Failure as error:
        code.append(error.code)
        say(error, str(error))
    except (HydraException, OmegaConfBaseException) as error:
        code.append(2)
        say(error, explain(error))
    except KeyboardInterrupt:
        sys.exit(130)  # before or after a run; during one, the run hears it and leaves a checkpoint
    except OSError as error:
        disk = error.errno in DISK
        code.append(StorageError.code if disk else 1)
        say(error, f"{'' if disk else 'a bug, please report it: '}{error.filename}: {error.strerror or error}", always=not disk)
    except Exception as error:  # noqa: BLE001 - Hydra swallows what callbacks raise; nothing may pass unseen
        if type(error).__module__.partition(".")[0] in ("submitit", "ray"):
            from sft_exp import sweeps

            sys.exit(sweeps.lost(error))
        code.append(1)
        say(error, f"a bug, please report it: {type(error).__name__}: {error}", always=True)
    if code and leave:
        sys.exit(code[0])


def say(error: BaseException, text: str, always: bool = False) -> None:
    if TRACEBACK or always:
        import traceback

        traceback.print_exception(error)
    print(f"sft_exp: {text}", file=sys.stderr)


def explain(error: BaseException) -> str:
    """Hydra's complaint, and the closest valid word for each override that names nothing."""
    lines = [line for line in str(error).splitlines() if line.strip() and not line.startswith(("    ", "Set the environment"))]
    if error.__cause__ is not None and str(error.__cause__) not in str(error):
        lines += [line for line in str(error.__cause__).splitlines() if line.strip() and not line.strip().startswith(NOISE)]
    return "\n  ".join([*dict.fromkeys(lines), *suggestions(sys.argv[1:])])


def suggestions(overrides: list[str]) -> list[str]:
    """`optm=adam` -> did you mean optim=adam?"""
    from hydra import compose
    from hydra.core.global_hydra import GlobalHydra

    found = []
    given = [o.lstrip("+~").partition("=") for o in overrides if "=" in o and not o.startswith("-")]
    groups = {key: value for key, _, value in given if key in config.GROUPS and value}
    for group, value in groups.items():
        valid = list(config.options(group))
        for option in value.split(","):
            if option not in valid and (close := get_close_matches(option, valid, n=1)):
                found.append(f"{group}={option}: did you mean {group}={close[0]}?")
    if not GlobalHydra.instance().is_initialized():
        hydra.initialize_config_dir(str(config.CONF), version_base="1.3")
    sound = [f"{g}={v}" for g, v in groups.items() if v in config.options(g)]
    try:
        known = [*config.GROUPS, *dotted(OmegaConf.to_container(compose("config", overrides=sound), resolve=False))]
    except (HydraException, OmegaConfBaseException):  # what is wrong is in a YAML, and has been said
        return found
    for key, _, value in given:
        if key not in known and not key.startswith("hydra") and "@" not in key and (meant := nearest(key, known)):
            found.append(f"{key}={value}: did you mean {meant}={value}?")
    return found


def nearest(key: str, known: list[str]) -> str | None:
    """The valid key that differs from this one by a slip: in its last word, if what comes before it is right."""
    node, _, word = key.rpartition(".")
    beside = {k.rpartition(".")[2]: k for k in known if k.rpartition(".")[0] == node}
    close = get_close_matches(word, list(beside), n=1)
    return beside[close[0]] if close else next(iter(get_close_matches(key, known, n=1, cutoff=0.8)), None)


def dotted(node: Any, prefix: str = "") -> list[str]:
    """Every key below a container, with dots."""
    if not isinstance(node, dict):
        return []
    return [f"{prefix}{k}" for k in node] + [d for k, v in node.items() for d in dotted(v, f"{prefix}{k}.")]
