"""Properties of statements and expressions that their syntax alone shows."""

import ast

from sft_exp.store.code_hash.rules import PLAIN_DECORATORS


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


def has_call(node: ast.AST) -> bool:
    """Whether evaluating an expression may run other code or bind a name."""
    return any(
        isinstance(n, ast.Call | ast.NamedExpr | ast.Await | ast.Yield | ast.YieldFrom)
        for n in ast.walk(node)
    )


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
