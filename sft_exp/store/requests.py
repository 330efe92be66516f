"""Requests to the store as JSON, which is hashed to name a result."""

from collections.abc import Callable
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import cache
from pathlib import Path, PosixPath, WindowsPath
from typing import Any, Generic, TypeVar

Result = TypeVar("Result")
JSON = frozenset((type(None), bool, int, float, str))
LITERALS = JSON | {PosixPath, WindowsPath}
MOST = 10_000  # results that a function of parts remembers


class Once(Generic[Result]):
    """A function of a part that is called once for parts of the same class and content.

    The requests of a job repeat a few parts, and the jobs of a sweep most of them. Parts that hold
    anything but literals are not remembered, since their text does not show all of their content.
    """

    def __init__(self, function: Callable[[Any], Result]):
        self.function = function
        self.known: dict[tuple[type, str], Result] = {}

    def __call__(self, part: Any) -> Result:
        kind: Any = type(part)
        values = [getattr(part, name) for name in field_names(kind)]
        if not all(map(is_literal, values)):
            return self.function(part)
        key = (kind, repr(values))
        if key not in self.known:
            if len(self.known) >= MOST:
                self.known.clear()
            self.known[key] = self.function(part)
        return self.known[key]

    def cache_clear(self) -> None:
        self.known.clear()


@cache
def field_names(cls: Any) -> list[str]:
    return [field.name for field in fields(cls)]


def is_literal(value: Any) -> bool:
    """Whether the text of a value shows its type and all of its content."""
    kind = type(value)
    if kind is list or kind is tuple:
        return all(map(is_literal, value))
    if kind is dict:
        return all(map(is_literal, value)) and all(map(is_literal, value.values()))
    return kind in LITERALS


def is_part(value: Any) -> bool:
    return is_dataclass(value) and not isinstance(value, type)


def hashed_fields(part: Any) -> dict[str, Any]:
    """The fields of a part that can change a result: all except those listed in `unhashed`."""
    kind: Any = type(part)
    unhashed = getattr(part, "unhashed", ())
    return {name: getattr(part, name) for name in field_names(kind) if name not in unhashed}


def plain(value: Any) -> Any:
    """A request as JSON. Parts of equal content share it.

    An input folder is represented by its name, which is a hash, so that the hash of a request
    covers everything upstream. Fields listed in `unhashed` and keys that begin with `_` cannot
    change a result and are left out. An Enum member is represented by its name.
    """
    if type(value) in JSON:
        return value
    if is_part(value):
        return plain_part(value)
    if isinstance(value, dict):
        # `_target_` names a class, which can change a result
        keys = (k for k in value if k == "_target_" or not str(k).startswith("_"))
        return {str(k): plain(value[k]) for k in keys}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return value.name if isinstance(value, Path | Enum) else value


@Once
def plain_part(part: Any) -> dict[str, Any]:
    name = f"{type(part).__module__}.{type(part).__name__}"
    return {"is": name} | {k: plain(v) for k, v in hashed_fields(part).items()}
