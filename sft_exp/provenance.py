"""What code a result depends on, as a hash: fixing `nets.py` must not silently reuse weights trained before the fix."""

import ast
import hashlib
import importlib.util
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any

from sft_exp.experiment import Target

PACKAGE = __name__.partition(".")[0]
# Modules that every part imports and whose behaviour the requests already state, or that cannot change a number.
NEUTRAL = {
    f"{PACKAGE}.{m}" for m in ("durable", "errors", "experiment", "provenance", "store", "track", "progress", "stages.context")
}


def digest(request: dict[str, Any], *modules: str) -> str:
    """Hash of the source of `modules`, of the parts in the request, and of all modules of this project they import."""
    told = {k: v for k, v in request.items() if not k.startswith("_")}  # the others change no result
    roots = set(modules) | {type(part).__module__ for part in parts(told)}
    roots |= {v.path.rpartition(".")[0] for v in told.values() if isinstance(v, Target) and v.path.startswith(f"{PACKAGE}.")}
    found: set[str] = set()
    while roots:
        found |= roots
        roots = {m for name in roots for m in imported(name)} - found
    text = "".join(meaning(name) for name in sorted(found - NEUTRAL))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def parts(value: Any) -> Iterator[Any]:
    """Every part in a request, also those inside lists, dicts and other parts."""
    if isinstance(value, dict | list | tuple):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from parts(inner)
    elif is_dataclass(value) and not isinstance(value, type | Target):
        yield value
        yield from parts([getattr(value, f.name) for f in fields(value)])


@cache
def imported(module: str) -> frozenset[str]:
    """Modules of this project, or beside a user's plugin, that a module imports. `from package import module` means the
    module and not the package, whose `__init__` leads to everything."""
    file = path(module)
    package = module if file and file.stem == "__init__" else module.rpartition(".")[0]
    names = set()
    for node in ast.walk(ast.parse(source(module))):
        if isinstance(node, ast.Import):
            names |= {a.name for a in node.names if near(a.name, module)}
        elif isinstance(node, ast.ImportFrom):
            base = importlib.util.resolve_name("." * node.level + (node.module or ""), package) if node.level else node.module
            if base and near(base, module):
                whole = path(base)
                holds = whole is None or whole.stem == "__init__"  # a package; looking into a module would run it
                names |= {below if holds and path(below := f"{base}.{a.name}") else base for a in node.names}
    return frozenset(n for n in names if path(n))


def near(name: str, module: str) -> bool:
    """Whether `name` is of this project, of the module's own package, or a file beside it. Looks without importing it."""
    first, file = path(name.partition(".")[0]), path(module)
    beside = first is not None and file is not None and first.parent == file.parent
    return name.partition(".")[0] in (PACKAGE, module.partition(".")[0]) or beside


@cache
def meaning(module: str) -> str:
    """The module's code without comments, layout or docstrings: `ast.unparse` is the same on every Python version."""
    tree = ast.parse(source(module))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(tree)


def source(module: str) -> str:
    file = path(module)
    return file.read_text() if file else ""


@cache
def path(module: str) -> Path | None:
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return None
    return Path(spec.origin) if spec and spec.origin and spec.origin.endswith(".py") else None


def plain(value: Any) -> Any:
    """A request as JSON. An input folder stands for itself by its name, which is a hash, so that a request's hash covers
    everything upstream of it; fields a part calls `unhashed`, and keys that begin with `_`, cannot change a result and are
    left out."""
    if is_dataclass(value) and not isinstance(value, type):
        unhashed = getattr(value, "unhashed", ())
        return {"is": f"{type(value).__module__}.{type(value).__name__}"} | {
            f.name: plain(getattr(value, f.name)) for f in fields(value) if f.name not in unhashed
        }
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items() if not str(k).startswith("_")}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return value.name if isinstance(value, Path) else value
