"""The definitions that a request reaches, and the hash of them."""

import ast
import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from functools import cache

from sft_exp.store.code_hash.classes import class_of, classes, members
from sft_exp.store.code_hash.modules import Module, read, referents_of
from sft_exp.store.code_hash.names import Definition, Key, LibraryName, parent_packages, path
from sft_exp.store.code_hash.reader import Reader
from sft_exp.store.code_hash.rules import ENTRIES, QUIET_DECORATORS, is_below, neutral
from sft_exp.store.code_hash.syntax import only_binds, without_arguments


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
        definition = definitions[key] = definition_of(module, key.name)
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
            todo.extend(member for same in candidates.values() for member, _ in same)
        for name, plain, always in members(module, key.name):
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
        yield from (Key(module, f"{name}.{member}") for member, _, _ in members(content, name))


@cache
def definition_of(module: Module, name: str) -> Definition:
    """The definition of "function", "Class", "Class.member", or "" (the code run on import)."""
    reader = Reader(module)
    if not name:
        reader.visit_block(s for s in module.body if has_effects(module, s))
        parents = {m for m in parent_packages(module.name) if path(m)}
        return reader.definition("", frozenset(module.imports) | parents)
    owner, _, member = name.partition(".")
    if member:
        reader.uses.append(Key(module.name, owner))
        reader.visit_block(s for kind in classes(module, owner) for s in kind.members[member])
        return reader.definition(name)
    for statement in module.statements(name):
        if isinstance(statement, ast.ClassDef):
            reader.class_head(statement, class_of(module, statement).other_statements)
        else:
            reader.visit(statement)
    for target in module.names[name]:
        if isinstance(target, tuple):
            reader.write_referents(module.resolve_import(target))
    return reader.definition(name)


def has_effects(module: Module, statement: ast.stmt) -> bool:
    """Whether a top-level statement may do more than bind names, so that it always counts."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        for decorator in statement.decorator_list:
            referents = referents_of(without_arguments(decorator), module)
            quiet = [
                isinstance(referent, LibraryName) and is_below(referent.path, QUIET_DECORATORS)
                for referent in referents
            ]
            if not quiet or not all(quiet):
                return True
        return isinstance(statement, ast.ClassDef) and class_of(module, statement).registers
    return not only_binds(statement)
