"""Options put together at random: whole runs with a report, whose models are scored again."""

import logging
import random
import shutil
from math import isclose
from pathlib import Path

import sft_exp
from sft_exp.config.help_text import options
from sft_exp.core.arms import MAIN
from sft_exp.errors import Failure, NonFiniteError
from torture.fuzz import CODES, ready

COUNT = 600
TINY = ("debug=tiny", "hardware.workers=1", "hardware.threads=1", "store=store")
PAIRS = ("dataset=digit_pairs", "labels=40")
# data set and task; those of one label an image are the most
TASKS = (
    *3 * (("dataset=digits", "task=classify"),),
    ("dataset=digits", "task=fixmatch"),
    ("dataset=digits", "task=joint"),
    ("dataset=digits", "task=m1_m2"),
    ("dataset=digits", "task=mean_teacher"),
    ("dataset=digits", "task=pseudo_label"),
    (*PAIRS, "task=digit_pairs"),
    (*PAIRS, "task=multitask", "task.heads={left: classify, mask: segment}"),
    (*PAIRS, "task=segment"),
    (*PAIRS, "task=regress"),
    (*PAIRS, "task=mean_teacher_numbers"),
)
GROUPS = ("pretrainer", "strategy", "optim", "schedule", "augment", "compress", "export")
ENCODERS = ("conv", "conv", "mlp", "projection", "vit", "pixels", "patches")
KEYS = (
    *(f"val={val}" for val in ("none", "cv", "holdout", "full")),
    *(f"labels={count}" for count in (2, 20, 50, "all", "5%")),
    *(f"hardware.precision={kind}" for kind in ("bf16", "auto")),
    *(f"task.standardise={how}" for how in ("each", "none")),
    *(f"features.pool={how}" for how in ("mean", "max")),
    *(f"encoder.norm={kind}" for kind in ("layer", "batch")),
    *(f"controls={arms}" for arms in ("false", "[scratch,random_frozen]", "[raw_svm,raw_spread]")),
    "score=balanced_accuracy",
    "metrics=[auroc,ece]",
    "task.augment=true",
    "task.mixup=0.2",
    "task.balanced=true",
    "task.smoothing=0.1",
    "task.head=random",
    "finetune.ema=0.9",
    "finetune.batchnorm=frozen",
    "finetune.sampler=class",
    "finetune.micro_batch_size=8",
    "finetune.clip=1.0",
    "hardware.gradient_accumulation_steps=2",
    "hardware.recompute=true",
    "features.grid=2",
    "features.maps=[-1,-2]",
    "draws=2",
    "seeds=2",
    "monitors=true",
    "dataset.test=100",
)


def drawn(chance: random.Random) -> list[str]:
    """Overrides of a job that `prepare` accepts."""
    while True:
        words = [*TINY, *chance.choice(TASKS), f"encoder={chance.choice(ENCODERS)}"]
        for group in chance.sample(GROUPS, chance.choice((2, 3, 4))):
            words.append(f"{group}={chance.choice([*options(group)])}")
        words += chance.sample(KEYS, chance.choice((1, 2, 3, 4)))
        try:
            ready(words)
        except Failure as failure:
            if failure.code not in CODES:
                raise
        else:
            return words


def fault(words: list[str], folder: Path) -> str | None:
    """What is wrong with a run, if anything is. A loss that diverges in two steps is not."""
    try:
        result = sft_exp.run(words, folder).result
    except NonFiniteError:
        return None
    except Exception as error:  # noqa: BLE001 - a prepared job ends in a result
        return f"{type(error).__name__}: {error}"
    loaded = sft_exp.load(folder)
    if loaded.model.task.predicts != "classes":
        return None
    again = loaded.evaluate().scores[result.score]
    first = result.draws[MAIN][0]
    if not isclose(again, first, abs_tol=1e-6):
        return f"{result.score} is {first} in the run, and {again} by its model"
    return None


def work(chance: random.Random, share: float, _: list[str]) -> tuple[str, list[str]]:
    """(what was tried, faults) of `share` times COUNT runs."""
    logging.disable(logging.INFO)
    faults, number = [], max(1, round(share * COUNT))
    for _ in range(number):
        words = drawn(chance)
        if found := fault(words, Path("run")):
            faults.append(f"{' '.join(words)}\n    {found}")
            print(faults[-1], flush=True)
        shutil.rmtree("run", ignore_errors=True)
    return f"{number} combinations of options", faults
