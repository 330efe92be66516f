"""A hash of the code that can change a result, so that cached results of other code are not reused.

The unit is a definition: a function, a constant, or a method or attribute of a class. The hash of a
request covers all definitions that its stage and its parts can reach. These are found by analysing
the source, which is never imported. The hash ignores docstrings, comments, layout, type
annotations, the text of errors and messages, and the module that a definition is in. Where the
source does not show what is reached, a whole class or a whole module counts.

How it works: `closure` walks from the request's definitions along `Definition.uses`. `Module` holds
the bindings of one source file and resolves names across imports. `Class` decides which members of
a class count. `Reader` turns the syntax tree of a definition into normalised text and collects its
dependencies. `digest_of` hashes the texts. See docs/decisions/0060-a-hash-per-definition.md.
"""

import ast
import builtins
import hashlib
import importlib.util
import tokenize
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache, cached_property
from pathlib import Path
from typing import Any, NamedTuple

from sft_exp.config.schema import OptimizerConfig
from sft_exp.store.requests import Once, hashed_fields, is_part

PACKAGE = __name__.partition(".")[0]

# Modules that are reached but cannot change a number, with the reason. All other code that runs in
# a stage is hashed: tests/test_code_hash.py profiles the stages and fails for a function that ran
# and is neither in the closure nor in one of these modules.
NEUTRAL = {
    f"{PACKAGE}.{name}": reason
    for name, reason in {
        "store.atomic_io": "writes bytes to files",
        "config.moved": "earlier names of classes; requests contain the present names",
        "errors": "a run that raises leaves no result",
        "progress": "messages to the console",
        "core.tracker": "mirrors what is on disk",
        "trackers": "mirror what is on disk",
        "store.results": "results of a finished run; only paths of store folders are read from it",
        "store.requests": "turns a request into JSON, which is hashed itself",
        "training.context": "device, threads, tracker and signals, which change no result",
        "training.checkpoints": "a resumed training gives identical results",
        "stages.monitor": "evaluates features and changes nothing",
        "distributed.select": "all engines give the numbers of the local one, which is hashed",
        "distributed.group": "as distributed.select",
        "distributed.sharing": "as distributed.select",
        "distributed.ddp": "as distributed.select",
        "distributed.fsdp": "as distributed.select",
    }.items()
}
# functions whose arguments are messages to the user
SPEECH = ("print", "warnings.warn", "logging", f"{PACKAGE}.progress")
REFUSALS = f"{PACKAGE}.errors"  # functions and classes whose string arguments are such messages
ENTRIES = ("load",)  # methods of parts that are called by neutral code: the context loads data sets

IMPORTERS = {"importlib.import_module", "__import__"}
# functions and attributes that give access to members by names that the source does not show
ANY_NAME = {"vars", "dir", "globals", "locals", "eval", "exec", "sys.modules", "inspect.getmembers"}
ANY_NAME_ATTRIBUTES = {"__dict__", "__subclasses__"}
READ_ANNOTATIONS = {  # names that indicate that type annotations are evaluated at run time
    "singledispatch",
    "singledispatchmethod",
    "get_type_hints",
    "__annotations__",
    "script",
    "validate_call",
}
PLAIN_DECORATORS = {"staticmethod", "classmethod"}  # decorated methods run only when called
QUIET_DECORATORS = (  # decorators of libraries that do not register what they decorate
    "dataclasses", "functools", "contextlib", "typing", "abc",
    "torch.no_grad", "torch.inference_mode", "torch.enable_grad",
)  # fmt: skip
# library classes that call no methods of subclasses
EMPTY_BASES = {"object", "abc.ABC", "typing.Protocol", "typing.Generic"}
TORCH_MODULE = "torch.nn.Module"  # calls those methods of subclasses that it also has itself
# fields of syntax nodes that do not change what code does
SILENT = {"ctx", "kind", "type_comment", "type_ignores", "type_params", "returns", "annotation"}


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


class Names(NamedTuple):
    """What a value refers to: definitions, by its parts and strings, and strings in it that may name
    members."""

    keys: frozenset[Key] = frozenset()
    words: frozenset[str] = frozenset()


NO_NAMES = Names()


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


def digest(request: Mapping[str, Any], *functions: Callable) -> str:
    """Hash of all code that `functions` and the parts in the request can reach.

    Keys of the request with a leading `_` cannot change a result and are left out.
    """
    return digest_of(*roots(request, *functions))


def reached(request: Mapping[str, Any], *functions: Callable) -> set[Key]:
    """The definitions that the hash covers."""
    return {*closure(*roots(request, *functions))}


def roots(request: Mapping[str, Any], *functions: Callable) -> Names:
    """The names that a request starts from."""
    keys = frozenset(definition_of(function) for function in functions)
    values = (value for key, value in request.items() if not key.startswith("_"))
    return united([Names(keys), *map(named_by, values)])


def named_by(value: Any) -> Names:
    """The names in a value of a request."""
    if isinstance(value, str):
        return named_by_text(value)
    if isinstance(value, dict | list | tuple):
        inside = [*value, *value.values()] if isinstance(value, dict) else value
        return united(map(named_by, inside))
    return named_by_part(value) if is_part(value) else NO_NAMES


def united(names: Iterable[Names]) -> Names:
    found = [each for each in names if each is not NO_NAMES]
    return Names(
        frozenset().union(*(n.keys for n in found)), frozenset().union(*(n.words for n in found))
    )


@cache
def named_by_text(text: str) -> Names:
    key = by_path(text)
    keys = frozenset([key] if key and not library(text) else [])
    return Names(keys, frozenset([text] if text.isidentifier() else []))


@Once
def named_by_part(part: Any) -> Names:
    own = [] if isinstance(part, OptimizerConfig) else [definition_of(type(part))]
    return united([Names(frozenset(own)), *map(named_by, hashed_fields(part).values())])


def definition_of(owner: Callable) -> Key:
    return Key(owner.__module__, owner.__qualname__.partition(".")[0])


@cache
def digest_of(begun: frozenset[Key], words: frozenset[str]) -> str:
    """Hash of the closure that does not depend on the modules in which definitions are.

    Each definition is labelled by the hash of its text. Labels are refined by those of the used
    definitions until the number of different labels no longer grows (colour refinement of a graph).
    """
    definitions = closure(begun, words)
    labels = {key: hash_of(definition.text) for key, definition in definitions.items()}
    count = 0
    while count < (count := len(set(labels.values()))):
        labels = {
            key: hash_of(definition.text, *(labels.get(use, "") for use in definition.uses))
            for key, definition in definitions.items()
        }
    return hash_of(*sorted(labels[key] for key, d in definitions.items() if d.text))[:16]


def hash_of(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()


def closure(begun: Iterable[Key], words: Iterable[str] = ()) -> dict[Key, Definition]:
    """All definitions that `begun` reaches.

    A member counts if its class is reached and its name is used anywhere in the closure, or is in
    `words`, whatever the type of the object: the source does not show types.
    """
    definitions: dict[Key, Definition] = {}
    called_names, read_names = {*words, *ENTRIES}, set[str]()  # names used so far
    dynamic = False  # whether every member counts
    # member's name -> (member, whether it is a plain method) in the classes reached so far
    candidates: dict[str, list[tuple[Key, bool]]] = defaultdict(list)
    todo = list(begun)

    def use(name: str, by_call: bool) -> None:
        """Note that a name is used, and add the candidates of this name."""
        (called_names if by_call else read_names).add(name)
        matching = [n for n in candidates if fnmatchcase(n, name)] if "*" in name else [name]
        todo.extend(key for n in matching for key, plain in candidates[n] if by_call or not plain)

    def is_used(name: str, plain: bool) -> bool:
        if name in called_names or (name in read_names and not plain):
            return True
        return any(fnmatchcase(name, pattern) for pattern in called_names if "*" in pattern)

    while todo:
        key = todo.pop()
        if key in definitions or neutral(key.module, key.name):
            continue
        module = read(key.module)
        if module is None:
            continue
        if key.name and key.name.partition(".")[0] not in module.names:
            # the source does not show where the name is defined
            todo.extend(all_definitions(key.module))
            continue
        definition = definitions[key] = module.definition(key.name)
        todo.append(Key(key.module, ""))
        todo.extend(definition.uses)
        for name in definition.whole_modules:
            todo.extend(all_definitions(name))
        todo.extend(Key(name, "") for name in definition.imports)
        for name in definition.called_names - called_names:
            use(name, by_call=True)
        for name in definition.read_names - read_names:
            use(name, by_call=False)
        if definition.dynamic and not dynamic:
            dynamic = True
            todo.extend(member for members in candidates.values() for member, _ in members)
        for name, plain, always in module.members(key.name):
            member = Key(key.module, f"{key.name}.{name}")
            candidates[name].append((member, plain))
            if always or dynamic or is_used(name, plain):
                todo.append(member)
    return definitions


def all_definitions(module: str) -> Iterator[Key]:
    """All definitions of a module and all members of its classes."""
    content = None if neutral(module) else read(module)
    if content is None:
        return
    yield Key(module, "")
    for name in [*content.names]:
        yield Key(module, name)
        yield from (Key(module, f"{name}.{member}") for member, _, _ in content.members(name))


def neutral(module: str, name: str = "") -> bool:
    """Whether a definition cannot change a number."""
    return is_below(f"{module}.{name}", NEUTRAL)


def is_below(path: str, tops: Iterable[str]) -> bool:
    """Whether a dotted path is one of `tops` or inside of one."""
    return any(f"{path}.".startswith(f"{top}.") for top in tops)


# Requests


def strings_in(value: Any) -> Iterator[str]:
    """All strings in a request; they may name code: `loss: huber`, `base: torch.optim.SGD`."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list | tuple):
        for inner in [*value, *value.values()] if isinstance(value, dict) else value:
            yield from strings_in(inner)
    elif is_part(value):
        for inner in hashed_fields(value).values():
            yield from strings_in(inner)


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


# Modules


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
        self.cache: dict[str, Definition] = {}  # cache of `definition`
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

    def has_effects(self, statement: ast.stmt) -> bool:
        """Whether a top-level statement may do more than bind names, so that it always counts."""
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            for decorator in statement.decorator_list:
                referents = Reader(self).resolve(without_arguments(decorator))
                quiet = [
                    isinstance(referent, LibraryName) and is_below(referent.path, QUIET_DECORATORS)
                    for referent in referents
                ]
                if not quiet or not all(quiet):
                    return True
            return isinstance(statement, ast.ClassDef) and class_of(self, statement).registers
        return not only_binds(statement)

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

    def definition(self, name: str) -> Definition:
        """The definition of "function", "Class", "Class.member", or "" (the code run on import)."""
        if name not in self.cache:
            self.cache[name] = self.build(name)
        return self.cache[name]

    def build(self, name: str) -> Definition:
        """Make what `definition` caches."""
        if not name:
            reader = Reader(self)
            reader.visit_block(s for s in self.body if self.has_effects(s))
            parents = {m for m in parent_packages(self.name) if path(m)}
            return reader.definition("", frozenset(self.imports) | parents)
        reader = Reader(self)
        owner, _, member = name.partition(".")
        if member:
            reader.uses.append(Key(self.name, owner))
            reader.visit_block(s for kind in self.classes(owner) for s in kind.members[member])
            return reader.definition(name)
        for statement in self.statements(name):
            if isinstance(statement, ast.ClassDef):
                reader.class_head(statement, class_of(self, statement).other_statements)
            else:
                reader.visit(statement)
        for target in self.names[name]:
            if isinstance(target, tuple):
                reader.write_referents(self.resolve_import(target))
        return reader.definition(name)

    def classes(self, name: str) -> list["Class"]:
        return [class_of(self, s) for s in self.statements(name) if isinstance(s, ast.ClassDef)]

    def members(self, name: str) -> Iterator[tuple[str, bool, bool]]:
        """(name, whether a plain method, whether it always counts) of each member of a class."""
        for kind in self.classes(name):
            for member, statements in kind.members.items():
                plain = all(is_plain_method(s) for s in statements)
                always = kind.counts_whole or member.startswith("_") or member in kind.called
                yield member, plain, always


@cache
def read(module: str) -> Module | None:
    """The module's analysed source, or None if there is no source file."""
    file = path(module)
    return Module(module, file) if file else None


def source(file: Path) -> str:
    with tokenize.open(file) as opened:
        return opened.read()


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


def resolve_attribute(module: str, name: str) -> list[Referent]:
    """The possible referents of `module.name` in a hashed module."""
    content = read(module)
    referents = content.resolve(name) if content else []
    submodule = ModuleValue(f"{module}.{name}")
    if path(submodule.module) and submodule not in referents:
        referents.append(submodule)
    # if the source does not show it, the whole module counts
    return referents or [ModuleValue(module)]


def parent_packages(module: str) -> list[str]:
    """The parent packages of a module, outermost first."""
    names = module.split(".")
    return [".".join(names[:n]) for n in range(1, len(names))]


def forget_files() -> None:
    """Clear all caches, so that source files are read again."""
    names = (named_by_text, named_by_part)
    for cached in (digest_of, *names, by_path, library, read, path, parent_folder, class_of):
        cached.cache_clear()


# Classes


class Class:
    """A class statement.

    Members of dataclasses and of torch modules count only if their names are used. Any other class
    may be passed to a library that calls its methods, so all its members count.
    """

    def __init__(self, module: Module, node: ast.ClassDef):
        self.module, self.node = module, node
        self.members: dict[str, list[ast.stmt]] = defaultdict(list)
        self.other_statements: list[ast.stmt] = []  # fields and other statements of the body
        for statement in node.body:
            names = member_names(statement)
            for name in names:
                self.members[name].append(statement)
            if not names:
                self.other_statements.append(statement)

    @cached_property
    def bases(self) -> list[Referent | None]:
        """The base classes; None stands for one that the source does not show."""
        return self.resolve(self.node.bases)

    def resolve(self, nodes: list[ast.expr]) -> list[Referent | None]:
        """The possible referents of expressions; None for one that cannot be resolved."""
        reader = Reader(self.module)
        unknown: list[Referent | None] = [None]
        return [m for node in nodes for m in (reader.resolve(node) or unknown)]

    @cached_property
    def ancestors(self) -> list["Class"]:
        """This class and its hashed base classes, direct and indirect."""
        classes = [self]
        for kind in classes:  # which grows meanwhile
            for base in kind.bases:
                if isinstance(base, Key) and (module := read(base.module)):
                    classes += [k for k in module.classes(base.name) if k not in classes]
        return classes

    @cached_property
    def library_bases(self) -> set[str | None]:
        """Paths of the library classes among all bases; None for a base that may be any class."""
        bases = [
            base
            for kind in self.ancestors
            for base in kind.bases
            if not (isinstance(base, Key) and is_class(base))
        ]
        return {base.path if isinstance(base, LibraryName) else None for base in bases}

    @cached_property
    def counts_whole(self) -> bool:
        """Whether all members count, because code outside of the closure may call them."""
        dataclass_decorator = LibraryName("dataclasses.dataclass")
        decorators = [m for kind in self.ancestors for m in kind.decorators]
        if TORCH_MODULE not in self.library_bases and dataclass_decorator not in decorators:
            return True
        if any(
            m != dataclass_decorator and not isinstance(m, Key | ModuleValue) for m in decorators
        ):
            return True
        return self.registers or not self.library_bases <= EMPTY_BASES | {TORCH_MODULE}

    @cached_property
    def decorators(self) -> list[Referent | None]:
        return self.resolve([without_arguments(d) for d in self.node.decorator_list])

    @cached_property
    def called(self) -> frozenset[str]:
        """Names of members that torch calls."""
        return torch_names() if TORCH_MODULE in self.library_bases else frozenset()

    @property
    def registers(self) -> bool:
        """Whether an ancestor may register its subclasses (`__init_subclass__`, metaclass)."""
        return any(
            kind.node.keywords or "__init_subclass__" in kind.members for kind in self.ancestors
        )

    @property
    def has_plain_isinstance(self) -> bool:
        """Whether `isinstance` depends on the class hierarchy alone."""
        custom = {"typing.Protocol", "abc.ABC", None}
        return not (self.library_bases & custom) and not self.registers


@cache
def class_of(module: Module, node: ast.ClassDef) -> Class:
    return Class(module, node)


def is_class(key: Key) -> bool:
    """Whether all bindings of a name are class statements."""
    module = read(key.module)
    return module is not None and len(module.classes(key.name)) == len(module.names[key.name]) > 0


@cache
def torch_names() -> frozenset[str]:
    """Names of methods that torch may call on a module."""
    from torch import nn

    return frozenset({*dir(nn.Module), "reset_parameters"})


def member_names(statement: ast.stmt) -> list[str]:
    """Members that a statement of a class body defines: methods, and attributes but not fields."""
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
    """Whether reading the attribute runs no code, unlike a property."""
    if not isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef):
        return False
    return all(
        isinstance(d, ast.Name) and d.id in PLAIN_DECORATORS for d in statement.decorator_list
    )


# Statements


def is_text(statement: ast.stmt) -> bool:
    """Whether a statement is a docstring or another constant alone."""
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def is_main(statement: ast.stmt) -> bool:
    """Whether a statement is `if __name__ == "__main__":`, which is skipped on import."""
    return (
        isinstance(statement, ast.If)
        and ast.unparse(statement.test) == "__name__ == '__main__'"
        and not statement.orelse
    )


def only_binds(statement: ast.stmt) -> bool:
    """Whether a statement only binds names. A call may do anything."""
    if isinstance(statement, ast.Assign | ast.AnnAssign):
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        stored = [
            n for t in targets for n in ast.walk(t) if isinstance(n, ast.Attribute | ast.Subscript)
        ]
        return not stored and not (statement.value and has_call(statement.value))
    if isinstance(statement, ast.If | ast.Try):
        inner: list[ast.stmt] = []
        for node in ast.iter_child_nodes(statement):
            if isinstance(node, ast.ExceptHandler):
                inner += node.body
            elif isinstance(node, ast.stmt):
                inner.append(node)
        return all(is_text(s) or only_binds(s) for s in inner)
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return not statement.decorator_list
    return isinstance(statement, ast.Import | ast.ImportFrom | ast.Pass)


def identifiers(tree: ast.AST) -> set[str]:
    """All names and attributes in a syntax tree."""
    return {
        n.id if isinstance(n, ast.Name) else n.attr
        for n in ast.walk(tree)
        if isinstance(n, ast.Name | ast.Attribute)
    }


def without_arguments(decorator: ast.expr) -> ast.expr:
    """The decorator without its arguments."""
    return decorator.func if isinstance(decorator, ast.Call) else decorator


COMPREHENSIONS = ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp


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


class Reader(ast.NodeVisitor):
    """Writes code as normalised text (`tokens`), and collects its dependencies.

    A name is written as what it refers to: a definition in hashed code by its own name, a name of a
    library by its full path. So the text does not depend on how and from where a name is imported.
    """

    def __init__(self, module: Module):
        self.module = module
        self.tokens: list[str] = []
        self.uses: list[Key] = []
        self.called_names: set[str] = set()
        self.read_names: set[str] = set()
        self.whole_modules: set[str] = set()
        self.imports: set[str] = set()
        self.dynamic = False
        self.scopes: list[Scope] = []
        self.in_type_test = False  # inside `isinstance` or `except`, where a class is only compared

    def definition(self, name: str, imports: frozenset[str] = frozenset()) -> Definition:
        """The definition of what was visited."""
        stars = {star for star in self.module.star_imports if self.module.is_hashed(star)}
        library_stars = sorted(star for star in self.module.star_imports if star not in stars)
        return Definition(
            " ".join([name, *library_stars, *self.tokens]),
            tuple(self.uses),
            frozenset(self.called_names),
            frozenset(self.read_names),
            frozenset(self.whole_modules | stars),
            imports | self.imports,
            self.dynamic,
        )

    # Names

    def write_referents(self, referents: list[Referent]) -> None:
        """Write the possible referents of a name, and collect them as dependencies."""
        for referent in referents:
            if isinstance(referent, LibraryName):
                self.tokens.append(referent.path)
            elif isinstance(referent, ModuleValue):
                self.tokens.append(f"@{referent.module.rpartition('.')[2]}")
                self.whole_modules.add(referent.module)
            else:
                self.tokens.append(f"@{referent.name}")
                if not (self.in_type_test and self.is_plain_class(referent)):
                    self.uses.append(referent)

    def is_plain_class(self, key: Key) -> bool:
        """Whether a key is a class whose code cannot change the result of `isinstance`."""
        module = read(key.module)
        return (
            module is not None
            and is_class(key)
            and all(kind.has_plain_isinstance for kind in module.classes(key.name))
        )

    def resolve(self, node: ast.expr) -> list[Referent]:
        """The possible referents of a name or of a chain `package.module.name`.

        [] for local names and attributes of objects.
        """
        if isinstance(node, ast.Name):
            for scope in reversed(self.scopes):
                if node.id in scope:
                    return [
                        referent
                        for target in scope[node.id]
                        for referent in self.module.resolve_import(target)
                    ]
            builtin: list[Referent] = [LibraryName(node.id)] if node.id in BUILTINS else []
            return self.module.resolve(node.id) or builtin
        if isinstance(node, ast.Subscript):  # Generic[T]
            return [m for m in self.resolve(node.value) if isinstance(m, LibraryName)]
        if not isinstance(node, ast.Attribute):
            return []
        referents: list[Referent] = []
        for owner in self.resolve(node.value):
            if isinstance(owner, Key):
                return []
            if isinstance(owner, LibraryName):
                referents.append(LibraryName(f"{owner.path}.{node.attr}"))
            else:
                referents += resolve_attribute(owner.module, node.attr)
        return referents

    def visit_Name(self, node: ast.Name) -> None:
        self.write_name(self.resolve(node), node.id)

    def visit_Attribute(self, node: ast.Attribute, by_call: bool = True) -> None:
        if referents := self.resolve(node):
            self.write_name(referents, node.attr)
            return
        if by_call and not isinstance(node.ctx, ast.Store):
            self.called_names.add(node.attr)
        else:
            self.read_names.add(node.attr)
        self.visit_value(node.value)
        self.tokens.append(f".{node.attr}")
        if node.attr in ANY_NAME_ATTRIBUTES:
            self.set_dynamic()

    def write_name(self, referents: list[Referent], name: str) -> None:
        """Write a name by its referents, or as it is if it has none."""
        if referents:
            self.write_referents(referents)
        else:
            self.tokens.append(name)
        if any(isinstance(m, LibraryName) and m.path in ANY_NAME for m in referents):
            self.set_dynamic()

    def set_dynamic(self) -> None:
        """Note that the code may access anything in its module, and members of any name."""
        self.dynamic = True
        self.whole_modules.add(self.module.name)

    def visit_value(self, node: ast.expr) -> None:
        """Visit a value of which only an attribute, an item or the length is used.

        If the value is itself an attribute, it is not called.
        """
        if isinstance(node, ast.Attribute):
            self.visit_Attribute(node, by_call=False)
        else:
            self.visit(node)

    def visit_Subscript(self, node: ast.Subscript) -> None:
        self.tokens.append("[")
        self.visit_value(node.value)
        self.visit(node.slice)
        self.tokens.append("]")

    def visit_Constant(self, node: ast.Constant) -> None:
        self.tokens.append(repr(node.value))
        if isinstance(node.value, str) and (names := dotted_names(node.value)):
            if len(names) == 1:
                self.called_names.add(node.value)
            elif self.module.is_hashed(names[0]):
                if path(node.value):
                    self.whole_modules.add(node.value)
                elif key := by_path(node.value):
                    self.uses.append(key)

    # Calls

    def visit_Call(self, node: ast.Call) -> None:
        paths = self.paths_of(node.func)
        if any(is_below(p, (*SPEECH, REFUSALS)) for p in paths):
            self.visit_message(node)
            return
        computed = not (node.args and isinstance(node.args[0], ast.Constant))
        if paths & IMPORTERS and computed and self.module.name.partition(".")[0] != PACKAGE:
            # not needed for this package: it imports only modules that the request names
            self.whole_modules |= sibling_modules(self.module)
        if "operator.attrgetter" in paths:
            for argument in node.args:
                if isinstance(argument, ast.Constant):
                    self.called_names.update(dotted_names(str(argument.value)))
        if isinstance(node.func, ast.Attribute) and node.func.attr in ("format", "join"):
            self.add_pattern([node.func.value], "{}" if node.func.attr == "format" else "")
        self.tokens.append("(")
        self.visit(node.func)
        if (
            paths & {"isinstance", "issubclass"}
            and len(node.args) == 2
            and not has_call(node.args[1])
        ):
            self.visit(node.args[0])
            with self.type_test():
                self.visit(node.args[1])
        elif "len" in paths and len(node.args) == 1:
            self.visit_value(node.args[0])
        else:
            self.visit_all(node.args)
            self.visit_all(node.keywords)
        self.tokens.append(")")

    def paths_of(self, node: ast.expr) -> set[str]:
        """Full paths of the callee, also of a method of a hashed object: `console.print`."""
        paths = {".".join(referent) for referent in self.resolve(node)}
        if not paths and isinstance(node, ast.Attribute):
            paths = {f"{path}.{node.attr}" for path in self.paths_of(node.value)}
        return paths

    def visit_message(self, node: ast.Call) -> None:
        """Visit a call that shows a message: its text does not count, code in it does."""
        self.tokens.append("message")
        self.visit(node.func)
        for argument in [*node.args, *(k.value for k in node.keywords)]:
            self.message_argument(argument)

    def message_argument(self, node: ast.expr) -> None:
        """Visit an argument of a message, without its strings."""
        if isinstance(node, ast.Constant):
            if not isinstance(node.value, str):
                self.visit(node)
        elif isinstance(node, ast.JoinedStr):
            self.visit_all(
                v.value
                for v in node.values
                if isinstance(v, ast.FormattedValue) and has_call(v.value)
            )
        elif isinstance(node, ast.BinOp):
            self.message_argument(node.left)
            self.message_argument(node.right)
        elif isinstance(node, ast.IfExp):
            self.visit(node.test)
            self.message_argument(node.body)
            self.message_argument(node.orelse)
        else:
            self.visit(node)

    def visit_Expr(self, node: ast.Expr) -> None:
        if is_text(node):
            return
        if isinstance(node.value, ast.Call):
            spoken = [*node.value.args, *(k.value for k in node.value.keywords)]
            if any(is_below(p, SPEECH) for p in self.paths_of(node.value.func)) and not any(
                map(has_call, spoken)
            ):
                return  # a message without other effects
        self.visit(node.value)

    def visit_Raise(self, node: ast.Raise) -> None:
        """Visit a raise statement: the exception counts, its message does not."""
        self.tokens.append("raise")
        if isinstance(node.exc, ast.Call):
            self.visit(node.exc.func)
            for argument in [*node.exc.args, *(k.value for k in node.exc.keywords)]:
                if not isinstance(argument, ast.JoinedStr):
                    self.message_argument(argument)
        elif node.exc:
            self.visit(node.exc)

    def visit_Assert(self, node: ast.Assert) -> None:
        self.tokens.append("assert")
        self.visit(node.test)

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        if len(node.values) > 1:
            self.add_pattern(node.values)
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        if isinstance(node.op, ast.Add) and any(
            isinstance(n, ast.Constant) for n in (node.left, node.right)
        ):
            self.add_pattern([node.left, node.right])
        if isinstance(node.op, ast.Mod):
            self.add_pattern([node.left], "%s")
        self.generic_visit(node)

    def add_pattern(self, pieces: list[Any], hole: str = "\0") -> None:
        """Collect the names that composed text may have as a pattern: f"loss_{kind}" is loss_*."""
        constants = [p.value for p in pieces if isinstance(p, ast.Constant)]
        if not all(isinstance(c, str) for c in constants):
            return
        texts = [
            str(p.value).replace(hole, "*") if isinstance(p, ast.Constant) else "*" for p in pieces
        ]
        name = "".join(texts) if hole else f"*{texts[0]}*"
        if name.strip("*_") and name.replace("*", "_").isidentifier():
            self.called_names.add(name)

    # Scopes

    @contextmanager
    def scope(self, names: Scope) -> Iterator[None]:
        """A nested scope with these local names."""
        self.scopes.append(names)
        try:
            yield
        finally:
            self.scopes.pop()

    @contextmanager
    def type_test(self) -> Iterator[None]:
        """The context of a type test, in which classes are only compared."""
        before, self.in_type_test = self.in_type_test, True
        try:
            yield
        finally:
            self.in_type_test = before

    def function(self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) -> None:
        arguments = node.args
        groups = (
            arguments.posonlyargs,
            arguments.args,
            arguments.kwonlyargs,
            [arguments.vararg],
            [arguments.kwarg],
        )
        parameters = [a for group in groups for a in group if a]
        self.tokens.append(f"{type(node).__name__}(")
        if not isinstance(node, ast.Lambda):
            self.visit_all(node.decorator_list)
            self.tokens.append(node.name)
            if self.module.uses_annotations:
                self.tokens += [ast.unparse(a.annotation) for a in parameters if a.annotation]
        self.visit_all(arguments.defaults)
        self.visit_all([d or ast.Constant(...) for d in arguments.kw_defaults])
        self.tokens.append("/".join(",".join(a.arg for a in group if a) for group in groups))
        body = [node.body] if isinstance(node, ast.Lambda) else node.body
        with self.scope({**bound_names(body, self.module), **{a.arg: [] for a in parameters}}):
            self.visit_block(body)
        self.tokens.append(")")

    visit_FunctionDef = visit_AsyncFunctionDef = visit_Lambda = function

    def comprehension(self, node: Any) -> None:
        self.tokens.append(f"{type(node).__name__}(")
        self.visit(node.generators[0].iter)  # is evaluated in the enclosing scope
        with self.scope(bound_names([g.target for g in node.generators])):
            for n, generator in enumerate(node.generators):
                self.tokens.append("async for" if generator.is_async else "for")
                self.visit(generator.target)
                if n:
                    self.visit(generator.iter)
                self.tokens.append("if")
                self.visit_all(generator.ifs)
            self.visit_all([node.key, node.value] if isinstance(node, ast.DictComp) else [node.elt])
        self.tokens.append(")")

    visit_ListComp = visit_SetComp = visit_DictComp = visit_GeneratorExp = comprehension

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self.class_head(node, node.body)

    def class_head(self, node: ast.ClassDef, body: list[ast.stmt]) -> None:
        """Visit a class without its members: name, bases, decorators, fields."""
        self.tokens.append("class(")
        self.visit_all(node.decorator_list)
        self.tokens.append(node.name)
        self.visit_all(node.bases)
        self.visit_all(node.keywords)
        for statement in body:
            if isinstance(statement, ast.AnnAssign):
                kinds = {"ClassVar", "InitVar", "KW_ONLY"} & {
                    *ast.unparse(statement.annotation).replace("[", ".").split(".")
                }
                self.tokens.append(f"field {' '.join(sorted(kinds))}")
                if self.module.uses_annotations:
                    self.tokens.append(ast.unparse(statement.annotation))
            self.visit(statement)
        self.tokens.append(")")

    # The rest

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        self.visit(ast.Assign([node.target], node.value) if node.value else node.target)

    def visit_Import(self, node: ast.Import | ast.ImportFrom) -> None:
        """Visit an import; the names that it binds are resolved where they are used."""
        self.imports |= self.module.modules_run(node)
        for _, target in self.module.bindings_of(node):
            if not self.module.is_hashed(target[0]):
                self.tokens.append(f"import {target}")
            elif target[1] == "*":
                self.whole_modules.add(target[0])

    visit_ImportFrom = visit_Import

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> None:
        self.tokens.append(f"except {node.name or ''}(")
        if node.type:
            with self.type_test():
                self.visit(node.type)
        self.visit_block(node.body)
        self.tokens.append(")")

    def visit_MatchClass(self, node: ast.MatchClass) -> None:
        self.read_names.update(node.kwd_attrs)
        self.generic_visit(node)

    def generic_visit(self, node: ast.AST) -> None:
        self.tokens.append(f"{type(node).__name__}(")
        for name, value in ast.iter_fields(node):
            if value is None or value == [] or name in SILENT:
                continue
            self.tokens.append(f"{name}=")  # `x[a:]` is not `x[:a]`
            if isinstance(value, list):
                self.tokens.append("[")
                self.visit_block(value) if isinstance(value[0], ast.stmt) else self.visit_all(value)
                self.tokens.append("]")
            elif isinstance(value, ast.AST):
                self.visit(value)
            else:
                self.tokens.append(repr(value))
        self.tokens.append(")")

    def visit_all(self, nodes: Iterable[Any]) -> None:
        for node in nodes:
            self.visit(node) if isinstance(node, ast.AST) else self.tokens.append(repr(node))
            self.tokens.append(",")

    def visit_block(self, nodes: Iterable[ast.AST]) -> None:
        """Visit statements; those that write nothing leave no trace."""
        for node in nodes:
            before = len(self.tokens)
            self.visit(node)
            if len(self.tokens) > before:
                self.tokens.append(";")


BUILTINS = {*dir(builtins)}


def has_call(node: ast.AST) -> bool:
    """Whether evaluating an expression may run other code or bind a name."""
    return any(
        isinstance(n, ast.Call | ast.NamedExpr | ast.Await | ast.Yield | ast.YieldFrom)
        for n in ast.walk(node)
    )


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
