"""A resolved config as the command that composes to it, whoever set its values: a command line, an experiment, a study
or a sweeper. What a user is told to run is made here, so that it is complete."""

import json
import shlex
from pathlib import Path
from typing import Any

from sft_exp.config import build, compose, hydra_state

BUNDLES = ("experiment", "debug")  # groups whose options only set what other keys say
MISSING = object()


def command(overrides: list[str]) -> str:
    """One line for a shell."""
    return shlex.join(["python", "-m", "sft_exp", *overrides])


def overrides(resolved: dict[str, Any], choices: dict[str, str]) -> list[str]:
    """The overrides that compose to this config: options that are not the defaults, then values that these options do not
    bring. Paths to what lies on this disk are absolute, so that the command may be run from any folder."""
    groups, values = parts(resolved, choices)
    return [
        *hydra_state.search_path(),
        *(f"{group}={option}" for group, option in groups.items()),
        *(f"{'' if known else '+'}{key}={quoted(value)}" for key, (value, known) in values.items()),
    ]


def experiment(resolved: dict[str, Any], choices: dict[str, str], comment: str) -> str:
    """The same as a file for a conf/experiment folder; `comment` becomes its description."""
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
    """(options by group, values by dotted key with whether the options bring that key)"""
    wanted = {g: o for g, o in choices.items() if g not in BUNDLES}
    usual = compose.default_choices()
    groups = {g: o for g, o in wanted.items() if usual.get(g) != o}
    composed, taken = compose.composed([f"{g}={o}" for g, o in groups.items()])
    # by another option, in place of the default
    if brought := {g: o for g, o in wanted.items() if taken.get(g) != o}:
        groups |= brought
        composed, taken = compose.composed([f"{g}={o}" for g, o in groups.items()])
    return groups, dict(differences(located(resolved), composed))


def differences(
    wanted: dict[str, Any], given: dict[str, Any], prefix: str = ""
) -> list[tuple[str, tuple[Any, bool]]]:
    """Leaves of the first config that the second has otherwise or not at all."""
    found = []
    for key, value in wanted.items():
        other = given.get(key, MISSING)
        if isinstance(value, dict) and isinstance(other, dict) and value:
            found += differences(value, other, f"{prefix}{key}.")
        elif value != other or type(value) is not type(other):
            found.append((f"{prefix}{key}", (value, other is not MISSING)))
    return found


def located(resolved: dict[str, Any]) -> dict[str, Any]:
    """The config with absolute paths in all fields that name a place: a part's fields that do not enter its hash, tables of
    labels, plugins, and a store of the user's own."""
    found = dict(resolved)
    for key, node in resolved.items():
        if isinstance(node, dict) and isinstance(node.get("_target_"), str):
            places = getattr(build.locate(node["_target_"]), "unhashed", ())
            found[key] = {name: absolute(v) if name in places else v for name, v in node.items()}
    for key in ("labels", "plugins"):
        found[key] = absolute(resolved.get(key))
    if found.get("store") != compose.composed([])[0]["store"]:
        found["store"] = str(Path(found["store"]).absolute())
    return found


def absolute(value: Any) -> Any:
    return (
        str(Path(value).absolute())
        if isinstance(value, str) and value and Path(value).exists()
        else value
    )


def quoted(value: Any) -> str:
    """A value in the grammar of Hydra's overrides."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{quoted(str(k))}:{quoted(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(quoted, value)) + "]"
    if not isinstance(value, str):
        return (
            "null"
            if value is None
            else str(value).lower()
            if isinstance(value, bool)
            else repr(value)
        )
    if (
        value
        and all(c.isalnum() or c in "_-./" for c in value)
        and (value[0].isalpha() or value[0] == "/")
        and value.lower() not in WORDS
    ):
        return value
    return "'" + value.replace("'", "\\'") + "'"


WORDS = ("true", "false", "null", "nan", "inf")  # strings that Hydra would read as other values
