"""Fields of parts whose type is an Enum: configs and requests name the member."""

from collections.abc import Mapping
from enum import Enum
from typing import Any, get_type_hints

from sft_exp.errors import ConfigError


def with_members(kind: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a part's fields, with names of Enum members replaced by members. ConfigError
    for other names."""
    typed = {**values}
    for name, hint in get_type_hints(kind).items():
        if isinstance(hint, type) and issubclass(hint, Enum) and isinstance(values.get(name), str):
            if values[name] not in hint.__members__:
                raise ConfigError(name, values[name], f"must be {' or '.join(hint.__members__)}")
            typed[name] = hint[values[name]]
    return typed
