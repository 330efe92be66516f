"""The text of --help: the groups of a run, and each option's description, the first comment of its YAML file."""

from pathlib import Path

from sft_exp.config.args import row
from sft_exp.config.sources import MIRRORED, option_files


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


GROUPS = {  # in the order of help texts
    "pretrainer": "what is learnt without labels",
    "encoder": "the network that is pretrained",
    "task": "what is learnt from labels",
    "strategy": "which layers are fine-tuned, and how",
    "optim": "the optimizer of fine-tuning",
    "schedule": "its learning rate over time",
    "dataset": "the images and labels",
    "augment": "what random views of an image may differ in",
    "hardware": "device, precision, processes",
    "tracker": "where runs are recorded",
    "compress": "quantise, prune or distil the trained model",
    "export": "write the model for other programs",
    "pretrain_optim": "the optimizer of pretraining",
    "pretrain_schedule": "its learning rate over time",
    "pretrain_dataset": "other images to pretrain on",
    "study": "a question that a sweep answers",
    "experiment": "complete recipes",
    "debug": "small settings to try things",
}


def options_help() -> str:
    """What --help says of runs: every group in one line."""
    text = ["Groups of a run (sft_exp help GROUP lists the options)"]
    text += [
        row(name, f"{what} ({len(options(name))} options)", 18) for name, what in GROUPS.items()
    ]
    text += [
        "",
        "sft_exp help keys         every other key of a run, with its default",
        "sft_exp help OPTION       one option's keys: sft_exp help pretrainer=vae",
        "--cfg job, --hydra-help   the composed config; flags of Hydra",
    ]
    return "\n".join(text).replace("$", "$$")
