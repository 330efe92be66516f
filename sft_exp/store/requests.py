"""Requests to the store as JSON, which is hashed to name a result."""

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from sft_exp.config.schema import OptimizerConfig


def parts(value: Any) -> Iterator[Any]:
    """Yield every part (dataclass) in a request, also inside lists, dicts and other parts."""
    if isinstance(value, dict | list | tuple):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from parts(inner)
    elif is_dataclass(value) and not isinstance(value, type | OptimizerConfig):
        yield value
        yield from parts(list(hashed_fields(value).values()))


def hashed_fields(part: Any) -> dict[str, Any]:
    """The fields of a part that can change a result: all except those listed in `unhashed`."""
    return {
        f.name: getattr(part, f.name)
        for f in fields(part)
        if f.name not in getattr(part, "unhashed", ())
    }


def plain(value: Any) -> Any:
    """A request as JSON.

    An input folder is represented by its name, which is a hash, so that the hash of a request
    covers everything upstream. Fields listed in `unhashed` and keys that begin with `_` cannot
    change a result and are left out. An Enum member is represented by its name.
    """
    if is_dataclass(value) and not isinstance(value, type):
        return {"is": f"{type(value).__module__}.{type(value).__name__}"} | {
            k: plain(v) for k, v in hashed_fields(value).items()
        }
    if isinstance(value, dict):
        # `_target_` names a class, which can change a result
        keys = (k for k in value if k == "_target_" or not str(k).startswith("_"))
        return {str(k): plain(value[k]) for k in keys}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return value.name if isinstance(value, Path | Enum) else value
