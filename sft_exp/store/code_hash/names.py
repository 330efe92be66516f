"""Names of definitions, modules and names of libraries, and the source files that they are in."""

import ast
import importlib.util
import tokenize
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

from sft_exp.store.code_hash.rules import PACKAGE


class Key(NamedTuple):
    """A definition in hashed code.

    `name` is "function", "Class", "Class.member", or "" for the code that runs on import.
    """

    module: str
    name: str


class ModuleValue(NamedTuple):
    """A hashed module as a value: `import package.module as m`, then `m`."""

    module: str


class LibraryName(NamedTuple):
    """A name in an installed library, by its full path."""

    path: str


Referent = Key | ModuleValue | LibraryName
Import = tuple[str, str | None]  # (module, name in it or None for the module itself)
Scope = dict[str, list[Import]]  # local names of a function, with the targets of its imports


@dataclass(frozen=True)
class Definition:
    """The hashed text of a definition, and its dependencies."""

    text: str
    uses: tuple[Key, ...] = ()
    # members that may be called, by name or pattern, also from strings: "loss", "loss_*"
    called_names: frozenset[str] = frozenset()
    # attributes that are only read, which calls no plain method: `step.metrics["loss"]`
    read_names: frozenset[str] = frozenset()
    whole_modules: frozenset[str] = frozenset()  # modules of which all definitions count
    imports: frozenset[str] = frozenset()  # modules that it imports
    dynamic: bool = False  # accesses members by names that the source does not show


def dotted_names(text: str) -> list[str]:
    """The names in text such as `name` or `package.module.name`; [] for other text."""
    names = text.split(".")
    return names if all(name.isidentifier() for name in names) else []


@cache
def by_path(text: str) -> Key | None:
    """The definition that a string such as "package.module.Name" names, if its source is found."""
    names = dotted_names(text)
    for n in range(len(names) - 1, 0, -1):
        if path(".".join(names[:n])):
            return Key(".".join(names[:n]), names[n])
    return None


@cache
def library(text: str) -> bool:
    """Whether a module is of an installed library: its version is recorded, its code not hashed."""
    top = text.partition(".")[0]
    if top == PACKAGE:
        return False
    home = parent_folder(top)
    return (
        home is None
        or home.name in ("site-packages", "dist-packages")
        or home == Path(ast.__file__).parent
    )


@cache
def path(module: str) -> Path | None:
    """The module's source file, found without importing its parent packages."""
    top, *inner = module.split(".")
    try:
        spec = importlib.util.find_spec(top) if top else None
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    if not inner:
        return Path(spec.origin) if spec.origin and spec.origin.endswith(".py") else None
    for place in spec.submodule_search_locations or ():
        base = Path(place, *inner)
        for file in (base / "__init__.py", base.with_name(f"{base.name}.py")):
            if file.is_file():
                return file
    return None


@cache
def parent_folder(top: str) -> Path | None:
    """The folder that contains a top-level module or package."""
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    places = list(spec.submodule_search_locations or ())
    place = places[0] if places else spec.origin
    return Path(place).parent if place else None


def parent_packages(module: str) -> list[str]:
    """The parent packages of a module, outermost first."""
    names = module.split(".")
    return [".".join(names[:n]) for n in range(1, len(names))]


def source(file: Path) -> str:
    with tokenize.open(file) as opened:
        return opened.read()
