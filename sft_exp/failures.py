"""Exceptions as messages and exit codes: what failed, where, and what would be valid."""

import errno
import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

import hydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sft_exp.config import build, help_text, hydra_state, register, sources
from sft_exp.errors import ConfigError, Failure, StorageError
from sft_exp.progress import LOG

if TYPE_CHECKING:
    pass


# lines of OmegaConf that name our classes, not the user's keys
NOISE = ("full_key:", "reference_type=", "object_type=")
DOCTOR = "\n  `sft_exp doctor RUN` packs what the report needs (RUN is the run folder)"
TRACEBACK = os.environ.get("HYDRA_FULL_ERROR") == "1"
DISK = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.EFBIG,
    errno.EIO,
    errno.ENOTDIR,
    errno.EEXIST,
)


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
        say(
            error,
            f"{'' if disk else 'a bug, please report it: '}{error.filename}: {error.strerror or error}"
            f"{'' if disk else DOCTOR}",
            always=not disk,
        )
    except Exception as error:  # noqa: BLE001 - Hydra swallows what callbacks raise; nothing may pass unseen
        code.append(1)
        say(error, f"a bug, please report it: {type(error).__name__}: {error}{DOCTOR}", always=True)
    if code and leave:
        sys.exit(code[0])


def say(error: BaseException, text: str, always: bool = False) -> None:
    if TRACEBACK or always:
        import traceback

        traceback.print_exception(error)
    LOG.error("%s", text)
    print(f"sft_exp: {text}", file=sys.stderr)


@contextmanager
def translated(overrides: list[str]) -> Iterator[None]:
    """Raise what Hydra and OmegaConf say of the overrides as a ConfigError, for those who call from Python."""
    try:
        yield
    except (HydraException, OmegaConfBaseException) as error:
        with hydra_state.alone():
            text = explain(error, overrides)
        given = [o.partition("=") for o in overrides]
        wrong = [(key, value) for key, _, value in given if key and key in text]
        raise ConfigError(*(wrong or [("overrides", " ".join(overrides))])[0], text) from error


def explain(error: BaseException, words: list[str] | None = None) -> str:
    """Hydra's complaint, and the closest valid word for each override that names nothing. `words` are the overrides;
    by default those of the command line."""
    words = sys.argv[1:] if words is None else words
    if broken := [why for schema, why in register.unreadable.items() if schema in str(error)]:
        return "\n  ".join(broken)
    lines = [
        line
        for line in str(error).splitlines()
        if line.strip() and not line.startswith(("    ", "Set the environment"))
    ]
    if error.__cause__ is not None and str(error.__cause__) not in str(error):
        lines += [
            line
            for line in str(error.__cause__).splitlines()
            if line.strip() and not line.strip().startswith(NOISE)
        ]
    if hints := unquoted(words):
        return "\n  ".join(hints)
    meant = suggestions(words)
    if meant:  # a key that is appended with `+` would be read by nobody
        lines = [line for line in lines if not line.startswith("To append to your config")]
    return "\n  ".join([*dict.fromkeys(lines), *meant])


def unquoted(words: list[str]) -> list[str]:
    """Each override whose value Hydra cannot read, or takes for several, as it must be typed."""
    multirun, found = {"-m", "--multirun"} & set(words), []
    for word in words:
        key, equals, value = word.partition("=")
        if word.startswith("-") or not equals or not value or value[0] in "[{'\"$":
            continue
        try:
            read = OverridesParser.create().parse_override(word)
            wrong = (
                read.is_sweep_override()
                and not multirun
                and key.lstrip("+") not in help_text.GROUPS
                and "." in key
            )
        except HydraException:
            wrong = True
        if wrong:
            escaped = value.replace('"', '\\"')
            typed = shlex.quote(f'{key}="{escaped}"')
            found.append(
                f"{word}: a value with = , blanks or brackets is typed in quotes within quotes: {typed}"
            )
    return found


def suggestions(overrides: list[str]) -> list[str]:
    """`optm=adam` -> did you mean optim=adam?"""
    from hydra import compose
    from hydra.core.global_hydra import GlobalHydra

    found = []
    given = [o.lstrip("+~").partition("=") for o in overrides if "=" in o and not o.startswith("-")]
    groups = {key: value for key, _, value in given if key in help_text.GROUPS and value}
    for group, value in groups.items():
        valid = list(help_text.options(group))
        for option in value.split(","):
            if option not in valid and (close := get_close_matches(option, valid, n=1)):
                found.append(f"{group}={option}: did you mean {group}={close[0]}?")
    if not GlobalHydra.instance().is_initialized():
        hydra.initialize_config_dir(str(sources.CONF), version_base="1.3")
    sound = [f"{g}={v}" for g, v in groups.items() if v in help_text.options(g)]
    try:
        known = [
            *help_text.GROUPS,
            *dotted(OmegaConf.to_container(compose("config", overrides=sound), resolve=False)),
        ]
    except (
        HydraException,
        OmegaConfBaseException,
    ):  # what is wrong is in a YAML, and has been said
        return found
    for key, _, value in given:
        if key in build.RETIRED:
            found.append(f"{key} is no more: {build.RETIRED[key]}")
        elif key not in known and not key.startswith("hydra") and "@" not in key:
            meant = with_last_word(key, known) or [k for k in [nearest(key, known)] if k]
            if meant:
                choices = " or ".join(f"{k}={value}" for k in meant)
                found.append(f"{key}={value}: did you mean {choices}?")
    return found


def with_last_word(key: str, known: list[str]) -> list[str]:
    """The keys that end in a bare word: `lr` -> optim.lr, pretrain_optim.lr; those of fine-tuning come first."""
    first = ("optim", "finetune", "task", "dataset")
    keys = [k for k in known if k.rpartition(".")[2] == key and k.count(".") == 1]
    return sorted(keys, key=lambda k: k.partition(".")[0] not in first)[:3]


def nearest(key: str, known: list[str]) -> str | None:
    """The valid key that differs from this one by a slip: in its last word, if what comes before it is right."""
    node, _, word = key.rpartition(".")
    beside = {k.rpartition(".")[2]: k for k in known if k.rpartition(".")[0] == node}
    close = get_close_matches(word, list(beside), n=1)
    return (
        beside[close[0]]
        if close
        else next(iter(get_close_matches(key, known, n=1, cutoff=0.8)), None)
    )


def dotted(node: Any, prefix: str = "") -> list[str]:
    """Every key below a container, with dots."""
    if not isinstance(node, dict):
        return []
    return [f"{prefix}{k}" for k in node] + [
        d for k, v in node.items() for d in dotted(v, f"{prefix}{k}.")
    ]
