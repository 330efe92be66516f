"""Failures that reach the user in their own terms. The class names the exit code."""

import re
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

NAMED = 20  # things that a message names


class Failure(Exception):
    """Something the user can act on: shown as one message, without a traceback."""

    code = 1


class ConfigError(Failure):
    """A value that cannot be: `ConfigError("beta", -1, "0 or more")`; the caller that knows the group adds it in front."""

    code = 2

    def __init__(self, key: str, value: object, valid: str):
        super().__init__(key, value, valid)
        self.key, self.value, self.valid = key, value, valid

    def under(self, group: str) -> "ConfigError":
        return ConfigError(f"{group}.{self.key}" if self.key else group, self.value, self.valid)

    def __str__(self) -> str:
        return f"{self.key}={self.value}: {self.valid}"


class DataError(Failure):
    """The user's files or labels: missing, broken, or fewer than asked for."""

    code = 3


class NonFiniteError(Failure):
    """A loss that is not a number, found before anything of its training is stored."""

    code = 4


class StorageError(Failure):
    """The disk or the store: full, unwritable, or damaged beyond what can be rebuilt."""

    code = 5


class DeviceMemoryError(Failure):
    """A training that does not fit into the memory of its device, or data into the machine's."""

    code = 5


class ToleranceError(Failure):
    """A compressed model that lost more accuracy than compress.tolerance allows."""

    code = 7


class LostRank(Failure):
    """One of the processes that share a training was killed or hangs; the same command continues from the last checkpoint."""

    code = 8


class Interrupted(Failure):
    """Asked to stop; the same command continues from the last checkpoint."""

    code = 75


def require(ok: bool, key: str, value: object, valid: str) -> None:
    """Refuse a field's value: for the `__post_init__` of parts, e.g. `require(beta >= 0, "beta", beta, "0 or more")`."""
    if not ok:
        raise ConfigError(key, value, f"must be {valid}")


def listing(lines: list[str]) -> str:
    """The first of the lines, below each other."""
    return "".join(f"\n  {line}" for line in lines[:NAMED]) + (
        f"\n  and {len(lines) - NAMED} more" if len(lines) > NAMED else ""
    )


def some(names: Sequence[str], most: int = 8) -> str:
    """The first of the names, and the number of the others."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def first_line(error: BaseException) -> str:
    """The first line of an error's message; its class where there is none."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def absent(path: Path, kind: str) -> str:
    """That there is no such `kind` ("file", "folder"), with the most similar path that exists."""
    lowest = path  # of the missing ones, that whose parent exists
    while not lowest.parent.is_dir() and lowest.parent != lowest:
        lowest = lowest.parent
    try:
        there = [p for p in lowest.parent.iterdir() if p.is_dir() or path == lowest]
    except OSError:
        there = []
    names = {p.name.casefold(): p for p in there if kind != "folder" or p.is_dir()}
    close = get_close_matches(lowest.name.casefold(), [*names], n=1)
    if not close:
        return f"no such {kind}"
    meant = names[close[0]]
    whole = meant / path.relative_to(lowest)
    return f"no such {kind}; did you mean {whole if whole.exists() else meant}?"


def beyond_memory(error: BaseException) -> str:
    """The message for an allocation that the machine's memory refuses; "" for other exceptions.

    PyTorch raises RuntimeError on the CPU.
    """
    text = str(error)
    if not isinstance(error, MemoryError) and "can't allocate memory" not in text:
        return ""
    asked = re.search(r"\d+ bytes|\d[\d.]* [KMGTPE]?i?B", text)
    wanted = f" ({asked[0]} more are needed)" if asked else ""
    return f"the memory of this machine is too small{wanted}; smaller or fewer images need less"
