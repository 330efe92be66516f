"""`key=value` arguments as typed fields, for the small commands beside the main one. Imports nothing that is slow."""

import sys
from collections.abc import Sequence
from dataclasses import MISSING, fields
from difflib import get_close_matches
from typing import TypeVar, get_type_hints

from sft_exp.errors import ConfigError

T = TypeVar("T")
WORDS = {"true": True, "false": False}


def parse(kind: type[T], text: str, prefix: str, arguments: Sequence[str] | None = None) -> T:
    """The dataclass that `key=value` arguments describe; `prefix.key` is `key`. `--help` prints `text` and ends with 0.
    ConfigError names the key, its value, and what would be valid."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    if {"-h", "--help"} & set(given):
        print(text.strip())
        sys.exit(0)
    types, known = get_type_hints(kind), [f.name for f in fields(kind)]  # type: ignore[arg-type]
    values = {}
    for argument in given:
        key, equals, value = argument.partition("=")
        name = key.removeprefix(f"{prefix}.")
        if not equals:
            raise ConfigError(argument, "", f"must be key=value; keys: {', '.join(known)}")
        if name not in known:
            close = get_close_matches(name, known, n=1)
            raise ConfigError(
                key,
                value,
                f"no such key; {f'did you mean {close[0]}?' if close else 'valid: ' + ', '.join(known)}",
            )
        values[name] = typed(key, value, types[name])
    for f in fields(kind):  # type: ignore[arg-type]
        if f.default is MISSING and f.name not in values:
            raise ConfigError(f.name, "", "must be given")
    return kind(**values)


def typed(key: str, value: str, kind: type) -> object:
    if kind is bool:
        if value.lower() not in WORDS:
            raise ConfigError(key, value, "must be true or false")
        return WORDS[value.lower()]
    if kind is int:
        try:
            return int(value)
        except ValueError as error:
            raise ConfigError(key, value, "must be a whole number") from error
    return value
