"""The text of --help, read from the YAML files' first comments and the schema's field comments."""

import ast
from dataclasses import MISSING
from dataclasses import fields as fields_of
from difflib import get_close_matches
from pathlib import Path

from sft_exp.config.schema import (
    Experiment,
)
from sft_exp.config.sources import HERE, MIRRORED, option_files


def did_you_mean(word: str, known: list[str]) -> str:
    """`; did you mean x?` for a close name, else the valid ones."""
    close = get_close_matches(word, known, n=1)
    return f"; did you mean {close[0]}?" if close else f"; valid: {', '.join(known)}"


def options(group: str) -> dict[str, str]:
    """Option -> its one-line description: the first comment of its YAML. Groups of the pretraining have the options of the
    groups that they mirror."""
    mirrored = MIRRORED.get(group)
    texts = {name: first_comment(file) for name, file in option_files(group).items()}
    if mirrored:
        theirs = {
            name: f"{text.replace(f'{mirrored}.', f'{group}.')}, for pretraining"
            for name, text in options(mirrored).items()
        }
        texts = theirs | texts
    return dict(sorted(texts.items()))


def first_comment(file: Path) -> str:
    lines = (
        line
        for line in file.read_text().splitlines()
        if line.startswith("#") and "@package" not in line
    )
    return next(lines, "").removeprefix("#").strip()


GROUPS = (
    "pretrainer", "encoder", "task", "strategy", "optim", "schedule", "dataset", "augment", "hardware", "tracker",
    "compress", "export", "pretrain_optim", "pretrain_schedule", "pretrain_dataset", "study", "experiment", "debug",
)  # fmt: skip


def options_help() -> str:
    """The text of --help: every group with its options, every key of the contract with its meaning."""
    text = [
        "Pretrain without labels, fine-tune with few, and say whether it helped.",
        "",
        "  python -m sft_exp pretrainer=vae optim=adam",
        "  python -m sft_exp -m pretrainer=ae,vae optim=sgd,adam optim.lr=1e-2,1e-3",
        "",
        "Groups (group=option)",
    ]
    for group in GROUPS:
        text.append(f"\n  {group}")
        text += [f"    {name:16} {what}" for name, what in options(group).items()]
    text += ["", "Keys (key=value)", ""]
    comments = field_comments(HERE / "config" / "schema.py", "Experiment")
    for f in fields_of(Experiment):
        if f.name not in GROUPS and f.name in comments:
            value = f.default if f.default is not MISSING else ""
            text.append(f"    {f.name + '=' + str(value):24} {comments[f.name]}")
    text += [
        "",
        "Keys inside a group: --cfg job, or --cfg job --package optim. Flags of Hydra: --hydra-help.",
        'Tab completion: eval "$(sft_exp -sc install=bash)"',
    ]
    return "\n".join(text).replace("$", "$$")


def field_comments(file: Path, name: str) -> dict[str, str]:
    """field -> the comment behind it in the source."""
    lines = file.read_text().splitlines()
    (kind,) = [
        c
        for c in ast.parse("\n".join(lines)).body
        if isinstance(c, ast.ClassDef) and c.name == name
    ]
    found = {}
    for line in kind.body:
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name):
            text = "\n".join(lines[line.lineno - 1 : line.end_lineno])  # a long field has several
            if "  # " in text:
                found[line.target.id] = text.split("  # ", 1)[1].splitlines()[0]
    return found
