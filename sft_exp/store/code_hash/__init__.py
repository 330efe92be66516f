"""A hash of the code that can change a result, so that cached results of other code are not reused.

The unit is a definition: a function, a constant, or a method or attribute of a class. The hash of a
request covers all definitions that its stage and its parts can reach. These are found by analysing
the source, which is never imported. The hash ignores docstrings, comments, layout, type
annotations, the text of errors and messages, and the module that a definition is in. Where the
source does not show what is reached, a whole class or a whole module counts.

Files, each of which imports those above it:
    rules      what counts, and what cannot change a result
    names      definitions, modules and libraries, and the files that they are in
    syntax     properties of statements that their syntax alone shows
    modules    the bindings of a source file, resolved across imports
    classes    which members of a class count
    reader     a definition as normalised text, and its dependencies
    closure    the definitions that a request reaches, and the hash of their texts
See docs/decisions/0060-a-hash-per-definition.md.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from typing import Any, NamedTuple

from sft_exp.config.schema import OptimizerConfig
from sft_exp.store.code_hash import classes, closure, modules, names
from sft_exp.store.code_hash.names import Key, by_path, library
from sft_exp.store.requests import Once, hashed_fields, is_part


class Names(NamedTuple):
    """What a value refers to: definitions, by its parts and strings, and strings in it that may name
    members."""

    keys: frozenset[Key] = frozenset()
    words: frozenset[str] = frozenset()


NO_NAMES = Names()


def digest(request: Mapping[str, Any], *functions: Callable) -> str:
    """Hash of all code that `functions` and the parts in the request can reach.

    Keys of the request with a leading `_` cannot change a result and are left out.
    """
    return closure.digest_of(*roots(request, *functions))


def reached(request: Mapping[str, Any], *functions: Callable) -> set[Key]:
    """The definitions that the hash covers."""
    return {*closure.closure(*roots(request, *functions))}


def roots(request: Mapping[str, Any], *functions: Callable) -> Names:
    """The names that a request starts from."""
    keys = frozenset(home_of(function) for function in functions)
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
    own = [] if isinstance(part, OptimizerConfig) else [home_of(type(part))]
    return united([Names(frozenset(own)), *map(named_by, hashed_fields(part).values())])


def home_of(owner: Callable) -> Key:
    return Key(owner.__module__, owner.__qualname__.partition(".")[0])


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


def forget_files() -> None:
    """Clear all caches, so that source files are read again."""
    for cached in (
        named_by_text,
        named_by_part,
        closure.digest_of,
        closure.definition_of,
        classes.class_of,
        modules.read,
        names.by_path,
        names.library,
        names.path,
        names.parent_folder,
    ):
        cached.cache_clear()
