"""The classes of a source file: which of their members count."""

import ast
from collections import defaultdict
from collections.abc import Iterator
from functools import cache, cached_property

from sft_exp.store.code_hash.modules import Module, read, referents_of
from sft_exp.store.code_hash.names import Key, LibraryName, ModuleValue, Referent
from sft_exp.store.code_hash.rules import EMPTY_BASES, TORCH_MODULE
from sft_exp.store.code_hash.syntax import is_plain_method, member_names, without_arguments


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
        unknown: list[Referent | None] = [None]
        return [m for node in nodes for m in (referents_of(node, self.module) or unknown)]

    @cached_property
    def ancestors(self) -> list["Class"]:
        """This class and its hashed base classes, direct and indirect."""
        ancestors = [self]
        for kind in ancestors:  # which grows meanwhile
            for base in kind.bases:
                if isinstance(base, Key) and (module := read(base.module)):
                    ancestors += [k for k in classes(module, base.name) if k not in ancestors]
        return ancestors

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


def classes(module: Module, name: str) -> list[Class]:
    return [class_of(module, s) for s in module.statements(name) if isinstance(s, ast.ClassDef)]


def members(module: Module, name: str) -> Iterator[tuple[str, bool, bool]]:
    """(name, whether a plain method, whether it always counts) of each member of a class."""
    for kind in classes(module, name):
        for member, statements in kind.members.items():
            plain = all(is_plain_method(s) for s in statements)
            always = kind.counts_whole or member.startswith("_") or member in kind.called
            yield member, plain, always


def is_class(key: Key) -> bool:
    """Whether all bindings of a name are class statements."""
    module = read(key.module)
    return module is not None and len(classes(module, key.name)) == len(module.names[key.name]) > 0


@cache
def torch_names() -> frozenset[str]:
    """Names of methods that torch may call on a module."""
    from torch import nn

    return frozenset({*dir(nn.Module), "reset_parameters"})
