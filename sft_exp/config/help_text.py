"""The text of --help: configuration groups, and the options' descriptions from their YAML files."""

from pathlib import Path

from sft_exp.config.args import row
from sft_exp.config.sources import MIRRORED, option_files


def options(group: str) -> dict[str, str]:
    """Option -> its one-line description, which is the first comment of its YAML file.

    A group of pretraining also has the options of the group that it mirrors.
    """
    texts = {name: first_comment(file) for name, file in option_files(group).items()}
    if mirrored := MIRRORED.get(group):
        inherited = {
            name: f"{text.replace(f'{mirrored}.', f'{group}.')}, for pretraining"
            for name, text in options(mirrored).items()
        }
        texts = inherited | texts
    return dict(sorted(texts.items()))


def first_comment(file: Path) -> str:
    """The first comment of a YAML file, without Hydra's `@package` line; "" if there is none."""
    for line in file.read_text().splitlines():
        if line.startswith("#") and "@package" not in line:
            return line.removeprefix("#").strip()
    return ""


GROUPS = {  # in the order in which help texts list them
    "pretrainer": "the method of pretraining without labels",
    "encoder": "the network that is pretrained",
    "task": "the supervised task of fine-tuning",
    "strategy": "which layers are fine-tuned, and how",
    "optim": "the optimizer of fine-tuning",
    "schedule": "the learning rate schedule of fine-tuning",
    "dataset": "the images and labels",
    "augment": "the random augmentation of images",
    "hardware": "device, precision, processes",
    "tracker": "where runs are recorded",
    "compress": "quantise, prune or distil the trained model",
    "export": "write the model for other programs",
    "pretrain_optim": "the optimizer of pretraining",
    "pretrain_schedule": "the learning rate schedule of pretraining",
    "pretrain_dataset": "other images for pretraining",
    "study": "a question that a sweep answers",
    "experiment": "complete recipes",
    "debug": "small settings for trials",
}


def options_help() -> str:
    """The part of --help on runs: one line per group."""
    text = ["Groups of a run (sft_exp help GROUP lists the options)"]
    text += [
        row(name, f"{what} ({len(options(name))} options)", 18) for name, what in GROUPS.items()
    ]
    text += [
        "",
        "sft_exp help keys         every other key of a run, with its default",
        "sft_exp help OPTION       one option's keys: sft_exp help pretrainer=vae",
        "hydra.verbose=true        more messages; hydra/job_logging=quiet: results alone",
        "--cfg job, --hydra-help, --version   the composed config; flags of Hydra",
    ]
    return "\n".join(text).replace("$", "$$")
