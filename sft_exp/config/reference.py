"""The meaning of every group, option and key, for `sft_exp help` and the docs.

It is read from the sources of parts and from YAML, so that no part and no torch is imported.
"""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from yaml import safe_load

from sft_exp.config import help_text, sources
from sft_exp.config.args import field_comments
from sft_exp.config.dotted import leaves
from sft_exp.errors import ConfigError

SCHEMA = sources.HERE / "config" / "schema.py"
OF_SCHEMA = {"hardware": "Hardware", "augment": "AugmentConfig"}  # groups with keys in the schema
# an interpolation with a value for the case that what it names is not set
FALLBACK = re.compile(r"\$\{oc\.\w+:[\w.]+,(.*)\}")
SECTIONS = {  # of the schema's root
    "pretrain": "TrainConfig",
    "finetune": "FinetuneConfig",
    "features": "Features",
    "transfer": "Transfer",
    "protocol": "Protocol",
}


@dataclass(frozen=True)
class Key:
    """One key of an option or of a section."""

    name: str
    type: str
    default: str
    comment: str


@dataclass(frozen=True)
class Option:
    """One option of a group: `pretrainer=vae`."""

    group: str
    name: str
    description: str  # one line
    about: str  # the module's docstring, with the paper and the equation; may be empty
    keys: list[Key]
    also: dict[str, Any]  # other keys that the option sets -> value


def groups() -> dict[str, dict[str, str]]:
    """Group -> option -> one-line description."""
    return {group: help_text.options(group) for group in help_text.GROUPS}


def option(group: str, name: str) -> Option:
    """Everything about one option.

    Raises:
        ConfigError: no such group or option.
    """
    descriptions = help_text.options(known(group, help_text.GROUPS))
    known(name, descriptions, group)
    here = group if name in sources.option_files(group) else sources.MIRRORED[group]
    text = sources.option_files(here)[name].read_text()
    content: Any = safe_load(text) or {}
    defaults = content.pop("defaults", [])
    is_global = "@package _global_" in text
    values = content.pop(here, None) or {} if is_global else content
    about, keys = schema_of(here, defaults)
    own = {k: text_of(v) for k, v in values.items() if k not in ("_target_", "hints")}
    shown = [Key(k.name, k.type, own.pop(k.name, k.default), k.comment) for k in keys]
    shown += [Key(name, "", value, "") for name, value in own.items()]
    if target := values.get("_target_"):
        about = about or f"Built from `{target}`; every argument of the class is a key."
    overrides = {
        key.removeprefix("override /"): value
        for entry in defaults
        if isinstance(entry, dict)
        for key, value in entry.items()
    }
    also = overrides | (leaves(content) if is_global else {})
    return Option(group, name, descriptions[name], about, shown, also)


def section(name: str) -> list[Key]:
    """The keys of a section of the root, `finetune` for one, or of the root itself (`""`).

    Their defaults are those of conf/config.yaml, or else of the schema.
    """
    root: Any = safe_load((sources.CONF / "config.yaml").read_text())
    values = (root.get(name) or {}) if name else root
    own = {key: FALLBACK.sub(r"\1", text_of(value)) for key, value in values.items()}
    keys = keys_of(SCHEMA, SECTIONS[name] if name else "Experiment")
    return [replace(key, default=own.get(key.name, key.default)) for key in keys]


def known(word: str, valid: Any, group: str = "") -> str:
    """The word if it is valid, else a ConfigError with the valid ones."""
    if word not in valid:
        key = group or "help"
        raise ConfigError(key, word, f"no such option; valid: {', '.join(valid)}")
    return word


def schema_of(group: str, defaults: list[Any]) -> tuple[str, list[Key]]:
    """The docstring and keys of the dataclass in an option's defaults list:
    `/schema/pretrainer/vae@_here_`."""
    if group in OF_SCHEMA:
        return "", list(keys_of(SCHEMA, OF_SCHEMA[group]))
    schemas = (e for e in defaults if isinstance(e, str) and e.startswith("/schema/"))
    path = next(schemas, "").partition("@")[0]
    folders = {**sources.FOLDERS, "study": "studies"}
    for kind, file, _ in sources.parts({k: v for k, v in folders.items() if f"/{k}/" in path}):
        if path == f"/schema/{kind}/{file.stem}":
            tree = ast.parse(file.read_text())
            return ast.get_docstring(tree) or "", list(keys_of(file, dataclass_of(tree)))
    return "", []


def dataclass_of(tree: ast.Module) -> str:
    """Name of the one dataclass in a part's file."""
    (kind,) = [
        node.name
        for node in tree.body
        if isinstance(node, ast.ClassDef)
        and any("dataclass" in ast.unparse(d) for d in node.decorator_list)
    ]
    return kind


def keys_of(file: Path, name: str) -> Iterator[Key]:
    """The fields of a dataclass and of its bases; for a field that is declared again, the last
    declaration."""
    yield from {key.name: key for key in _declared(file, name)}.values()


def _declared(file: Path, name: str) -> Iterator[Key]:
    tree = ast.parse(file.read_text())
    (kind,) = [n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == name]
    for base in map(ast.unparse, kind.bases):
        if place := _module_of(base, tree, file):
            yield from _declared(place, base)
    comments = field_comments(file, name)
    for line in kind.body:
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name):
            annotation = ast.unparse(line.annotation)
            if "ClassVar" not in annotation and not annotation.startswith("InitVar"):
                key = line.target.id
                yield Key(key, annotation, _default(line.value), comments.get(key, ""))


def _module_of(base: str, tree: ast.Module, file: Path) -> Path | None:
    """The file of this package that declares a base class; None for other libraries' classes."""
    if any(isinstance(n, ast.ClassDef) and n.name == base for n in tree.body):
        return file
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and base in [a.asname or a.name for a in node.names]:
            place = sources.HERE.parent.joinpath(*(node.module or "").split(".")).with_suffix(".py")
            return place if place.is_file() else None
    return None


def _default(value: ast.expr | None) -> str:
    """A field's default in the syntax of the command line; "" if it is required."""
    if isinstance(value, ast.Call):
        arguments = {k.arg: k.value for k in value.keywords}
        factory = arguments.get("default_factory")
        body = factory.body if isinstance(factory, ast.Lambda) else factory
        value = arguments.get("default", body)
        if isinstance(value, ast.Name):  # a class, such as dict or a section
            return {"dict": "{}", "list": "[]"}.get(value.id, "")
    if value is None:
        return ""
    try:
        return text_of(ast.literal_eval(value))
    except ValueError:
        return ast.unparse(value)


def text_of(value: Any) -> str:
    """A value as Hydra's grammar has it: null, true, 0.1, [1,2], {a: 1}."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{','.join(map(text_of, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{k}: {text_of(v)}' for k, v in value.items())}}}"
    return str(value)
