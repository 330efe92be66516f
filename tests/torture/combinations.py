"""Options put together at random: whole runs with a report, whose models are scored again."""

import json
import logging
import random
import shutil
from math import isclose
from pathlib import Path

import numpy as np
from PIL import Image

import sft_exp
from sft_exp.config.help_text import options
from sft_exp.core.arms import MAIN
from sft_exp.errors import Failure, NonFiniteError
from torture.fuzz import CODES, ready

COUNT = 600
TINY = ("debug=tiny", "hardware.workers=1", "hardware.threads=1", "store=store")
PAIRS = ("dataset=digit_pairs", "labels=40")
SIZE = ("dataset.size=16", "labels=6")
PHOTOS = ("dataset=image_folder", "dataset.root=made/photos", "dataset.unlabelled=[made/more]")
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
    # files of a user's: their data sets choose the task
    (*PHOTOS, *SIZE),
    (*PHOTOS, *SIZE, "task=fixmatch"),
    ("dataset=mask_folder", "dataset.root=made/masks", "dataset.values=[0,255]", *SIZE),
    ("dataset=boxes", "dataset.root=made/boxes", *SIZE),
    ("dataset=multilabel_table", "dataset.table=made/tables/classes.csv", *SIZE),
    ("dataset=number_table", "dataset.table=made/tables/numbers.csv", *SIZE),
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


def make_sets() -> None:
    """Twenty pictures of a bright square or two in noise, as a user's folders of each kind have them."""
    rng, boxes = np.random.default_rng(0), []
    tables = {"classes": ["file,labels,split"], "numbers": ["file,target,split"]}
    for number in range(20):
        pixels = rng.integers(0, 90, (16, 16, 3), dtype=np.uint8)
        mask = np.zeros((16, 16), np.uint8)
        left, top = rng.integers(0, 9, 2).tolist()
        colours = [number % 2] if number % 3 else [0, 1]  # red squares, green ones, or both
        for shift, channel in enumerate(colours):
            place = slice(top + 2 * shift, top + 2 * shift + 6), slice(left, left + 6)
            pixels[place] = np.eye(3, dtype=np.uint8)[channel] * 220
            mask[place] = 255
            boxes.append((number, channel, [left, top + 2 * shift, 6, 6]))
        kind, split = ("red", "green")[number % 2], "test" if number >= 14 else "train"
        name, masks = f"{number:02d}.png", Path("made/masks") / split
        for folder in (f"photos/{split}/{kind}", "more", "boxes", "tables"):
            saved(
                Image.fromarray(255 - pixels if folder == "more" else pixels),
                Path("made", folder, name),
            )
        saved(Image.fromarray(pixels), masks / "images" / name)
        saved(Image.fromarray(mask), masks / "masks" / name)
        tables["classes"].append(f"{name},{';'.join(('red', 'green')[c] for c in colours)},{split}")
        tables["numbers"].append(f"{name},{left},{split}")
    for table, lines in tables.items():
        Path(f"made/tables/{table}.csv").write_text("\n".join(lines))
    coco = {
        "images": [{"id": n, "file_name": f"{n:02d}.png", "width": 16, "height": 16} for n in range(20)],
        "categories": [{"id": 0, "name": "red"}, {"id": 1, "name": "green"}],
        "annotations": [
            {"id": i, "image_id": n, "category_id": c, "bbox": b, "area": 36, "iscrowd": 0}
            for i, (n, c, b) in enumerate(boxes)
        ],
    }  # fmt: skip
    Path("made/boxes/annotations.json").write_text(json.dumps(coco))


def saved(image: Image.Image, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    image.save(file)


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
    make_sets()
    faults, number = [], max(1, round(share * COUNT))
    for _ in range(number):
        words = drawn(chance)
        if found := fault(words, Path("run")):
            faults.append(f"{' '.join(words)}\n    {found}")
            print(faults[-1], flush=True)
        shutil.rmtree("run", ignore_errors=True)
    return f"{number} combinations of options", faults
