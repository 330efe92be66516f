"""Exceptions as messages and exit codes: what failed, where, and what would be valid."""

import errno
import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Any

import hydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sft_exp.config import build, compose, help_text, hydra_state, reference, register
from sft_exp.errors import ConfigError, DeviceMemoryError, Failure, StorageError, beyond_memory
from sft_exp.progress import LOG

# lines of OmegaConf that name our classes, not the user's keys
NOISE = ("full_key:", "reference_type=", "object_type=")
LONG = 200  # characters of a command that a message does not repeat
SEARCHED = ("Config search path:", "provider=")  # lines of Hydra after a list of options
DOCTOR = "\n  `sft_exp doctor RUN` packs what the report needs (RUN is the run folder)"
TRACEBACK = os.environ.get("HYDRA_FULL_ERROR") == "1"
DISK = (  # errors of the file system that the user can resolve
    *(errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM),
    *(errno.EFBIG, errno.EIO, errno.ENOTDIR, errno.EEXIST),
)


@contextmanager
def reported(leave: bool = True) -> Iterator[list[int]]:
    """Report a failure in one message and exit with its code; with `leave=False` only append the
    code to the list."""
    codes: list[int] = []
    try:
        yield codes
    except Failure as error:
        codes.append(error.code)
        print_failure(error, str(error))
    except (HydraException, OmegaConfBaseException) as error:
        codes.append(2)
        print_failure(error, explain(error))
    except KeyboardInterrupt:
        sys.exit(130)  # before or after a run; a run itself handles it and writes a checkpoint
    except BrokenPipeError:
        raise
    except OSError as error:
        code, text = of_the_system(error)
        codes.append(code)
        print_failure(error, text, bug=code == 1)
    except Exception as error:  # noqa: BLE001 - Hydra suppresses exceptions of callbacks
        said = beyond_memory(error)
        codes.append(DeviceMemoryError.code if said else 1)
        text = f"a bug, please report it: {type(error).__name__}: {error}{DOCTOR}"
        print_failure(error, said or text, bug=not said)
    if codes and leave:
        sys.exit(codes[0])


def of_the_system(error: OSError) -> tuple[int, str]:
    """(exit code, message) of an error of the operating system; code 1 is a bug."""
    if error.errno == errno.ENAMETOOLONG:
        name = os.path.basename(os.fsdecode(error.filename or ""))
        return ConfigError.code, f"{name[:40]}...: is too long for the name of a file or an option"
    text = f"{error.filename}: {error.strerror or error}"
    if error.errno in DISK:
        return StorageError.code, text
    return 1, f"a bug, please report it: {text}{DOCTOR}"


def print_failure(error: BaseException, text: str, bug: bool = False) -> None:
    """Print and log a message; for a bug, or with HYDRA_FULL_ERROR=1, print the traceback too."""
    if TRACEBACK or bug:
        import traceback

        traceback.print_exception(error)
    LOG.error("%s", text)
    print(f"sft_exp: {text}", file=sys.stderr)


@contextmanager
def translated(overrides: list[str]) -> Iterator[None]:
    """Turn Hydra's and OmegaConf's exceptions on the overrides into a ConfigError, for the Python
    interface."""
    try:
        yield
    except (HydraException, OmegaConfBaseException) as error:  # some are OSErrors, too
        with hydra_state.alone():
            text = explain(error, overrides)
        pairs = [override.partition("=")[::2] for override in overrides]
        wrong = [(key, value) for key, value in pairs if key and key in text]
        # `strategy` is in "Could not override 'label_strategy'", too
        wrong.sort(key=lambda pair: (f"'{pair[0]}'" in text, len(pair[0])), reverse=True)
        raise ConfigError(*(wrong or [("overrides", " ".join(overrides))])[0], text) from error
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        raise ConfigError(
            "overrides", " ".join(overrides)[:200], of_the_system(error)[1]
        ) from error


def explain(error: BaseException, words: list[str] | None = None) -> str:
    """Hydra's message, and suggestions for overrides whose key or option does not exist.

    `words` are the overrides, by default those of the command line.
    """
    words = sys.argv[1:] if words is None else words
    if broken := [why for schema, why in register.unreadable.items() if schema in str(error)]:
        return "\n  ".join(broken)
    if hints := [*unquoted(words), *not_swept(words)]:
        return "\n  ".join(hints)
    lines = [line for line in str(error).splitlines() if line.strip()]
    lines = [line for line in lines if not line.startswith(("    ", "Set the environment"))]
    lines = [line for line in lines if not line.strip().startswith(SEARCHED)]
    if error.__cause__ is not None and str(error.__cause__) not in str(error):
        causes = [line for line in str(error.__cause__).splitlines() if line.strip()]
        lines += [line for line in causes if not line.strip().startswith(NOISE)]
    if meant := suggestions(words):  # appending the key with `+` would have no effect
        lines = [
            line for line in lines if not line.startswith(("To append to your config", "Key '"))
        ]
    return "\n  ".join([*dict.fromkeys(lines), *meant])


def unquoted(words: list[str]) -> list[str]:
    """Hints for overrides whose value Hydra cannot read without quotes."""
    hints, multirun = [], {"-m", "--multirun"} & set(words)
    for word, key, value in settings(words):
        swept = several(word)
        if swept is None or (swept and is_text(value) and not multirun):
            rule = "a value with = , blanks or brackets is typed in quotes within quotes"
            hints.append(f"{word}: {rule}: {in_quotes(key, value)}")
    return hints


def not_swept(words: list[str]) -> list[str]:
    """Hints for overrides with several values on a command line without `-m`."""
    if {"-m", "--multirun"} & set(words):
        return []
    swept = [(word, key, value) for word, key, value in settings(words) if several(word)]
    swept = [(word, key, value) for word, key, value in swept if not is_text(value)]
    if not swept:
        return []
    typed = shlex.join(["sft_exp", "-m", *words])
    command = f": {typed}" if len(typed) < LONG else ""
    which = " ".join(word for word, *_ in swept)
    hints = [f"{which}: several values are a sweep, which takes the flag -m{command}"]
    defaults = default_values([key for _, key, _ in swept], words)
    for _, key, value in swept:
        default = defaults.get(key)
        if key in help_text.GROUPS or isinstance(default, bool | int | float):
            continue
        hint = f"one value that is a list: {shlex.quote(f'{key}=[{value}]')}"
        if not OmegaConf.is_list(default):
            hint += f"; one text with a comma: {in_quotes(key, value)}"
        hints.append(hint)
    return hints


def settings(words: list[str]) -> Iterator[tuple[str, str, str]]:
    """(word, key, value) of the overrides whose value is neither quoted nor in brackets."""
    for word in words:
        key, equals, value = word.partition("=")
        if equals and value and not word.startswith("-") and value[0] not in "[{'\"$":
            yield word, key.lstrip("+"), value


def several(word: str) -> bool | None:
    """Whether Hydra reads several values in an override; None where it cannot read it."""
    try:
        return OverridesParser.create().parse_override(word).is_sweep_override()
    except HydraException:
        return None


def in_quotes(key: str, value: str) -> str:
    """A text as one value, as it is typed in a shell."""
    escaped = value.replace('"', '\\"')
    return shlex.quote(f'{key}="{escaped}"')


def is_text(value: str) -> bool:
    """Whether a value with commas is rather a text, "photos, new", than several values."""
    return ", " in value


def default_values(keys: list[str], words: list[str]) -> dict[str, Any]:
    """The values of keys with the options that the words choose; keys that there are not are left
    out."""
    chosen = [word for word, key, _ in settings(words) if key in help_text.GROUPS]
    chosen = [word for word in chosen if not several(word)]
    try:
        with (
            hydra_state.alone(),
            hydra_state.initialized(),
        ):
            register.register()
            config: Any = hydra.compose("config", chosen)
            return {k: v for k in keys if (v := OmegaConf.select(config, k)) is not None}
    except (HydraException, OmegaConfBaseException):
        return {}


def suggestions(overrides: list[str]) -> list[str]:
    """`optm=adam` -> did you mean optim=adam?"""
    from hydra.core.global_hydra import GlobalHydra

    hints = []
    words = [word.lstrip("+~") for word in overrides if "=" in word and not word.startswith("-")]
    pairs = [word.partition("=")[::2] for word in words]
    groups = {key: value for key, value in pairs if key in help_text.GROUPS and value}
    for group, value in groups.items():
        valid = list(help_text.options(group))
        for option in value.split(","):
            if option not in valid and (close := get_close_matches(option, valid, n=1)):
                hints.append(f"{group}={option}: did you mean {group}={close[0]}?")
    if not GlobalHydra.instance().is_initialized():
        hydra_state.initialized()
    options = [f"{g}={v}" for g, v in groups.items() if v in help_text.options(g)]
    try:
        config = OmegaConf.to_container(hydra.compose("config", overrides=options), resolve=False)
    except (HydraException, OmegaConfBaseException):
        return hints  # the fault is in a YAML file, and the message names it
    known = [*help_text.GROUPS, *dotted(config)]
    for key, value in pairs:
        if key in build.RETIRED:
            hints.append(f"{key} is no more: {build.RETIRED[key]}")
        elif key not in known and (hint := of_other_option(key, overrides)):
            hints.append(f"{key}={value}: {hint}")
        elif key not in known and not key.startswith("hydra") and "@" not in key:
            meant = with_last_word(key, known) or [k for k in [nearest(key, known)] if k]
            if meant:
                choices = " or ".join(f"{k}={value}" for k in meant)
                hints.append(f"{key}={value}: did you mean {choices}?")
    return hints


def of_other_option(key: str, overrides: list[str]) -> str:
    """That the chosen option of a group has no such key, which other options have; else ""."""
    group, _, name = key.partition(".")
    if group not in help_text.GROUPS or "." in name or not name:
        return ""
    words = [w for w in overrides if w.partition("=")[0].lstrip("+") in help_text.GROUPS]
    chosen = {w.partition("=")[0].lstrip("+"): w.partition("=")[2] for w in words}
    by = ""  # the option of another group that has chosen this group's
    option = chosen.get(group, compose.default_choices().get(group, ""))
    for other, value in chosen.items():
        if value in help_text.options(other):
            sets = reference.option(other, value).also
            if group in sets and group not in chosen:
                option, by = str(sets[group]), f", which {other}={value} chooses,"
    having = [
        o
        for o in help_text.options(group)
        if o != option and name in [k.name for k in reference.option(group, o).keys]
    ]
    if not having or option not in help_text.options(group):
        return ""
    places = " or ".join(f"{group}={o}" for o in having[:3])
    return f"{group}={option}{by} has no key {name}; {places} has it"


def with_last_word(key: str, known: list[str]) -> list[str]:
    """The keys that end in a word: `lr` -> optim.lr, pretrain_optim.lr; those of fine-tuning
    first."""
    first = ("optim", "finetune", "task", "dataset")
    keys = [k for k in known if k.rpartition(".")[2] == key and k.count(".") == 1]
    return sorted(keys, key=lambda k: k.partition(".")[0] not in first)[:3]


def nearest(key: str, known: list[str]) -> str | None:
    """The most similar valid key: one of the same node if possible, else any; None without a
    similar one."""
    node, _, word = key.rpartition(".")
    siblings = {k.rpartition(".")[2]: k for k in known if k.rpartition(".")[0] == node}
    if close := get_close_matches(word, list(siblings), n=1):
        return siblings[close[0]]
    return next(iter(get_close_matches(key, known, n=1, cutoff=0.8)), None)


def dotted(node: Any, prefix: str = "") -> list[str]:
    """All dotted keys of nested dicts."""
    if not isinstance(node, dict):
        return []
    return [f"{prefix}{k}" for k in node] + [
        d for k, v in node.items() for d in dotted(v, f"{prefix}{k}.")
    ]
