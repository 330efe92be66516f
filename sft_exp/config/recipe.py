"""The command or experiment file that composes to a given resolved config.

The values may come from a command line, an experiment, a study or a sweeper. All commands that are
shown to the user are made here, so that they are complete.
"""

import json
import shlex
from pathlib import Path
from typing import Any

from sft_exp.config import build, compose, hydra_state
from sft_exp.config.moved import updated

BUNDLES = ("experiment", "debug")  # groups whose options only set other keys
WORDS = ("true", "false", "null", "nan", "inf")  # strings that Hydra would read as other values
MISSING = object()


def command(overrides: list[str]) -> str:
    """The shell command that runs these overrides."""
    return shlex.join(["python", "-m", "sft_exp", *overrides])


def overrides(resolved: dict[str, Any], choices: dict[str, str]) -> list[str]:
    """The overrides that compose to this config: options other than the defaults, then values.

    Only values that the options do not set are listed. Paths to existing files are absolute, so
    that the command may be run from any folder.
    """
    groups, values = parts(resolved, choices)
    return [
        *hydra_state.search_path(),
        *(f"{group}={option}" for group, option in groups.items()),
        *(f"{'' if known else '+'}{key}={quoted(value)}" for key, (value, known) in values.items()),
    ]


def experiment(resolved: dict[str, Any], choices: dict[str, str], comment: str) -> str:
    """The content of a conf/experiment file that composes to this config.

    `comment` becomes the description of the option.
    """
    groups, values = parts(resolved, choices)
    nested: dict[str, Any] = {}
    for key, (value, _) in values.items():
        *path, last = key.split(".")
        node = nested
        for name in path:
            node = node.setdefault(name, {})
        node[last] = value
    lines = ["# @package _global_", f"# {comment}", "defaults:"]
    lines += [f"  - override /{group}: {option}" for group, option in groups.items()] or ["  []"]
    lines += [f"{key}: {json.dumps(value)}" for key, value in nested.items()]  # JSON is YAML
    return "".join(f"{line}\n" for line in lines)


def parts(
    resolved: dict[str, Any], choices: dict[str, str]
) -> tuple[dict[str, str], dict[str, tuple[Any, bool]]]:
    """({group: option}, {dotted key: (value, whether the options define this key)})."""
    wanted = {g: o for g, o in choices.items() if g not in BUNDLES}
    defaults = compose.default_choices()
    groups = {g: o for g, o in wanted.items() if defaults.get(g) != o}
    composed, selected = compose.composed([f"{g}={o}" for g, o in groups.items()])
    # an option may itself select another option of a group than its default
    if changed := {g: o for g, o in wanted.items() if selected.get(g) != o}:
        groups |= changed
        composed, _ = compose.composed([f"{g}={o}" for g, o in groups.items()])
    return groups, dict(differences(located(updated(resolved)), composed))


def differences(
    wanted: dict[str, Any], composed: dict[str, Any], prefix: str = ""
) -> list[tuple[str, tuple[Any, bool]]]:
    """(dotted key, (value, whether `composed` has the key)) of each leaf that differs."""
    leaves: list[tuple[str, tuple[Any, bool]]] = []
    for key, value in wanted.items():
        other = composed.get(key, MISSING)
        if isinstance(value, dict) and isinstance(other, dict) and value:
            leaves += differences(value, other, f"{prefix}{key}.")
        elif value != other or type(value) is not type(other):
            leaves.append((f"{prefix}{key}", (value, other is not MISSING)))
    return leaves


def located(resolved: dict[str, Any]) -> dict[str, Any]:
    """The config with absolute paths.

    Paths are in the unhashed fields of parts, in `labels` and `plugins`, and in `store`, unless it
    is the default. A data set whose `cache` is the store has none of its own.
    """
    config = dict(resolved)
    for key, node in resolved.items():
        if isinstance(node, dict) and isinstance(node.get("_target_"), str):
            paths = getattr(build.locate(node["_target_"]), "unhashed", ())
            config[key] = {name: absolute(v) if name in paths else v for name, v in node.items()}
            if "cache" in node and node["cache"] == resolved.get("store"):  # as the options have it
                del config[key]["cache"]
    for key in ("labels", "plugins"):
        config[key] = absolute(resolved.get(key))
    if config.get("store") != compose.composed([])[0]["store"]:
        config["store"] = str(Path(config["store"]).absolute())
    return config


def absolute(value: Any) -> Any:
    """The absolute path if the value is a path that exists, else the value."""
    if isinstance(value, str) and value and Path(value).exists():
        return str(Path(value).absolute())
    return value


def quoted(value: Any) -> str:
    """A value in the grammar of Hydra's overrides."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{quoted(str(k))}:{quoted(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(quoted, value)) + "]"
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if not isinstance(value, str):
        return repr(value)
    plain = all(c.isalnum() or c in "_-./" for c in value) and value.lower() not in WORDS
    if plain and value and (value[0].isalpha() or value[0] == "/"):
        return value
    return "'" + value.replace("'", "\\'") + "'"
