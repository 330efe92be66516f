"""The normalised text of a definition and its dependencies, from its syntax tree."""

import ast
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from sft_exp.store.code_hash.classes import classes, is_class
from sft_exp.store.code_hash.modules import Module, bound_names, read, referents_of, sibling_modules
from sft_exp.store.code_hash.names import (
    Definition,
    Key,
    LibraryName,
    ModuleValue,
    Referent,
    Scope,
    by_path,
    dotted_names,
    path,
)
from sft_exp.store.code_hash.rules import (
    ANY_NAME,
    ANY_NAME_ATTRIBUTES,
    IMPORTERS,
    PACKAGE,
    REFUSALS,
    SILENT,
    SPEECH,
    is_below,
)
from sft_exp.store.code_hash.syntax import has_call, is_text


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
            and all(kind.has_plain_isinstance for kind in classes(module, key.name))
        )

    def resolve(self, node: ast.expr) -> list[Referent]:
        return referents_of(node, self.module, self.scopes)

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
