"""Every task, optimizer, encoder and strategy at its defaults, with 10 labels a class.

    python -m benchmarks defaults digits mnist sign_digits cifar10_jpeg12k
    python -m benchmarks defaults digits task optim

Each option is put in the place of the one that `python -m sft_exp encoder=conv` takes. A row is flagged where the test
accuracy is near chance, where predictions have collapsed to few classes, or where the option is below the labels alone.
Options that need another data set, weights that are downloaded or an extra that is not installed are listed with the reason.
"""

import os
import tempfile
from pathlib import Path

import sft_exp
from sft_exp.config.help_text import options
from sft_exp.core.arms import LABELS_ONLY, MAIN
from sft_exp.errors import Failure
from sft_exp.reports import advice
from sft_exp.store.results import Results

GROUPS = ("task", "optim", "encoder", "strategy")
CHANCE = 0.2  # accuracy of ten classes that are about as many; twice chance
# image size, encoder and views of the folders of photographs: none is enlarged
FOLDERS = {"cifar10_jpeg12k": (32, "conv", "pictures"), "sign_digits": (64, "conv64", "photos")}
COMMON = ("draws=3", "val=none", "monitors=false", "report=false", "tracker=none")
SHORT = ("pretrain.steps=300", "pretrain.batch_size=128", "finetune.steps=300")


def flags(result: Results) -> list[str]:
    """What is wrong with a result, in words; empty where nothing is."""
    found = []
    if result.tested < CHANCE:
        found.append("at chance")
    if advice.uneven(result) or any(result.faults.get(MAIN, [])):
        found.append("collapsed")
    if LABELS_ONLY in advice.floors(result):
        found.append("below labels_only")
    return found


def dataset(name: str, data: Path) -> tuple[str, ...]:
    """The overrides of a data set: its own, or one of the folders of photographs."""
    if name == "digits":
        return ("dataset=digits", "encoder=conv")
    if name == "mnist":
        return ("dataset=mnist", f"dataset.root={data / name}", "encoder=conv")
    size, encoder, augment = FOLDERS[name]
    folder = ("dataset=image_folder", f"dataset.root={data / name}", "labels=10", "auto=false")
    look = (f"dataset.size={size}", "dataset.channels=3", f"encoder={encoder}")
    return (*folder, *look, f"augment={augment}")


def row(group: str, option: str, store: str, base: tuple[str, ...]) -> tuple[str, str]:
    """(accuracy in %, flags or why there is no accuracy) of one option at its defaults."""
    base = tuple(word for word in base if not word.startswith(f"{group}="))
    semi = group == "task" and option not in ("classify",)
    controls = f"controls=[{LABELS_ONLY}]" if semi else "controls=false"
    words = [*base, f"{group}={option}", controls, *COMMON, *SHORT, f"store={store}"]
    try:
        result = sft_exp.run(words, Path(store) / "runs" / f"{group}-{option}").result
    except (Failure, ImportError) as error:
        return "", str(error).splitlines()[0]
    if result.score != "accuracy":
        return "", f"is scored by {result.score}"
    return f"{100 * result.tested:.1f}", ", ".join(flags(result))


def main(words: list[str], data: Path) -> None:
    groups = [word for word in words if word in GROUPS] or GROUPS
    for name in [word for word in words if word not in GROUPS] or ["digits"]:
        print(f"\n| {name} | option | accuracy | flags |\n| --- | --- | ---: | --- |")
        store = os.environ.get("SFT_EXP_STORE") or tempfile.mkdtemp()
        for group in groups:
            for option in options(group):
                accuracy, note = row(group, option, store, dataset(name, data))
                print(f"| {group} | {option} | {accuracy} | {note} |", flush=True)
