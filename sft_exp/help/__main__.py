"""Show the options of a group, the keys of an option, one key, or every key of a run.

For instance:

    sft_exp help optim            a group: its options, and the keys of each
    sft_exp help pretrainer=vae   an option: what it does, its keys, defaults
    sft_exp help optim.lr         a key, such as labels or metrics, too
    sft_exp help compare          a command: its arguments
    sft_exp help keys             all keys that belong to no group
    sft_exp help finetune         a section: pretrain, features, ...
"""

import sys
import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import ClassVar

from sft_exp.config import args, help_text, reference
from sft_exp.config.help_text import GROUPS
from sft_exp.errors import ConfigError


@dataclass
class Arguments:
    positional: ClassVar[tuple[str, ...]] = ("topic",)

    topic: str  # a group, a group=option, a key, a section such as finetune, keys, or a command


def main(arguments: list[str] | None = None) -> int:
    words = sys.argv[1:] if arguments is None else list(arguments)
    if len(words) == 1 and words[0].partition("=")[0] in GROUPS:  # pretrainer=vae is a topic
        words = [f"topic={words[0]}"]
    return args.run("help", __doc__ or "", Arguments, work, words)


def work(arguments: Arguments) -> None:
    group, _, option = arguments.topic.partition("=")
    if arguments.topic == "keys":
        print("\n".join(all_keys()))
    elif arguments.topic in reference.SECTIONS:
        print("\n".join(rows(reference.section(arguments.topic), f"{arguments.topic}.")))
    elif option:
        print("\n".join(page(reference.option(group, option))))
    elif group in GROUPS:
        print("\n".join(overview(group)))
    elif found := list(one_key(arguments.topic)):
        print("\n".join(found))
    elif group.isidentifier() and find_spec(f"sft_exp.{group}") and is_command(group):
        import_module(f"sft_exp.{group}.__main__").main(["--help"])
    else:
        known = [*GROUPS, *reference.SECTIONS, *(key.name for key in reference.section(""))]
        close = args.did_you_mean(group, ["keys", *dict.fromkeys(known)])
        problem = f"is no group, option, key or command{close}"
        raise ConfigError("topic", arguments.topic, problem)


def is_command(name: str) -> bool:
    return find_spec(f"sft_exp.{name}.__main__") is not None


def one_key(topic: str) -> Iterator[str]:
    """`labels`, `finetune.steps`, or `optim.lr` in each option that has it; nothing for no key."""
    place, _, name = topic.rpartition(".")
    if place in ("", *reference.SECTIONS):
        keys = reference.section(place)
        yield from rows([k for k in keys if k.name == name], f"{place}." if place else "")
    elif place in GROUPS:
        alike: dict[reference.Key, list[str]] = {}
        for option in help_text.options(place):
            for key in reference.option(place, option).keys:
                if key.name == name:
                    alike.setdefault(key, []).append(option)
        for key, options in alike.items():
            yield from rows([key], f"{place}.")
            yield from textwrap.wrap(
                f"of {place}={', '.join(options)}",
                args.WIDTH,
                initial_indent=" " * 4,
                subsequent_indent=" " * 4,
            )


def overview(group: str) -> Iterator[str]:
    """The options of a group, a line each, with the names of their keys."""
    yield f"{group}: {GROUPS[group]}"
    for name, description in reference.groups()[group].items():
        yield ""
        yield args.row(name, description, 18)
        keys = ", ".join(key.name for key in reference.option(group, name).keys)
        if keys:
            yield args.row("", f"keys: {keys}", 18)
    yield ""
    yield f"sft_exp help {group}=OPTION shows the keys and their defaults."


def page(option: reference.Option) -> Iterator[str]:
    """One option: what it does, its keys, what else it sets."""
    yield from textwrap.wrap(f"{option.group}={option.name}: {option.description}", args.WIDTH)
    if option.about:
        yield ""
        yield from wrapped(option.about)
    if option.keys:
        yield ""
        yield from rows(option.keys, f"{option.group}.")
    if option.also:
        yield ""
        yield "It also sets:"
        for key, value in option.also.items():
            yield f"  {key}={reference.text_of(value)}"


def wrapped(text: str) -> Iterator[str]:
    """Paragraphs at the width of the help; indented ones stay as they are, cut at the width."""
    for n, block in enumerate(text.split("\n\n")):
        if n:
            yield ""
        if block.startswith("    "):
            for line in block.splitlines():
                yield from textwrap.wrap(
                    line, args.WIDTH, subsequent_indent=" " * 8, break_on_hyphens=False
                )
        else:
            yield from textwrap.wrap(" ".join(block.split()), args.WIDTH)


def all_keys() -> Iterator[str]:
    """The keys of the root and of its sections."""
    yield from rows(
        [
            k
            for k in reference.section("")
            if k.name not in {*GROUPS, *reference.SECTIONS, "choices"}
        ]
    )
    for section in reference.SECTIONS:
        yield ""
        yield from rows(reference.section(section), f"{section}.")


def rows(keys: Iterable[reference.Key], prefix: str = "") -> Iterator[str]:
    """`key=default` and its comment beside it."""
    for key in keys:
        kind = f" ({key.type})" if key.type not in ("", "Any") else ""
        yield args.row(f"{prefix}{key.name}={key.default}", f"{key.comment}{kind}".strip(), 24)


if __name__ == "__main__":
    sys.exit(main())
