"""Command-line arguments declared as dataclasses: `sft_exp predict RUN FILES... format=jsonl`.

A command declares its arguments once, as the fields of a dataclass: name, type, default, and a
comment that `--help` shows. Fields listed in `positional` can also be given by position; a list
field takes all remaining positional arguments. A list field in `nested` collects the overrides of a
configuration group as they are: `dataset=digits dataset.root=photos`. This module imports nothing
that is slow.
"""

import ast
import inspect
import os
import sys
import textwrap
import types
from collections.abc import Callable, Iterator, Sequence
from dataclasses import MISSING, Field, fields
from difflib import get_close_matches
from itertools import takewhile
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from sft_exp.errors import ConfigError, DeviceMemoryError, Failure, beyond_memory

T = TypeVar("T")
WORDS = {"true": True, "false": False}
WIDTH = 79  # columns of a help text
NUMBERS = {int: "a whole number", float: "a number"}


def run(
    command: str,
    text: str,
    kind: type[T],
    work: Callable[[T], int | None],
    arguments: Sequence[str] | None = None,
) -> int:
    """Parse the arguments (default: `sys.argv`), call `work`, and return the exit code.

    A failure is reported by one line on stderr. `text` describes the command in `--help`.
    """
    try:
        return work(parse(command, text, kind, arguments)) or 0
    except Failure as error:
        print(f"sft_exp {command}: {error}", file=sys.stderr)
        return error.code
    except (RuntimeError, MemoryError) as error:
        if not (said := beyond_memory(error)):
            raise
        print(f"sft_exp {command}: {said}", file=sys.stderr)
        return DeviceMemoryError.code
    except BrokenPipeError:  # the reader of stdout has closed the pipe: `sft_exp ls | head`
        silence()
        return 0


def silence() -> None:
    """Redirect stdout to the null device, so that the interpreter can flush it on exit."""
    os.dup2(os.open(os.devnull, os.O_RDONLY), sys.stdout.fileno())


def parse(command: str, text: str, kind: type[T], arguments: Sequence[str] | None = None) -> T:
    """Parse arguments into the dataclass. `command.key` means `key`.

    `--help` prints the help and exits with 0. A ConfigError names the key, its value, and what
    is valid.
    """
    words = sys.argv[1:] if arguments is None else list(arguments)
    if {"-h", "--help"} & set(words):
        print(help_of(command, text, kind))
        sys.exit(0)
    hints = get_type_hints(kind)
    values: dict[str, Any] = {}
    for key, value in assigned(command, kind, words):
        name = key.removeprefix(f"{command}.")
        if is_list(hints[name]):
            values.setdefault(name, []).extend(
                typed(key, v, get_args(hints[name])[0]) for v in several(value)
            )
        elif name in values:
            raise ConfigError(key, value, f"is given twice, before as {values[name]}")
        else:
            values[name] = typed(key, value, hints[name])
    for f in listed(kind):
        if required(f) and f.name not in values:
            raise ConfigError(f.name, "", f"must be given: {usage(command, kind)}")
    return kind(**values)


def assigned(command: str, kind: type, words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield (key, value) of every argument. ConfigError for keys that do not exist.

    An argument is `key=value`, `--key value`, `--key=value`, or a value by position. A word with
    `=` is a value by position if it is a path and its key is no field. The value of a field in
    `nested` is the whole argument.
    """
    hints, names = get_type_hints(kind), [f.name for f in listed(kind)]
    keys = (w.partition("=")[0] for w in words if "=" in w or w.startswith("-"))
    by_key = {key.removeprefix(f"{command}.").lstrip("-") for key in keys}
    positional = [
        name
        for name in getattr(kind, "positional", ())
        if is_list(hints[name]) or name not in by_key
    ]
    rest = iter(words)
    for word in rest:
        flag = word.startswith("-") and word != "-"
        key, equals, value = word.partition("=")
        name = key.removeprefix(f"{command}.")
        if flag:
            key = name = key.lstrip("-").replace("-", "_")
        elif not equals or (name not in names and ("/" in key or os.path.exists(word))):
            if not positional:
                raise ConfigError(word, "", f"is one argument too many: {usage(command, kind)}")
            yield positional[0], word
            if not is_list(hints[positional[0]]):
                del positional[0]
            continue
        if name.partition(".")[0] in getattr(kind, "nested", ()) and equals:
            yield name.partition(".")[0], f"{name}={value}"
            continue
        if name not in names:
            raise ConfigError(key, value, f"no such key{did_you_mean(name, names)}")
        if flag and not equals:
            value = "true" if hints[name] is bool else next(rest, "")
        yield key, value


def several(value: str) -> list[str]:
    """The values of a list argument: `[a,b]` is two values, anything else is one."""
    if value.startswith("[") and value.endswith("]") and not Path(value).exists():
        return [v.strip() for v in value[1:-1].split(",") if v.strip()]
    return [value]


def typed(key: str, value: str, kind: Any) -> object:
    """Convert a value to the type of its field. ConfigError if that is impossible.

    Types are str, Path, bool, int, float, Literal, and each of these `| None`.
    """
    if isinstance(kind, types.UnionType):
        (kind,) = [k for k in get_args(kind) if k is not type(None)]
        return None if value == "null" else typed(key, value, kind)
    if get_origin(kind) is Literal:
        if value not in get_args(kind):
            raise ConfigError(key, value, f"must be {choices(kind)}")
        return value
    if kind is bool:
        if value.lower() not in WORDS:
            raise ConfigError(key, value, "must be true or false")
        return WORDS[value.lower()]
    if kind in NUMBERS:
        try:
            return kind(value)
        except ValueError as error:
            raise ConfigError(key, value, f"must be {NUMBERS[kind]}") from error
    if not value:
        raise ConfigError(key, value, "needs a value")
    return Path(value).expanduser() if kind is Path else value


def choices(kind: Any) -> str:
    """The values of a Literal as text: `csv or jsonl`."""
    *first, last = get_args(kind)
    return f"{', '.join(first)} or {last}" if first else last


def is_list(kind: Any) -> bool:
    return get_origin(kind) is list


def listed(kind: type) -> tuple[Field, ...]:
    return fields(kind)


def required(field: Field) -> bool:
    return field.default is MISSING and field.default_factory is MISSING


def did_you_mean(word: str, known: list[str]) -> str:
    """`; did you mean x?` if a similar name exists, else the valid names."""
    close = get_close_matches(word, known, n=1)
    return f"; did you mean {close[0]}?" if close else f"; valid: {', '.join(known)}"


# Help


def help_of(command: str, text: str, kind: type) -> str:
    """The help text: usage, description, and each field with its default, choices and comment.

    Paragraphs of the description are wrapped, except for indented ones.
    """
    about = "\n\n".join(
        block if block.startswith("    ") else textwrap.fill(block, WIDTH)
        for block in text.strip("\n").split("\n\n")
    )
    hints, comments, rows = get_type_hints(kind), comments_of(kind), []
    for f in listed(kind):
        comment = comments.get(f.name, "")
        hint = hints[f.name]
        if get_origin(hint) is Literal:
            comment = f"{choices(hint)}{'; ' if comment else ''}{comment}"
        rows.append((f"{f.name}={shown(f, hint)}", comment))
    width = max(len(key) for key, _ in rows)
    lines = [row(key, comment, width) for key, comment in rows]
    return "\n".join([f"usage: {usage(command, kind)}", "", about, "", *lines])


def row(name: str, text: str, wide: int, indent: int = 2) -> str:
    """A name with its wrapped description beside it, or below it if the name is too long."""
    column = indent + min(wide, 24) + 2
    head = f"{'':{indent}}{name}".ljust(column)
    if len(head) > column or not head.endswith("  "):
        head = f"{head.rstrip()}\n{'':{column}}"
    body = textwrap.wrap(text, WIDTH - column, break_on_hyphens=False) or [""]
    return (head + f"\n{'':{column}}".join(body)).rstrip()


def usage(command: str, kind: type) -> str:
    """The usage line: `sft_exp predict RUN FILES... [key=value ...]`."""
    hints, needed = get_type_hints(kind), {f.name: required(f) for f in listed(kind)}
    words = []
    for name in getattr(kind, "positional", ()):
        word = f"{name.upper()}..." if is_list(hints[name]) else name.upper()
        words.append(word if needed[name] else f"[{word}]")
    return " ".join(["sft_exp", command, *words, "[key=value ...]"])


def shown(field: Field, kind: Any) -> str:
    """The text after `key=` in the help: the default, or a placeholder for a required value."""
    value = field.default
    if field.default_factory is not MISSING:
        value = field.default_factory()
    if value is MISSING:
        return f"{field.name.upper()}{',...' if is_list(kind) else ''}"
    if isinstance(value, list):
        return ",".join(map(str, value))
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


def comments_of(kind: type) -> dict[str, str]:
    """Field -> its comment in the source of the dataclass."""
    return field_comments(Path(inspect.getsourcefile(kind) or ""), kind.__name__)


def field_comments(file: Path, name: str) -> dict[str, str]:
    """Field -> its comment in the source: after it on the line, or on the lines right above it."""
    lines = file.read_text().splitlines()
    (kind,) = [
        c
        for c in ast.parse("\n".join(lines)).body
        if isinstance(c, ast.ClassDef) and c.name == name
    ]
    comments = {}
    for node in kind.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            source = lines[node.lineno - 1 : node.end_lineno]
            same_line = [text.split("  # ", 1)[1] for text in source if "  # " in text]
            above = takewhile(is_comment, reversed(lines[: node.lineno - 1]))
            words = [text.strip().removeprefix("#").strip() for text in above]
            if text := same_line[0] if same_line else " ".join(reversed(words)):
                comments[node.target.id] = text
    return comments


def is_comment(line: str) -> bool:
    return line.lstrip().startswith("#")
