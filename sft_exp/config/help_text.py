"""The text of --help, read from the YAML files' first comments and the schema's field comments."""

from dataclasses import MISSING
from dataclasses import fields as fields_of
from pathlib import Path

from sft_exp.config.args import field_comments, row
from sft_exp.config.schema import Experiment
from sft_exp.config.sources import HERE, MIRRORED, option_files


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
    """What --help says of runs: every group with its options, every key of the contract with its meaning."""
    text = [
        "Groups of a run (group=option)",
    ]
    for group in GROUPS:
        text.append(f"\n  {group}")
        text += [row(name, what, 16, indent=4) for name, what in options(group).items()]
    text += ["", "Keys of a run (key=value)", ""]
    comments = field_comments(HERE / "config" / "schema.py", "Experiment")
    for f in fields_of(Experiment):
        if f.name not in GROUPS and f.name in comments:
            value = f.default if f.default is not MISSING else ""
            text.append(row(f"{f.name}={value}", comments[f.name], 20, indent=4))
    text += [
        "",
        "Keys inside a group: --cfg job, or --cfg job --package optim",
        "Flags of Hydra: --hydra-help",
        'Tab completion: eval "$(sft_exp -sc install=bash)"',
    ]
    return "\n".join(text).replace("$", "$$")
