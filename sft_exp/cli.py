"""The command line: compose, check, run, and end with the exit code that says how it went."""

import errno
import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sft_exp import config, ownership
from sft_exp.config import plain
from sft_exp.errors import ConfigError, Failure, StorageError

if TYPE_CHECKING:
    from sft_exp.pipeline import Job

NOISE = ("full_key:", "reference_type=", "object_type=")  # lines of OmegaConf that name our classes, not the user's keys
TRACEBACK = os.environ.get("HYDRA_FULL_ERROR") == "1"
DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG, errno.EIO, errno.ENOTDIR, errno.EEXIST)
VALUED = (  # flags of Hydra that a value follows
    "--cfg", "-c", "--package", "-p", "--config-path", "-cp", "--config-name", "-cn", "--config-dir", "-cd",
    "--experimental-rerun", "--info", "-i",
)  # fmt: skip
_prepared: list["Job"] = []  # checked before Hydra made a folder, waiting for the task function
_codes: list[int] = []  # how this process's single run ended

config.register()  # at import, so that a launcher's own processes can compose too


def main() -> None:
    try:
        command(sys.argv[1:])
    except BrokenPipeError:  # whoever read our output has left: `--help | head`
        os.dup2(os.open(os.devnull, os.O_RDONLY), sys.stdout.fileno())  # else the interpreter would fail to flush it
        sys.exit(0)


def command(words: list[str]) -> NoReturn:
    """Do what the words of a command say, and leave with the exit code."""
    if {"--help", "-h"} & set(words):  # Hydra would list what our text does not show, for two seconds
        print(config.options_help().replace("$$", "$"), flush=True)
        sys.exit(0)
    with reported():
        words = again(config.without_nulls(flags_first(words)))
    sys.argv[1:] = words
    if os.environ.get("RANK", "0") != "0":
        follow(words)
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises instead of printing, and we say it in our words
    with reported():
        config.plug(config.plugins_in(words))
        one_each(words)
        if "RANK" in os.environ and {"-m", "--multirun"} & set(words):
            raise ConfigError("--multirun", "torchrun", "each job starts its own processes: hardware=ddp hardware.processes=2")
        hydra.main(version_base="1.3", config_path=str(config.CONF), config_name="config")(task)()
    leave(max(_codes, default=0))


def flags_first(words: list[str]) -> list[str]:
    """Hydra's flags before the overrides: its parser takes no override behind a flag that follows one (hydra issue 3133)."""
    flags, overrides, rest = [], [], iter(words)
    for word in rest:
        if not word.startswith("-"):
            overrides.append(word)
            continue
        flags.append(word)
        if word in VALUED and (value := next(rest, None)) is not None:
            flags.append(value)
    return [*flags, *overrides]


def again(words: list[str]) -> list[str]:
    """`--config-path RUN/.hydra --config-name config`, Hydra's way to run a saved config again, or the same with --config-dir, as
    the overrides that the run was started with. ConfigError if these no longer compose to what was saved."""
    at = next((n for n, w in enumerate(words[:-1]) if w in ("--config-path", "-cp", "--config-dir", "-cd")), None)
    if at is None:
        return words
    folder = Path(words[at + 1])
    if not all((folder / f"{name}.yaml").is_file() for name in ("config", "hydra", "overrides")):
        if words[at] in ("--config-path", "-cp"):
            valid = "must be the .hydra folder of a run; options of your own come by --config-dir FOLDER"
            raise ConfigError(words[at], words[at + 1], valid)
        return words
    rest = [*words[:at], *words[at + 2 :]]
    for flag in ("--config-name", "-cn"):
        if flag in rest:
            place = rest.index(flag)
            del rest[place : place + 2]
    overrides = [str(o) for o in OmegaConf.load(folder / "overrides.yaml")]
    same_as_saved(folder, overrides)
    first = next((n for n, w in enumerate(rest) if not w.startswith("-") and (n == 0 or rest[n - 1] not in VALUED)), len(rest))
    return [*rest[:first], *overrides, *rest[first:]]


def same_as_saved(folder: Path, overrides: list[str]) -> None:
    """ConfigError unless the overrides compose to the config that was saved: another version may have other defaults, and a saved
    file may have been edited."""
    from sft_exp import api

    composed, _ = api.compose(overrides)
    saved = config.plain(OmegaConf.load(folder / "config.yaml"))  # type: ignore[arg-type]
    theirs, ours = (flat({k: v for k, v in c.items() if k not in ("choices",)}) for c in (saved, composed))
    for key in sorted(theirs.keys() | ours.keys()):
        if theirs.get(key) != ours.get(key):
            valid = f"is what {folder}/config.yaml holds, but its overrides compose to {ours.get(key)}: give {key}=VALUE as well"
            raise ConfigError(key, theirs.get(key), f"{valid}, with python -m sft_exp {shlex.join(overrides)}")


def flat(node: Any, prefix: str = "") -> dict[str, Any]:
    """The leaves of a container by dotted key."""
    if not isinstance(node, dict) or not node:
        return {prefix.rstrip("."): node}
    return {k: v for key, value in node.items() for k, v in flat(value, f"{prefix}{key}.").items()}


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
    if HydraConfig.get().job.chdir:  # paths of a config are relative to where the command was typed
        os.chdir(HydraConfig.get().runtime.cwd)
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
            folder = run_folder(config)
            ownership.take(folder)  # before Hydra writes into it
            ownership.fits(folder, plain(config), job.experiment.choices)
            _prepared.append(job)

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        from sft_exp import sweeps

        with reported():
            sweeps.begin(config)

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        from sft_exp import sweeps

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
    except BrokenPipeError:
        raise
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
    if hints := unquoted(sys.argv[1:]):
        return "\n  ".join(hints)
    return "\n  ".join([*dict.fromkeys(lines), *suggestions(sys.argv[1:])])


def unquoted(words: list[str]) -> list[str]:
    """Each override whose value Hydra cannot read, or takes for several, as it must be typed."""
    multirun, found = {"-m", "--multirun"} & set(words), []
    for word in words:
        key, equals, value = word.partition("=")
        if word.startswith("-") or not equals or not value or value[0] in "[{'\"$":
            continue
        try:
            read = OverridesParser.create().parse_override(word)
            wrong = read.is_sweep_override() and not multirun and key.lstrip("+") not in config.GROUPS and "." in key
        except HydraException:
            wrong = True
        if wrong:
            escaped = value.replace('"', '\\"')
            typed = shlex.quote(f'{key}="{escaped}"')
            found.append(f"{word}: a value with = , blanks or brackets is typed in quotes within quotes: {typed}")
    return found


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
        if key in config.RETIRED:
            found.append(f"{key} is no more: {config.RETIRED[key]}")
        elif key not in known and not key.startswith("hydra") and "@" not in key and (meant := nearest(key, known)):
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
