"""A request to the store as JSON: what names a result."""

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from sft_exp.config.schema import OptimizerConfig


def parts(value: Any) -> Iterator[Any]:
    """Every part in a request, also those inside lists, dicts and other parts."""
    if isinstance(value, dict | list | tuple):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from parts(inner)
    elif is_dataclass(value) and not isinstance(value, type | OptimizerConfig):
        yield value
        yield from parts(list(stated(value).values()))


def stated(part: Any) -> dict[str, Any]:
    """The fields of a part that can change a result: all but those that it calls `unhashed`."""
    return {
        f.name: getattr(part, f.name)
        for f in fields(part)
        if f.name not in getattr(part, "unhashed", ())
    }


def plain(value: Any) -> Any:
    """A request as JSON. An input folder stands for itself by its name, which is a hash, so that a request's hash covers
    everything upstream of it; fields a part calls `unhashed`, and keys that begin with `_`, cannot change a result and are
    left out."""
    if is_dataclass(value) and not isinstance(value, type):
        return {"is": f"{type(value).__module__}.{type(value).__name__}"} | {
            k: plain(v) for k, v in stated(value).items()
        }
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items() if not str(k).startswith("_")}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return value.name if isinstance(value, Path) else value
