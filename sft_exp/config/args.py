"""The arguments of the commands as dataclasses: `sft_exp predict RUN FILES... format=jsonl`. Imports nothing that is slow.

A command states its arguments once, as the fields of a dataclass: name, type, default, and a comment that `--help` shows.
Fields that `positional` names can also be given by position; one of them that is a list takes all that are left.
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

from sft_exp.errors import ConfigError, Failure

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
    """Parse the arguments (default: `sys.argv`), do the work, and return the exit code. A failure is one line on stderr.
    `text` is what `--help` says of the command."""
    try:
        return work(parse(command, text, kind, arguments)) or 0
    except Failure as error:
        print(f"sft_exp.{command}: {error}", file=sys.stderr)
        return error.code
    except BrokenPipeError:  # the reader of our output has left: `sft_exp ls | head`
        silence()
        return 0


def silence() -> None:
    """Point stdout at nothing, so that the interpreter does not fail to flush it when it ends."""
    os.dup2(os.open(os.devnull, os.O_RDONLY), sys.stdout.fileno())


def parse(command: str, text: str, kind: type[T], arguments: Sequence[str] | None = None) -> T:
    """The dataclass that the arguments describe. `command.key` means `key`. `--help` prints the help and ends with 0.
    ConfigError names the key, its value, and what would be valid."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    if {"-h", "--help"} & set(given):
        print(help_of(command, text, kind))
        sys.exit(0)
    hints = get_type_hints(kind)
    values: dict[str, Any] = {}
    for key, value in assigned(command, kind, given):
        name = key.removeprefix(f"{command}.")
        if is_list(hints[name]):
            values.setdefault(name, []).extend(
                typed(key, v, get_args(hints[name])[0]) for v in several(value)
            )
        elif name in values:
            raise ConfigError(key, value, f"is given twice, as {values[name]} before")
        else:
            values[name] = typed(key, value, hints[name])
    for f in listed(kind):
        if required(f) and f.name not in values:
            raise ConfigError(f.name, "", f"must be given: {usage(command, kind)}")
    return kind(**values)


def assigned(command: str, kind: type, words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """(key, value) of every argument: `key=value`, `--key value`, `--key=value`, or a value by its position. A
    word with `=` is a value by position if its key is no field and it is a path. ConfigError."""
    hints, known = get_type_hints(kind), [f.name for f in listed(kind)]
    words = list(words)
    keys = (w.partition("=")[0] for w in words if "=" in w or w.startswith("-"))
    taken = {key.removeprefix(f"{command}.").lstrip("-") for key in keys}
    positional = getattr(kind, "positional", ())
    places = [name for name in positional if is_list(hints[name]) or name not in taken]
    rest = iter(words)
    for word in rest:
        flag = word.startswith("-") and word != "-"
        key, equals, value = word.partition("=")
        name = key.removeprefix(f"{command}.")
        if flag:
            key = name = key.lstrip("-").replace("-", "_")
        elif not equals or (name not in known and ("/" in key or os.path.exists(word))):
            if not places:
                raise ConfigError(word, "", f"is one argument too many: {usage(command, kind)}")
            yield places[0], word
            if not is_list(hints[places[0]]):
                del places[0]
            continue
        if name not in known:
            raise ConfigError(key, value, f"no such key{did_you_mean(name, known)}")
        if flag and not equals:
            value = "true" if hints[name] is bool else next(rest, "")
        yield key, value


def several(value: str) -> list[str]:
    """`[a,b]` is two values, anything else is one."""
    if value.startswith("[") and value.endswith("]") and not Path(value).exists():
        return [v.strip() for v in value[1:-1].split(",") if v.strip()]
    return [value]


def typed(key: str, value: str, kind: Any) -> object:
    """The value as the type of its field: str, Path, bool, int, float, Literal, or one of these or None. ConfigError."""
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
    """`csv or jsonl`"""
    *first, last = get_args(kind)
    return f"{', '.join(first)} or {last}" if first else last


def is_list(kind: Any) -> bool:
    return get_origin(kind) is list


def listed(kind: type) -> tuple[Field, ...]:
    return fields(kind)


def required(field: Field) -> bool:
    return field.default is MISSING and field.default_factory is MISSING


def did_you_mean(word: str, known: list[str]) -> str:
    """`; did you mean x?` for a close name, else the valid ones."""
    close = get_close_matches(word, known, n=1)
    return f"; did you mean {close[0]}?" if close else f"; valid: {', '.join(known)}"


# Help


def help_of(command: str, text: str, kind: type) -> str:
    """Usage, the text with its paragraphs wrapped (indented lines stay as they are), and every field with its default, its
    choices and its comment."""
    about = "\n\n".join(
        block if block.startswith("    ") else textwrap.fill(block, WIDTH)
        for block in text.strip("\n").split("\n\n")
    )
    hints, comments, rows = get_type_hints(kind), comments_of(kind), []
    for f in listed(kind):
        comment = comments.get(f.name, "")
        of = hints[f.name]
        if get_origin(of) is Literal:
            comment = f"{choices(of)}{'; ' if comment else ''}{comment}"
        rows.append((f"{f.name}={shown(f, of)}", comment))
    wide = max(len(key) for key, _ in rows)
    lines = [row(key, comment, wide) for key, comment in rows]
    return "\n".join([f"usage: {usage(command, kind)}", "", about, "", *lines])


def row(name: str, text: str, wide: int, indent: int = 2) -> str:
    """A name and its description beside it, wrapped; below it where the name is too long for that."""
    column = indent + min(wide, 24) + 2
    head = f"{'':{indent}}{name}".ljust(column)
    if len(head) > column or not head.endswith("  "):
        head = f"{head.rstrip()}\n{'':{column}}"
    body = textwrap.wrap(text, WIDTH - column, break_on_hyphens=False) or [""]
    return (head + f"\n{'':{column}}".join(body)).rstrip()


def usage(command: str, kind: type) -> str:
    """`sft_exp predict RUN FILES... [key=value ...]`"""
    hints, needed = get_type_hints(kind), {f.name: required(f) for f in listed(kind)}
    words = []
    for name in getattr(kind, "positional", ()):
        word = f"{name.upper()}..." if is_list(hints[name]) else name.upper()
        words.append(word if needed[name] else f"[{word}]")
    return " ".join(["sft_exp", command, *words, "[key=value ...]"])


def shown(field: Field, kind: Any) -> str:
    """What stands behind `key=` in the help: the default, or the name of what must be given."""
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
    """Field -> its comment in the source."""
    return field_comments(Path(inspect.getsourcefile(kind) or ""), kind.__name__)


def field_comments(file: Path, name: str) -> dict[str, str]:
    """Field -> its comment in the source: behind it, or on the lines right above it."""
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
            behind = [text.split("  # ", 1)[1] for text in source if "  # " in text]
            above = takewhile(is_comment, reversed(lines[: node.lineno - 1]))
            words = [text.strip().removeprefix("#").strip() for text in above]
            if text := behind[0] if behind else " ".join(reversed(words)):
                comments[node.target.id] = text
    return comments


def is_comment(line: str) -> bool:
    return line.lstrip().startswith("#")
