"""The reference pages, made from the sources: every group, option, key and command, and an index of the decisions.

`make docs` runs it; tests/test_docs.py fails where a committed page is not what it writes.
"""

import dataclasses
import inspect
import re
from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module
from pathlib import Path
from types import ModuleType

from sft_exp.__main__ import COMMANDS
from sft_exp.config import args, help_text, reference

HERE = Path(__file__).parent
MARKUP = {ord(mark): f"&#{ord(mark)};" for mark in "|<>*_[]"}
MIRRORS = ("pretrain_optim", "pretrain_schedule", "pretrain_dataset", "debug")


def makers() -> dict[str, Callable[[], Iterator[str]]]:
    """Path below docs/ -> what yields the page's lines."""
    groups = [name for name in help_text.GROUPS if name not in MIRRORS]
    return {
        "reference/keys.md": keys,
        "reference/commands.md": commands,
        "reference/api.md": api,
        **{f"reference/{name}.md": partial(group, name) for name in groups},
        "decisions/README.md": partial(decisions, HERE / "decisions"),
    }


def page(path: str) -> str:
    """The text of the page at this path."""
    return "\n".join(makers()[path]()).rstrip() + "\n"


def group(name: str) -> Iterator[str]:
    """A group's page: each option with its docstring and its keys."""
    yield from (f"# {name}", "", f"{help_text.GROUPS[name].capitalize()}: `{name}=OPTION`.", "")
    for option, description in reference.groups()[name].items():
        page = reference.option(name, option)
        yield from (f"## {option}", "", escaped(description), "")
        if page.about:
            yield from ("```text", *page.about.splitlines(), "```", "")
        yield from table(page.keys, f"{name}.")
        if page.also:
            also = ", ".join(f"`{k}={reference.text_of(v)}`" for k, v in page.also.items())
            yield from (f"It also sets {also}.", "")


def keys() -> Iterator[str]:
    """The keys that belong to no group."""
    yield from ("# Keys of a run", "")
    hidden = {*help_text.GROUPS, *reference.SECTIONS, "choices"}
    yield from table([k for k in reference.section("") if k.name not in hidden])
    for name in reference.SECTIONS:
        yield from (f"## {name}", "")
        yield from table(reference.section(name), f"{name}.")


def commands() -> Iterator[str]:
    """The help text of every command."""
    yield from ("# Commands", "", "Of `sft_exp`, and of `python -m sft_exp`.", "")
    for title, names in COMMANDS.items():
        yield from (f"## {title}", "")
        for name in names:
            module = import_module(f"sft_exp.{name}.__main__")
            kind = getattr(module, "Arguments", None) or module.Ask
            assert dataclasses.is_dataclass(kind)
            text = args.help_of(name, module.__doc__ or "", kind)
            yield from (f"### {name}", "", "```text", *text.splitlines(), "```", "")


def api() -> Iterator[str]:
    """The public names of the package."""
    import sft_exp

    public = {name: getattr(sft_exp, name) for name in sorted(set(sft_exp.__all__))}
    yield from ("# Python interface", "", "What `import sft_exp` offers:", "")
    for name, value in public.items():
        about = " ".join((inspect.getdoc(value) or "").partition("\n\n")[0].split())
        yield f"* `sft_exp.{name}`: {escaped(about)}"
    yield from ("", "## Arguments and results", "")
    yield from ("Each line stands for a description that the site has (`make docs`).", "")
    for value in public.values():
        if isinstance(value, ModuleType):  # a package that can be called, such as sft_exp.compare
            yield from (f"::: {value.__name__}", "")
        elif callable(value):
            yield from (f"::: {value.__module__}.{value.__qualname__}", "")


def decisions(folder: Path) -> Iterator[str]:
    """An index of the decisions, by their titles."""
    yield from ("# Decisions", "", "Why things are as they are, in the order of the decisions.", "")
    for file in sorted(folder.glob("[0-9]*.md")):
        title = file.read_text().splitlines()[0].removeprefix("# ")
        yield f"* [{title}]({file.name})"


def table(rows: list[reference.Key], prefix: str = "") -> Iterator[str]:
    """A Markdown table of keys."""
    if not rows:
        return
    yield from ("| key | default | type | meaning |", "| --- | --- | --- | --- |")
    for key in rows:
        # what is left of "|" stands between backticks, where it would still end the cell
        comment = escaped(key.comment).replace("|", "\\|")
        cells = (f"`{prefix}{key.name}`", code(key.default), code(key.type), comment)
        yield f"| {' | '.join(cells)} |"
    yield ""


def code(text: str) -> str:
    return f"`{text.replace('|', '&#124;')}`".replace("&#124;", "or") if text else ""


def escaped(text: str) -> str:
    """Text without what Markdown or a table would take for markup. Code between backticks stays as
    it is, because Markdown shows it so."""
    pieces = re.split(r"(`[^`]+`)", text)
    return "".join(piece if n % 2 else piece.translate(MARKUP) for n, piece in enumerate(pieces))


if __name__ == "__main__":
    (HERE / "reference").mkdir(exist_ok=True)
    for path in makers():
        (HERE / path).write_text(page(path))
