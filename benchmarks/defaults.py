"""Every task, optimizer, encoder and strategy at its defaults, on the embedded digits with 10 labels a class.

    python -m benchmarks defaults

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


def row(group: str, option: str, store: str) -> tuple[str, str]:
    """(accuracy in %, flags or why there is no accuracy) of one option at its defaults."""
    base = () if group == "encoder" else ("encoder=conv",)
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


def main(_: Path) -> None:
    store = os.environ.get("SFT_EXP_STORE") or tempfile.mkdtemp()
    print("| group | option | accuracy | flags |\n| --- | --- | ---: | --- |")
    for group in GROUPS:
        for option in options(group):
            accuracy, note = row(group, option, store)
            print(f"| {group} | {option} | {accuracy} | {note} |", flush=True)
