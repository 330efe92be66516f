"""Which code can change a result, as a hash: mending a loss must not silently reuse weights that were trained before.

The unit is a definition: a function, a constant, a method or an attribute of a class. The hash of a request covers the
definitions that its stage and its parts reach, read from the source and never imported. It is blind to docstrings, comments,
layout, type annotations, the text of errors and of messages, and to the module that holds a definition. Where the source does
not tell what is reached, more is taken: a whole class or a whole module. See docs/decisions/0060-a-hash-per-definition.md.
"""

import ast
import builtins
import hashlib
import importlib.util
import tokenize
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, is_dataclass
from fnmatch import fnmatchcase
from functools import cache, cached_property
from pathlib import Path
from typing import Any, NamedTuple

from sft_exp.store.requests import parts, stated

PACKAGE = __name__.partition(".")[0]

# Reached, but unable to change a number. Everything else that runs in a stage is hashed; tests/test_code_hash.py profiles the
# stages and fails for a function that ran, is not in the closure and is not below one of these.
NEUTRAL = {
    f"{PACKAGE}.{name}": reason
    for name, reason in {
        "store.atomic_io": "writes the bytes that it is given",
        "config.moved": "earlier names of classes; requests name these classes themselves",
        "errors": "a run that raises leaves no result",
        "progress": "messages to the console",
        "core.tracker": "mirrors what is on disk",
        "trackers": "mirror what is on disk",
        "store.requests": "turns a request into JSON, which is hashed itself",
        "training.context": "device, threads, tracker and signals; results are those of the request",
        "training.checkpoints": "a resumed training ends in the same bits",
        "stages.monitor": "looks at the features and changes nothing",
        "distributed.select": "any engine gives the numbers of the local one, which is hashed",
        "distributed.group": "the same",
        "distributed.sharing": "the same",
        "distributed.ddp": "the same",
        "distributed.fsdp": "the same",
    }.items()
}
# what these are given is text,
SPEECH = ("print", "warnings.warn", "logging", f"{PACKAGE}.progress")
REFUSALS = f"{PACKAGE}.errors"  # and so are the strings that these are given
ENTRIES = ("load",)  # methods of parts that neutral code calls: the context loads data sets

IMPORTERS = {"importlib.import_module", "__import__"}
ANY_NAME = {"vars", "dir", "globals", "locals", "eval", "exec", "sys.modules", "inspect.getmembers"}
ANY_NAME_ATTRIBUTES = {"__dict__", "__subclasses__"}
READ_ANNOTATIONS = {
    "singledispatch",
    "singledispatchmethod",
    "get_type_hints",
    "__annotations__",
    "script",
    "validate_call",
}
PLAIN_DECORATORS = {"staticmethod", "classmethod"}  # of methods that still have to be called
QUIET_DECORATORS = (  # keep no list of what they decorate
    "dataclasses", "functools", "contextlib", "typing", "abc", "torch.no_grad", "torch.inference_mode", "torch.enable_grad",
)  # fmt: skip
# library classes that call no method
EMPTY_BASES = {"object", "abc.ABC", "typing.Protocol", "typing.Generic"}
# calls the methods of its subclasses that it has itself, such as forward
TORCH_MODULE = "torch.nn.Module"
SILENT = {"ctx", "kind", "type_comment", "type_ignores", "type_params", "returns", "annotation"}


class Key(NamedTuple):
    """A definition of ours. The name "Class.member" is a member of a class; an empty one is what a module does on import."""

    module: str
    name: str


class Inside(NamedTuple):
    """A module of ours, as a value."""

    module: str


class Library(NamedTuple):
    """A name of a library, by its full path."""

    path: str


Meaning = Key | Inside | Library
Import = tuple[str, str | None]  # (module, name in it or None for the module itself)
Scope = dict[str, list[Import]]  # a function's own names, and what its imports bind them to


@dataclass(frozen=True)
class Definition:
    """What is hashed of a definition, and what it leads to."""

    text: str
    uses: tuple[Key, ...] = ()
    # attributes that may be called, and strings that may name some: "loss", "loss_*"
    asked: frozenset[str] = frozenset()
    # attributes that are only looked into, which calls no method: `step.metrics["loss"]`
    seen: frozenset[str] = frozenset()
    whole: frozenset[str] = frozenset()  # modules of which all counts
    loads: frozenset[str] = frozenset()  # modules that it imports
    any_name: bool = False  # asks for attributes whatever they are called


def digest(request: Mapping[str, Any], *functions: Callable) -> str:
    """Hash of all code that `functions` and the parts in the request can reach. Keys with a leading `_` change no result."""
    return digest_of(*roots(request, *functions))


def reached(request: Mapping[str, Any], *functions: Callable) -> set[Key]:
    """The definitions that the hash covers."""
    return {*closure(*roots(request, *functions))}


def roots(
    request: Mapping[str, Any], *functions: Callable
) -> tuple[frozenset[Key], frozenset[str]]:
    """(definitions that a request begins with, words in it that may name others)."""
    told = {k: v for k, v in request.items() if not k.startswith("_")}
    owners: list[Any] = [*functions, *(type(part) for part in parts(told))]
    begun = {Key(owner.__module__, owner.__qualname__.partition(".")[0]) for owner in owners}
    texts = [*strings(list(told.values()))]
    named = {key for text in texts if (key := by_path(text)) and not library(text)}
    return frozenset(begun | named), frozenset(text for text in texts if text.isidentifier())


@cache
def digest_of(begun: frozenset[Key], words: frozenset[str]) -> str:
    """Labels of the definitions in the closure, refined by those of what they use until no more differ. No label holds a
    module's name, so that a definition may move."""
    found = closure(begun, words)
    labels = {key: hash_of(known.text) for key, known in found.items()}
    count = 0
    while count < (count := len(set(labels.values()))):
        labels = {
            k: hash_of(known.text, *(labels.get(use, "") for use in known.uses))
            for k, known in found.items()
        }
    return hash_of(*sorted(labels[key] for key, known in found.items() if known.text))[:16]


def hash_of(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()


def closure(begun: Iterable[Key], words: Iterable[str] = ()) -> dict[Key, Definition]:
    """All definitions that these reach. Members of classes are reached by their names; `words` are names that somebody
    may ask for beside those in the code."""
    found: dict[Key, Definition] = {}
    asked, seen, computed = {*words, *ENTRIES}, set[str](), False
    # name of a member -> members, and whether plain methods
    waiting: dict[str, list[tuple[Key, bool]]] = defaultdict(list)
    todo = list(begun)

    def ask(name: str, by_call: bool) -> None:
        (asked if by_call else seen).add(name)
        matching = [n for n in waiting if fnmatchcase(n, name)] if "*" in name else [name]
        todo.extend(key for n in matching for key, plain in waiting[n] if by_call or not plain)

    def wanted(name: str, plain: bool) -> bool:
        return (
            name in asked
            or (name in seen and not plain)
            or any(fnmatchcase(name, a) for a in asked if "*" in a)
        )

    while todo:
        key = todo.pop()
        if key in found or neutral(key.module, key.name):
            continue
        module = read(key.module)
        if module is None:
            continue
        if key.name.partition(".")[0] not in module.names and key.name:
            todo.extend(everything(key.module))  # made in a way that the source does not show
            continue
        known = found[key] = module.definition(key.name)
        todo.append(Key(key.module, ""))
        todo.extend(known.uses)
        for name in known.whole:
            todo.extend(everything(name))
        todo.extend(Key(name, "") for name in known.loads)
        for name in known.asked - asked:
            ask(name, True)
        for name in known.seen - seen:
            ask(name, False)
        if known.any_name and not computed:
            computed = True
            todo.extend(member for members in waiting.values() for member, _ in members)
        for name, plain, always in module.members(key.name):
            member = Key(key.module, f"{key.name}.{name}")
            waiting[name].append((member, plain))
            if always or computed or wanted(name, plain):
                todo.append(member)
    return found


def everything(module: str) -> Iterator[Key]:
    """All definitions of a module, with all members of its classes."""
    known = None if neutral(module) else read(module)
    if known is None:
        return
    yield Key(module, "")
    for name in [*known.names]:
        yield Key(module, name)
        yield from (Key(module, f"{name}.{member}") for member, _, _ in known.members(name))


def neutral(module: str, name: str = "") -> bool:
    return below(f"{module}.{name}", NEUTRAL)


def below(path: str, tops: Iterable[str]) -> bool:
    return any(f"{path}.".startswith(f"{top}.") for top in tops)


# Requests


def strings(value: Any) -> Iterator[str]:
    """Strings in a request, which may name what a part looks up: `loss: huber`, `base: torch.optim.SGD`."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list | tuple):
        for inner in [*value, *value.values()] if isinstance(value, dict) else value:
            yield from strings(inner)
    elif is_dataclass(value) and not isinstance(value, type):
        for inner in stated(value).values():
            yield from strings(inner)


def dotted(text: str) -> list[str]:
    """The names in `name` or `name.of.something`; none in other text."""
    names = text.split(".")
    return names if all(name.isidentifier() for name in names) else []


@cache
def by_path(text: str) -> Key | None:
    """What a string such as "package.module.Name" names, if that is source code; of a module, what it does and all it holds."""
    names = dotted(text)
    for n in range(len(names) - 1, 0, -1):
        if path(".".join(names[:n])):
            return Key(".".join(names[:n]), names[n])
    return None


@cache
def library(text: str) -> bool:
    """Whether a module belongs to an installed library, whose version is recorded and whose code is not hashed."""
    top = text.partition(".")[0]
    if top == PACKAGE:
        return False
    home = folder(top)
    return (
        home is None
        or home.name in ("site-packages", "dist-packages")
        or home == Path(ast.__file__).parent
    )


# Modules


class Module:
    """What a source file defines, imports and does when it is imported."""

    def __init__(self, name: str, file: Path):
        self.name, self.is_package = name, file.stem == "__init__"
        # every binding of a name at the top of the module
        self.names: dict[str, list[ast.stmt | Import]] = defaultdict(list)
        self.stars: list[str] = []
        self.loads: set[str] = set()
        text = source(file)
        tree = ast.parse(text)
        self.body = [s for s in tree.body if not is_text(s) and not is_main(s)]
        for statement in self.body:
            self.enter(statement)
        self.typed = any(word in text for word in READ_ANNOTATIONS) and not names_of(
            tree
        ).isdisjoint(READ_ANNOTATIONS)
        self.known: dict[str, Definition] = {}
        self.followed: set[str] = set()  # names whose imports are followed now

    def enter(self, statement: ast.stmt) -> None:
        if not isinstance(statement, ast.Import | ast.ImportFrom):
            for name in bound([statement]):
                self.names[name].append(statement)
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            return
        for inner in ast.walk(statement):
            if isinstance(inner, ast.Import | ast.ImportFrom):
                self.loads |= self.loaded(inner)
                for name, target in self.imported(inner):
                    self.stars.append(target[0]) if name == "*" else self.names[name].append(target)

    def acts(self, statement: ast.stmt) -> bool:
        """Whether a statement at the top of the module may do more than to bind names: it counts whenever the module does."""
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            for decorator in statement.decorator_list:
                meanings = Reader(self).meanings(called_by(decorator))
                if not meanings or not all(
                    isinstance(m, Library) and below(m.path, QUIET_DECORATORS) for m in meanings
                ):
                    return True
            return isinstance(statement, ast.ClassDef) and class_of(self, statement).registers
        return not binds_alone(statement)

    def imported(self, statement: ast.Import | ast.ImportFrom) -> list[tuple[str, Import]]:
        """(name that the import binds, what it is bound to)."""
        if isinstance(statement, ast.Import):
            return [(a.asname or a.name.partition(".")[0], (a.name if a.asname else a.name.partition(".")[0], None))
                    for a in statement.names]  # fmt: skip
        return [(a.asname or a.name, (self.base(statement), a.name)) for a in statement.names]

    def base(self, statement: ast.ImportFrom) -> str:
        if not statement.level:
            return statement.module or ""
        package = self.name if self.is_package else self.name.rpartition(".")[0]
        return importlib.util.resolve_name(
            "." * statement.level + (statement.module or ""), package
        )

    def loaded(self, statement: ast.Import | ast.ImportFrom) -> set[str]:
        """Modules of ours that an import runs, with the packages around them."""
        if isinstance(statement, ast.Import):
            names = {a.name for a in statement.names}
        else:
            base = self.base(statement)
            names = {base, *(f"{base}.{a.name}" for a in statement.names)}
        near = {name for name in names if name and self.near(name)}
        around = {name.rsplit(".", n)[0] for name in near for n in range(name.count(".") + 1)}
        return {name for name in around if path(name)}

    def near(self, name: str) -> bool:
        """Whether a module is of this project or, of a user's part, in its own package or in a folder around it."""
        top = name.partition(".")[0]
        if top in (PACKAGE, self.name.partition(".")[0]):
            return True
        home, file = folder(top), path(self.name)
        return home is not None and file is not None and home in file.parents and not library(name)

    def meanings(self, name: str) -> list[Meaning]:
        """What a name at the top of this module may stand for; none for a builtin."""
        found: list[Meaning] = []
        if name in self.followed:
            return found  # modules that import a name from each other
        self.followed.add(name)
        for binding in self.names.get(name, ()):
            more = self.follow(binding) if isinstance(binding, tuple) else [Key(self.name, name)]
            found.extend(meaning for meaning in more if meaning not in found)
        self.followed.discard(name)
        return found

    def follow(self, target: Import) -> list[Meaning]:
        """What an import is bound to, through the packages that pass it on."""
        base, name = target
        if not self.near(base):
            return [Library(base if name is None else f"{base}.{name}")]
        return [Inside(base)] if name is None else attribute(base, name)

    def statements(self, name: str) -> list[ast.stmt]:
        return [b for b in self.names.get(name, ()) if isinstance(b, ast.stmt)]

    def definition(self, name: str) -> Definition:
        if name not in self.known:
            self.known[name] = self.described(name)
        return self.known[name]

    def described(self, name: str) -> Definition:
        if not name:
            reader = Reader(self)
            reader.block(s for s in self.body if self.acts(s))
            return reader.found(
                "", frozenset(self.loads) | {m for m in outer(self.name) if path(m)}
            )
        reader = Reader(self)
        owner, _, member = name.partition(".")
        if member:
            reader.uses.append(Key(self.name, owner))
            reader.block(s for kind in self.classes(owner) for s in kind.members[member])
            return reader.found(name)
        for statement in self.statements(name):
            if isinstance(statement, ast.ClassDef):
                reader.head(
                    statement, next(k.rest for k in self.classes(name) if k.node is statement)
                )
            else:
                reader.visit(statement)
        for target in self.names[name]:
            if isinstance(target, tuple):
                reader.refer(self.follow(target))
        return reader.found(name)

    def classes(self, name: str) -> list["Class"]:
        return [class_of(self, s) for s in self.statements(name) if isinstance(s, ast.ClassDef)]

    def members(self, name: str) -> Iterator[tuple[str, bool, bool]]:
        """(member, whether it is a plain method, whether it counts whoever asks for it) of a class that is a definition."""
        for kind in self.classes(name):
            for member, statements in kind.members.items():
                plain = all(is_plain_method(s) for s in statements)
                yield member, plain, kind.whole or member.startswith("_") or member in kind.called


@cache
def read(module: str) -> Module | None:
    file = path(module)
    return Module(module, file) if file else None


def source(file: Path) -> str:
    with tokenize.open(file) as opened:
        return opened.read()


@cache
def path(module: str) -> Path | None:
    """The module's source file, found without importing the packages around it."""
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
def folder(top: str) -> Path | None:
    """The folder that a top-level module or package lies in."""
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    places = list(spec.submodule_search_locations or ())
    place = places[0] if places else spec.origin
    return Path(place).parent if place else None


def attribute(module: str, name: str) -> list[Meaning]:
    """What `module.name` may be, of a module of ours."""
    known = read(module)
    found = known.meanings(name) if known else []
    if path(f"{module}.{name}") and Inside(f"{module}.{name}") not in found:
        found.append(Inside(f"{module}.{name}"))
    return found or [Inside(module)]  # made in a way that the source does not show: all of it


def outer(module: str) -> list[str]:
    names = module.split(".")
    return [".".join(names[:n]) for n in range(1, len(names))]


def forget_files() -> None:
    """Read all source files anew."""
    for cached in (digest_of, by_path, library, read, path, folder, class_of):
        cached.cache_clear()


# Classes


class Class:
    """Which members of a class count only if somebody asks for them by name: those of our contracts (dataclasses and networks).
    Others may be handed to a library, which calls what it likes, and count as a whole."""

    def __init__(self, module: Module, node: ast.ClassDef):
        self.module, self.node = module, node
        self.members: dict[str, list[ast.stmt]] = defaultdict(list)
        self.rest: list[ast.stmt] = []  # fields and whatever else runs in the body
        for statement in node.body:
            names = member_names(statement)
            for name in names:
                self.members[name].append(statement)
            if not names:
                self.rest.append(statement)

    @cached_property
    def bases(self) -> list[Meaning | None]:
        """None is one that the source does not tell."""
        return self.meanings(self.node.bases)

    def meanings(self, nodes: list[ast.expr]) -> list[Meaning | None]:
        reader, unknown = Reader(self.module), list[Meaning | None]([None])
        return [m for node in nodes for m in (reader.meanings(node) or unknown)]

    @cached_property
    def ancestors(self) -> list["Class"]:
        """Classes of ours that it is derived from, itself the first."""
        found = [self]
        for kind in found:
            for base in kind.bases:
                if isinstance(base, Key) and (module := read(base.module)):
                    found += [k for k in module.classes(base.name) if k not in found]
        return found

    @cached_property
    def libraries(self) -> set[str | None]:
        """Library classes at the top of its ancestry, by path; None for a base that may be any class."""
        bases = [
            base
            for kind in self.ancestors
            for base in kind.bases
            if not (isinstance(base, Key) and is_class(base))
        ]
        return {base.path if isinstance(base, Library) else None for base in bases}

    @cached_property
    def whole(self) -> bool:
        decorators = [m for kind in self.ancestors for m in kind.decorators]
        contract = TORCH_MODULE in self.libraries or Library("dataclasses.dataclass") in decorators
        unknown = {
            m
            for m in decorators
            if m is None or (isinstance(m, Library) and m.path != "dataclasses.dataclass")
        }
        return (
            not contract
            or bool(unknown)
            or self.registers
            or not self.libraries <= EMPTY_BASES | {TORCH_MODULE}
        )

    @cached_property
    def decorators(self) -> list[Meaning | None]:
        return self.meanings([called_by(d) for d in self.node.decorator_list])

    @cached_property
    def called(self) -> frozenset[str]:
        """Members that torch calls by itself."""
        return torch_names() if TORCH_MODULE in self.libraries else frozenset()

    @property
    def registers(self) -> bool:
        """Whether an ancestor is told of each class that is derived from it."""
        return any(
            kind.node.keywords or "__init_subclass__" in kind.members for kind in self.ancestors
        )

    @property
    def ordinary(self) -> bool:
        """Whether `isinstance` looks at nothing but its place in the tree of classes."""
        odd = {"typing.Protocol", "abc.ABC", None}
        return not (self.libraries & odd) and not self.registers


@cache
def class_of(module: Module, node: ast.ClassDef) -> Class:
    return Class(module, node)


def is_class(key: Key) -> bool:
    """Whether a name stands for a class of ours, whatever happens."""
    module = read(key.module)
    return module is not None and len(module.classes(key.name)) == len(module.names[key.name]) > 0


@cache
def torch_names() -> frozenset[str]:
    from torch import nn

    return frozenset({*dir(nn.Module), "reset_parameters"})


def member_names(statement: ast.stmt) -> list[str]:
    """What a statement of a class's body makes that somebody must ask for: methods, and attributes that are no fields."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef):
        return [statement.name]
    if isinstance(statement, ast.Assign) and all(
        isinstance(t, ast.Name) for t in statement.targets
    ):
        return [t.id for t in statement.targets if isinstance(t, ast.Name)]
    if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
        return [statement.target.id] if "ClassVar" in ast.unparse(statement.annotation) else []
    return []


def is_plain_method(statement: ast.stmt) -> bool:
    """Whether looking at it, without a call, runs nothing."""
    if not isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef):
        return False
    return all(
        isinstance(d, ast.Name) and d.id in PLAIN_DECORATORS for d in statement.decorator_list
    )


# Statements


def is_text(statement: ast.stmt) -> bool:
    """A docstring, or another constant that stands alone."""
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def is_main(statement: ast.stmt) -> bool:
    """`if __name__ == "__main__":`, which an import passes over."""
    return (
        isinstance(statement, ast.If)
        and ast.unparse(statement.test) == "__name__ == '__main__'"
        and not statement.orelse
    )


def binds_alone(statement: ast.stmt) -> bool:
    """Whether all that a statement does is to bind names; a call may do anything."""
    if isinstance(statement, ast.Assign | ast.AnnAssign):
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        stored = [
            n for t in targets for n in ast.walk(t) if isinstance(n, ast.Attribute | ast.Subscript)
        ]
        return not stored and not (statement.value and has_call(statement.value))
    if isinstance(statement, ast.If | ast.Try):
        inner = [n for n in ast.iter_child_nodes(statement) if isinstance(n, ast.stmt)]
        inner += [
            s
            for n in ast.iter_child_nodes(statement)
            if isinstance(n, ast.ExceptHandler)
            for s in n.body
        ]
        return all(is_text(s) or binds_alone(s) for s in inner)
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return not statement.decorator_list
    return isinstance(statement, ast.Import | ast.ImportFrom | ast.Pass)


def names_of(tree: ast.AST) -> set[str]:
    return {
        n.id if isinstance(n, ast.Name) else n.attr
        for n in ast.walk(tree)
        if isinstance(n, ast.Name | ast.Attribute)
    }


def called_by(decorator: ast.expr) -> ast.expr:
    return decorator.func if isinstance(decorator, ast.Call) else decorator


COMPREHENSIONS = ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp


def bound(body: Iterable[ast.AST], module: Module | None = None) -> Scope:
    """Names that a scope binds itself, with all that its imports bind them to."""
    found: Scope = defaultdict(list)
    elsewhere: set[str] = set()
    todo = list(body)
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Global | ast.Nonlocal):
            elsewhere.update(node.names)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            for name, target in module.imported(node) if module else ():
                found[name].append(target)
        elif isinstance(node, ast.Name):
            found |= {} if isinstance(node.ctx, ast.Load) else {node.id: found[node.id]}
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found[node.name] = found[node.name]
        elif isinstance(node, COMPREHENSIONS):
            todo.extend(n.target for n in ast.walk(node) if isinstance(n, ast.NamedExpr))
        elif not isinstance(node, ast.Lambda):
            # an exception's, a pattern's
            given = getattr(node, "rest" if isinstance(node, ast.MatchMapping) else "name", None)
            found |= {given: found[given]} if isinstance(given, str) else {}
            todo.extend(ast.iter_child_nodes(node))
    return {name: targets for name, targets in found.items() if name not in elsewhere}


class Reader(ast.NodeVisitor):
    """Writes the meaning of some code, and notes what it leads to.

    Names are written as what they stand for: one of ours by its own name, one of a library by its full path. How a module was
    imported, and where from, does not show.
    """

    def __init__(self, module: Module):
        self.module = module
        self.out: list[str] = []
        self.uses: list[Key] = []
        self.asked: set[str] = set()
        self.seen: set[str] = set()
        self.whole: set[str] = set()
        self.loads: set[str] = set()
        self.any_name = False
        self.scopes: list[Scope] = []
        self.testing = False  # inside `isinstance` or `except`, where a class is only told apart

    def found(self, name: str, loads: frozenset[str] = frozenset()) -> Definition:
        stars = [star for star in self.module.stars if self.module.near(star)]
        outside = sorted(star for star in self.module.stars if star not in stars)
        text = " ".join([name, *outside, *self.out])
        sets = (
            frozenset(self.asked),
            frozenset(self.seen),
            frozenset(self.whole | {*stars}),
            loads | self.loads,
        )
        return Definition(text, tuple(self.uses), *sets, self.any_name)

    # Names

    def refer(self, meanings: list[Meaning]) -> None:
        """Write what a name stands for, and note what that leads to."""
        for meaning in meanings:
            if isinstance(meaning, Library):
                self.out.append(meaning.path)
            elif isinstance(meaning, Inside):
                self.out.append(f"@{meaning.module.rpartition('.')[2]}")
                self.whole.add(meaning.module)
            else:
                self.out.append(f"@{meaning.name}")
                if not (self.testing and self.only_told_apart(meaning)):
                    self.uses.append(meaning)

    def only_told_apart(self, key: Key) -> bool:
        module = read(key.module)
        return (
            module is not None
            and is_class(key)
            and all(kind.ordinary for kind in module.classes(key.name))
        )

    def meanings(self, node: ast.expr) -> list[Meaning]:
        """What a name or a chain `a.b.c` of modules stands for; none if it is local, a builtin or an object's attribute."""
        if isinstance(node, ast.Name):
            for scope in reversed(self.scopes):
                if node.id in scope:
                    return [
                        meaning
                        for target in scope[node.id]
                        for meaning in self.module.follow(target)
                    ]
            found = self.module.meanings(node.id)
            return found or ([Library(node.id)] if node.id in BUILTINS else [])
        if isinstance(node, ast.Subscript):
            return [m for m in self.meanings(node.value) if isinstance(m, Library)]  # Generic[T]
        if not isinstance(node, ast.Attribute):
            return []
        found = []
        for owner in self.meanings(node.value):
            if isinstance(owner, Key):
                return []
            found += (
                [Library(f"{owner.path}.{node.attr}")]
                if isinstance(owner, Library)
                else attribute(owner.module, node.attr)
            )
        return found

    def visit_Name(self, node: ast.Name) -> None:
        self.written(self.meanings(node), node.id)

    def visit_Attribute(self, node: ast.Attribute, by_call: bool = True) -> None:
        if meanings := self.meanings(node):
            self.written(meanings, node.attr)
            return
        (self.asked if by_call and not isinstance(node.ctx, ast.Store) else self.seen).add(
            node.attr
        )
        self.looked_into(node.value)
        self.out.append(f".{node.attr}")
        if node.attr in ANY_NAME_ATTRIBUTES:
            self.take_all()

    def written(self, meanings: list[Meaning], name: str) -> None:
        self.refer(meanings) if meanings else self.out.append(name)
        if any(isinstance(m, Library) and m.path in ANY_NAME for m in meanings):
            self.take_all()

    def take_all(self) -> None:
        self.any_name = True
        self.whole.add(self.module.name)

    def looked_into(self, node: ast.expr) -> None:
        """A value of which only an attribute, an item or the length is taken: no method of that name is called."""
        if isinstance(node, ast.Attribute):
            self.visit_Attribute(node, by_call=False)
        else:
            self.visit(node)

    def visit_Subscript(self, node: ast.Subscript) -> None:
        self.out.append("[")
        self.looked_into(node.value)
        self.visit(node.slice)
        self.out.append("]")

    def visit_Constant(self, node: ast.Constant) -> None:
        self.out.append(repr(node.value))
        if isinstance(node.value, str) and (names := dotted(node.value)):
            if len(names) == 1:
                self.asked.add(node.value)
            elif self.module.near(names[0]):
                if path(node.value):
                    self.whole.add(node.value)
                elif key := by_path(node.value):
                    self.uses.append(key)

    # Calls

    def visit_Call(self, node: ast.Call) -> None:
        paths = self.paths(node.func)
        if any(below(p, (*SPEECH, REFUSALS)) for p in paths):
            self.message(node)
            return
        given = not (node.args and isinstance(node.args[0], ast.Constant))
        if paths & IMPORTERS and given and self.module.name.partition(".")[0] != PACKAGE:
            self.whole |= around(self.module)  # what ours import by a name, the request names
        if "operator.attrgetter" in paths:
            self.asked.update(
                name
                for a in node.args
                if isinstance(a, ast.Constant)
                for name in dotted(str(a.value))
            )
        if isinstance(node.func, ast.Attribute) and node.func.attr in ("format", "join"):
            self.pattern([node.func.value], "{}" if node.func.attr == "format" else "")
        self.out.append("(")
        self.visit(node.func)
        if (
            paths & {"isinstance", "issubclass"}
            and len(node.args) == 2
            and not has_call(node.args[1])
        ):
            self.visit(node.args[0])
            with self.told_apart():
                self.visit(node.args[1])
        elif "len" in paths and len(node.args) == 1:
            self.looked_into(node.args[0])
        else:
            self.all(node.args)
            self.all(node.keywords)
        self.out.append(")")

    def paths(self, node: ast.expr) -> set[str]:
        """The full paths of what is called, also of an object that is a definition of ours: `console.print`."""
        found = {".".join(meaning) for meaning in self.meanings(node)}
        if not found and isinstance(node, ast.Attribute):
            found = {f"{path}.{node.attr}" for path in self.paths(node.value)}
        return found

    def message(self, node: ast.Call) -> None:
        """A call that speaks to the user: its text does not count, what it computes does."""
        self.out.append("message")
        self.visit(node.func)
        for argument in [*node.args, *(k.value for k in node.keywords)]:
            self.text(argument)

    def text(self, node: ast.expr) -> None:
        if isinstance(node, ast.Constant):
            if not isinstance(node.value, str):
                self.visit(node)
        elif isinstance(node, ast.JoinedStr):
            self.all(
                v.value
                for v in node.values
                if isinstance(v, ast.FormattedValue) and has_call(v.value)
            )
        elif isinstance(node, ast.BinOp):
            self.text(node.left)
            self.text(node.right)
        elif isinstance(node, ast.IfExp):
            self.visit(node.test)
            self.text(node.body)
            self.text(node.orelse)
        else:
            self.visit(node)

    def visit_Expr(self, node: ast.Expr) -> None:
        if is_text(node):
            return
        if isinstance(node.value, ast.Call):
            spoken = [*node.value.args, *(k.value for k in node.value.keywords)]
            if any(below(p, SPEECH) for p in self.paths(node.value.func)) and not any(
                map(has_call, spoken)
            ):
                return  # it only speaks
        self.visit(node.value)

    def visit_Raise(self, node: ast.Raise) -> None:
        """What is raised counts, the text that it is given does not."""
        self.out.append("raise")
        if isinstance(node.exc, ast.Call):
            self.visit(node.exc.func)
            for argument in [*node.exc.args, *(k.value for k in node.exc.keywords)]:
                if not isinstance(argument, ast.JoinedStr):
                    self.text(argument)
        elif node.exc:
            self.visit(node.exc)

    def visit_Assert(self, node: ast.Assert) -> None:
        self.out.append("assert")
        self.visit(node.test)

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        if len(node.values) > 1:
            self.pattern(node.values)
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        if isinstance(node.op, ast.Add) and any(
            isinstance(n, ast.Constant) for n in (node.left, node.right)
        ):
            self.pattern([node.left, node.right])
        if isinstance(node.op, ast.Mod):
            self.pattern([node.left], "%s")
        self.generic_visit(node)

    def pattern(self, pieces: list[Any], hole: str = "\0") -> None:
        """Note the names that text put together may be: f"loss_{kind}" is loss_*."""
        constants = [p.value for p in pieces if isinstance(p, ast.Constant)]
        if not all(isinstance(c, str) for c in constants):
            return
        texts = [
            str(p.value).replace(hole, "*") if isinstance(p, ast.Constant) else "*" for p in pieces
        ]
        name = "".join(texts) if hole else f"*{texts[0]}*"
        if name.strip("*_") and name.replace("*", "_").isidentifier():
            self.asked.add(name)

    # Scopes

    @contextmanager
    def scope(self, names: Scope) -> Iterator[None]:
        self.scopes.append(names)
        try:
            yield
        finally:
            self.scopes.pop()

    @contextmanager
    def told_apart(self) -> Iterator[None]:
        before, self.testing = self.testing, True
        try:
            yield
        finally:
            self.testing = before

    def function(self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) -> None:
        arguments = node.args
        given = [
            *arguments.posonlyargs,
            *arguments.args,
            *arguments.kwonlyargs,
            arguments.vararg,
            arguments.kwarg,
        ]
        self.out.append(f"{type(node).__name__}(")
        if not isinstance(node, ast.Lambda):
            self.all(node.decorator_list)
            self.out.append(node.name)
            if self.module.typed:
                self.out += [ast.unparse(a.annotation) for a in given if a and a.annotation]
        self.all(arguments.defaults)
        self.all([d or ast.Constant(...) for d in arguments.kw_defaults])
        self.out.append("/".join(",".join(a.arg for a in group if a) for group in (
            arguments.posonlyargs, arguments.args, arguments.kwonlyargs, [arguments.vararg], [arguments.kwarg])))  # fmt: skip
        body = [node.body] if isinstance(node, ast.Lambda) else node.body
        with self.scope({**bound(body, self.module), **{a.arg: [] for a in given if a}}):
            self.block(body)
        self.out.append(")")

    visit_FunctionDef = visit_AsyncFunctionDef = visit_Lambda = function

    def comprehension(self, node: Any) -> None:
        self.out.append(f"{type(node).__name__}(")
        self.visit(node.generators[0].iter)  # is read outside
        with self.scope(bound([g.target for g in node.generators])):
            for n, generator in enumerate(node.generators):
                self.out.append("async for" if generator.is_async else "for")
                self.visit(generator.target)
                if n:
                    self.visit(generator.iter)
                self.out.append("if")
                self.all(generator.ifs)
            self.all([node.key, node.value] if isinstance(node, ast.DictComp) else [node.elt])
        self.out.append(")")

    visit_ListComp = visit_SetComp = visit_DictComp = visit_GeneratorExp = comprehension

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self.head(node, node.body)

    def head(self, node: ast.ClassDef, body: list[ast.stmt]) -> None:
        """A class without its members: name, bases, decorators, fields."""
        self.out.append("class(")
        self.all(node.decorator_list)
        self.out.append(node.name)
        self.all(node.bases)
        self.all(node.keywords)
        for statement in body:
            if isinstance(statement, ast.AnnAssign):
                kinds = {"ClassVar", "InitVar", "KW_ONLY"} & {
                    *ast.unparse(statement.annotation).replace("[", ".").split(".")
                }
                self.out.append(f"field {' '.join(sorted(kinds))}")
                if self.module.typed:
                    self.out.append(ast.unparse(statement.annotation))
            self.visit(statement)
        self.out.append(")")

    # The rest

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        self.visit(ast.Assign([node.target], node.value) if node.value else node.target)

    def visit_Import(self, node: ast.Import | ast.ImportFrom) -> None:
        """Only that it happens; names stand for what they are bound to."""
        self.loads |= self.module.loaded(node)
        for _, target in self.module.imported(node):
            if not self.module.near(target[0]):
                self.out.append(f"import {target}")
            elif target[1] == "*":
                self.whole.add(target[0])

    visit_ImportFrom = visit_Import

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> None:
        self.out.append(f"except {node.name or ''}(")
        if node.type:
            with self.told_apart():
                self.visit(node.type)
        self.block(node.body)
        self.out.append(")")

    def visit_MatchClass(self, node: ast.MatchClass) -> None:
        self.seen.update(node.kwd_attrs)
        self.generic_visit(node)

    def generic_visit(self, node: ast.AST) -> None:
        self.out.append(f"{type(node).__name__}(")
        for name, value in ast.iter_fields(node):
            if value is None or value == [] or name in SILENT:
                continue
            self.out.append(f"{name}=")  # `x[a:]` is not `x[:a]`
            if isinstance(value, list):
                self.out.append("[")
                self.block(value) if isinstance(value[0], ast.stmt) else self.all(value)
                self.out.append("]")
            elif isinstance(value, ast.AST):
                self.visit(value)
            else:
                self.out.append(repr(value))
        self.out.append(")")

    def all(self, nodes: Iterable[Any]) -> None:
        for node in nodes:
            self.visit(node) if isinstance(node, ast.AST) else self.out.append(repr(node))
            self.out.append(",")

    def block(self, nodes: Iterable[ast.AST]) -> None:
        for node in nodes:
            before = len(self.out)
            self.visit(node)
            if len(self.out) > before:
                self.out.append(";")


BUILTINS = {*dir(builtins)}


def has_call(node: ast.AST) -> bool:
    return any(
        isinstance(n, ast.Call | ast.NamedExpr | ast.Await | ast.Yield | ast.YieldFrom)
        for n in ast.walk(node)
    )


def around(module: Module) -> set[str]:
    """All modules of the top package that a module is in, or of its folder if it is in none."""
    top, file = module.name.partition(".")[0], path(module.name)
    home = folder(top)
    if file is None or home is None:
        return set()
    root = home / top if (home / top).is_dir() else home
    files = root.rglob("*.py") if root != home else root.glob("*.py")
    names = (
        ".".join(f.relative_to(home).with_suffix("").parts).removesuffix(".__init__") for f in files
    )
    return {name for name in names if path(name)}
