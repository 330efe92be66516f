"""The bindings of a source file, resolved across imports."""

import ast
import builtins
import importlib.util
from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

from sft_exp.store.code_hash.names import (
    Import,
    Key,
    LibraryName,
    ModuleValue,
    Referent,
    Scope,
    library,
    parent_folder,
    parent_packages,
    path,
    source,
)
from sft_exp.store.code_hash.rules import PACKAGE, READ_ANNOTATIONS
from sft_exp.store.code_hash.syntax import identifiers, is_main, is_text

BUILTINS = {*dir(builtins)}
COMPREHENSIONS = ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp


class Module:
    """A source file: its definitions, its imports, and the code that runs on import."""

    def __init__(self, name: str, file: Path):
        self.name, self.is_package = name, file.stem == "__init__"
        # all bindings of each name at the top level of the module
        self.names: dict[str, list[ast.stmt | Import]] = defaultdict(list)
        self.star_imports: list[str] = []
        self.imports: set[str] = set()
        text = source(file)
        tree = ast.parse(text)
        self.body = [s for s in tree.body if not is_text(s) and not is_main(s)]
        for statement in self.body:
            self.add_bindings(statement)
        # the search in the text is quick, and rules out most files
        mentioned = any(word in text for word in READ_ANNOTATIONS)
        self.uses_annotations = mentioned and not identifiers(tree).isdisjoint(READ_ANNOTATIONS)
        self.resolving: set[str] = set()  # names that are being resolved, to stop at cycles

    def add_bindings(self, statement: ast.stmt) -> None:
        """Note the names that a top-level statement binds, and the modules that it imports."""
        if not isinstance(statement, ast.Import | ast.ImportFrom):
            for name in bound_names([statement]):
                self.names[name].append(statement)
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            return
        for inner in ast.walk(statement):
            if isinstance(inner, ast.Import | ast.ImportFrom):
                self.imports |= self.modules_run(inner)
                for name, target in self.bindings_of(inner):
                    if name == "*":
                        self.star_imports.append(target[0])
                    else:
                        self.names[name].append(target)

    def bindings_of(self, statement: ast.Import | ast.ImportFrom) -> list[tuple[str, Import]]:
        """(name, target) of each name that an import statement binds."""
        if isinstance(statement, ast.Import):
            # `import a.b` binds a; `import a.b as c` binds c to a.b
            tops = [a.name.partition(".")[0] for a in statement.names]
            return [
                (a.asname, (a.name, None)) if a.asname else (top, (top, None))
                for a, top in zip(statement.names, tops, strict=True)
            ]
        return [
            (a.asname or a.name, (self.absolute_module(statement), a.name)) for a in statement.names
        ]

    def absolute_module(self, statement: ast.ImportFrom) -> str:
        """The absolute name of the module in `from module import ...`."""
        if not statement.level:
            return statement.module or ""
        package = self.name if self.is_package else self.name.rpartition(".")[0]
        return importlib.util.resolve_name(
            "." * statement.level + (statement.module or ""), package
        )

    def modules_run(self, statement: ast.Import | ast.ImportFrom) -> set[str]:
        """Hashed modules that an import statement runs, with their parent packages."""
        if isinstance(statement, ast.Import):
            names = {a.name for a in statement.names}
        else:
            base = self.absolute_module(statement)
            names = {base, *(f"{base}.{a.name}" for a in statement.names)}
        hashed = {name for name in names if name and self.is_hashed(name)}
        with_parents = hashed | {parent for name in hashed for parent in parent_packages(name)}
        return {name for name in with_parents if path(name)}

    def is_hashed(self, name: str) -> bool:
        """Whether a module is hashed.

        That is the code of this project, of this module's own package, and for a user's part also
        modules in the folders above it.
        """
        top = name.partition(".")[0]
        if top in (PACKAGE, self.name.partition(".")[0]):
            return True
        home, file = parent_folder(top), path(self.name)
        return home is not None and file is not None and home in file.parents and not library(name)

    def resolve(self, name: str) -> list[Referent]:
        """The possible referents of a top-level name of this module; [] for a builtin."""
        if name in self.resolving:
            return []  # two modules import the name from each other
        referents: list[Referent] = []
        self.resolving.add(name)
        for binding in self.names.get(name, ()):
            own: list[Referent] = [Key(self.name, name)]
            new = self.resolve_import(binding) if isinstance(binding, tuple) else own
            referents.extend(referent for referent in new if referent not in referents)
        self.resolving.discard(name)
        return referents

    def resolve_import(self, target: Import) -> list[Referent]:
        """The possible referents of an import, followed through packages that re-export it."""
        base, name = target
        if not self.is_hashed(base):
            return [LibraryName(base if name is None else f"{base}.{name}")]
        return [ModuleValue(base)] if name is None else resolve_attribute(base, name)

    def statements(self, name: str) -> list[ast.stmt]:
        return [b for b in self.names.get(name, ()) if isinstance(b, ast.stmt)]


@cache
def read(module: str) -> Module | None:
    """The module's analysed source, or None if there is no source file."""
    file = path(module)
    return Module(module, file) if file else None


def resolve_attribute(module: str, name: str) -> list[Referent]:
    """The possible referents of `module.name` in a hashed module."""
    content = read(module)
    referents = content.resolve(name) if content else []
    submodule = ModuleValue(f"{module}.{name}")
    if path(submodule.module) and submodule not in referents:
        referents.append(submodule)
    # if the source does not show it, the whole module counts
    return referents or [ModuleValue(module)]


def referents_of(node: ast.expr, module: Module, scopes: Sequence[Scope] = ()) -> list[Referent]:
    """The possible referents of a name or of a chain `package.module.name`.

    Args:
        scopes: the local names around the expression, the outermost first.

    Returns:
        [] for local names and attributes of objects.
    """
    if isinstance(node, ast.Name):
        for scope in reversed(scopes):
            if node.id in scope:
                return [
                    referent
                    for target in scope[node.id]
                    for referent in module.resolve_import(target)
                ]
        builtin: list[Referent] = [LibraryName(node.id)] if node.id in BUILTINS else []
        return module.resolve(node.id) or builtin
    if isinstance(node, ast.Subscript):  # Generic[T]
        inner = referents_of(node.value, module, scopes)
        return [m for m in inner if isinstance(m, LibraryName)]
    if not isinstance(node, ast.Attribute):
        return []
    referents: list[Referent] = []
    for owner in referents_of(node.value, module, scopes):
        if isinstance(owner, Key):
            return []
        if isinstance(owner, LibraryName):
            referents.append(LibraryName(f"{owner.path}.{node.attr}"))
        else:
            referents += resolve_attribute(owner.module, node.attr)
    return referents


def bound_names(body: Iterable[ast.AST], module: Module | None = None) -> Scope:
    """Names that code binds in its own scope, with the targets of its imports."""
    scope: Scope = defaultdict(list)
    elsewhere: set[str] = set()  # names declared global or nonlocal
    todo = list(body)
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Global | ast.Nonlocal):
            elsewhere.update(node.names)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            for name, target in module.bindings_of(node) if module else ():
                scope[name].append(target)
        elif isinstance(node, ast.Name):
            if not isinstance(node.ctx, ast.Load):
                scope[node.id] = scope[node.id]
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            scope[node.name] = scope[node.name]
        elif isinstance(node, COMPREHENSIONS):
            todo.extend(n.target for n in ast.walk(node) if isinstance(n, ast.NamedExpr))
        elif not isinstance(node, ast.Lambda):
            # names bound by `except ... as name` and by patterns of `match`
            attribute = "rest" if isinstance(node, ast.MatchMapping) else "name"
            bound = getattr(node, attribute, None)
            if isinstance(bound, str):
                scope[bound] = scope[bound]
            todo.extend(ast.iter_child_nodes(node))
    return {name: targets for name, targets in scope.items() if name not in elsewhere}


def sibling_modules(module: Module) -> set[str]:
    """All modules of a module's top-level package, or of its folder if it is in no package."""
    top, file = module.name.partition(".")[0], path(module.name)
    home = parent_folder(top)
    if file is None or home is None:
        return set()
    root = home / top if (home / top).is_dir() else home
    files = root.rglob("*.py") if root != home else root.glob("*.py")
    names = (
        ".".join(f.relative_to(home).with_suffix("").parts).removesuffix(".__init__") for f in files
    )
    return {name for name in names if path(name)}
