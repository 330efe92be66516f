"""Default settings for a folder of images, chosen from the images, the labels and the machine.

The rule adds explicit overrides to a command before Hydra composes it. They are therefore hashed, saved and repeated
like any override of the user's; `auto=false`, which the rule adds as well, keeps a rerun from choosing again. A key that
the user gives is never replaced, and neither are the settings of an experiment or a debug option.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median_low
from typing import NamedTuple

from PIL import Image

from sft_exp.config import compose
from sft_exp.errors import Failure
from sft_exp.guidance import knowledge
from sft_exp.progress import console

SAMPLE = 100  # images whose headers are read, evenly spaced over the folder
LARGEST = 64  # pixels: larger images cost more than the minutes that a first run should take
FEW_LABELS = 50  # a class; below it, folds of the labels are too small to judge settings by
# CPU flags of Linux that stand for arithmetic in bf16; without them autocast emulates it, slower than fp32.
BF16_FLAGS = ("avx512_bf16", "amx_bf16")
# Bundles of settings that a user may name: what they set is theirs.
BUNDLES = ("experiment", "debug", "hydra/sweeper")
# What a study takes from the rule: how images are read and shown, and by which network. Methods, budgets, validation and
# controls are the study's own.
OF_IMAGES = (
    "dataset.size",
    "dataset.channels",
    "encoder",
    "encoder.channels",
    "augment",
    "hardware.precision",
)


class Setting(NamedTuple):
    """One key, its value, and why."""

    key: str
    value: str
    reason: str


@dataclass(frozen=True)
class Facts:
    """What the rule looks at."""

    size: int  # shorter side of the images in pixels, the lower median
    grey: bool  # whether no image has colours
    images: int  # that may be pretrained on
    labelled: int  # over all classes, after `labels=`
    classes: int
    gpu: bool
    bf16: bool  # whether the machine computes in bf16 natively


def settings(facts: Facts) -> list[Setting]:
    """The rule itself: a pure function, so that it can be read and tested as a table."""
    size = min(LARGEST, facts.size)
    small = size <= 40
    chosen = [
        Setting(
            "dataset.size", str(size), f"the images have {facts.size} pixels; none is enlarged"
        ),
        Setting(
            "dataset.channels",
            "1" if facts.grey else "3",
            "all images are grey" if facts.grey else "some images are in colour",
        ),
        Setting(
            "encoder",
            "conv64" if not small else "conv",
            f"for {size} pixels it halves the resolution once more than conv does"
            if not small
            else f"small enough for {size} pixels",
        ),
    ]
    if size <= 8:
        chosen.append(
            Setting("encoder.channels", "[32,64]", "images of this size can be halved only twice")
        )
    if facts.grey and small:
        chosen.append(
            Setting("augment", "digits", "small grey images may be characters: no mirror images")
        )
    elif small:
        chosen.append(Setting("augment", "pictures", f"{size} pixels are too few for blur"))
    steps = 600 if not small and not facts.gpu else 1000 if not facts.gpu else 2000
    where = "a GPU" if facts.gpu else "a CPU"
    chosen += [
        Setting(
            "pretrainer", knowledge.best_pretrainer(), f"best in {knowledge.PRETRAINERS_SOURCE}"
        ),
        Setting(
            "pretrain.steps",
            str(steps),
            f"takes minutes on {where}; more steps may give a higher accuracy",
        ),
        Setting(
            "pretrain.batch_size",
            "128",
            "the loss compares the images of a batch and needs many of them",
        ),
        Setting(
            "task.augment",
            "true",
            f"random views of the images make the most of {facts.labelled} labels",
        ),
    ]
    tuning = min(3000, max(400, 30 * facts.labelled // 32))
    chosen += [
        Setting("finetune.steps", str(tuning), f"for {facts.labelled} labels"),
        Setting(
            "finetune.ema",
            "0.99",
            "the average of recent weights is steadier than the last weights",
        ),
    ]
    if not small and not facts.gpu:
        chosen.append(
            Setting(
                "draws", "5", "a fine-tuning takes seconds; 10 labelled splits take twice as long"
            )
        )
    if facts.labelled < FEW_LABELS * facts.classes:
        chosen.append(
            Setting("val", "none", "too few labels to hold some back; test scores are unaffected")
        )
    if facts.bf16:
        chosen.append(
            Setting("hardware.precision", "bf16", "this machine computes in bf16 natively")
        )
    if facts.images > facts.labelled:
        arms = "[scratch,random_frozen,raw_pixels,raw_svm,pca_svm,raw_spread]"
        chosen.append(
            Setting("controls", arms, "the unlabelled images allow label propagation on pixels")
        )
    return chosen


def with_defaults(words: Sequence[str], silent: bool = False) -> list[str]:
    """The words of a command with the rule's overrides in front, where they name dataset=image_folder.

    Unchanged where the user says auto=false, or names an experiment, a debug option or a sweeper, which have settings of
    their own. A study is given only what follows from the images themselves (`OF_IMAGES`). Each choice is printed with its
    reason, unless `silent`.
    """
    given = overridden(words)
    applies = given.get("dataset") == "image_folder" and given.get("auto", "true").lower() == "true"
    if not applies or any(given.get(bundle, "null") != "null" for bundle in BUNDLES):
        return list(words)
    facts = survey(words)
    if facts is None:
        return list(words)
    chosen = [s for s in settings(facts) if not taken(s.key, given)]
    if given.get("study", "null") != "null":
        chosen = [s for s in chosen if s.key in OF_IMAGES]
    if not silent:
        console.message(
            "Chosen for these images; a key of yours replaces its line, auto=false all of them:\n"
            + "\n".join(f"  {s.key}={s.value}: {s.reason}" for s in chosen)
        )
    # Hydra's flags stay in front; the user's overrides follow the rule's.
    first = next(n for n, w in enumerate(words) if "=" in w and not w.startswith("-"))
    added = ["auto=false", *(f"{s.key}={s.value}" for s in chosen)]
    rest = [w for w in words[first:] if w.partition("=")[0].lstrip("+") != "auto"]
    return [*words[:first], *added, *rest]


def overridden(words: Sequence[str]) -> dict[str, str]:
    """Key -> value of the overrides among the words."""
    pairs = (w.partition("=") for w in words if "=" in w and not w.startswith("-"))
    return {key.lstrip("+~"): value for key, _, value in pairs}


# Keys with which the user decides about another key as well.
DECIDED_BY = {
    "pretrain.steps": ("pretrain.epochs", "pretrain.max_steps", "pretrain.schedule_length"),
    "finetune.steps": (
        "finetune.epochs",
        "finetune.max_steps",
        "finetune.schedule_length",
        "strategy",
    ),
    "finetune.ema": ("strategy", "finetune.patience"),
    "task.augment": ("task", "strategy"),
    "controls": ("task",),
    "val": ("finetune.patience", "optim.lr"),
    "encoder.channels": ("encoder",),
}


def taken(key: str, given: dict[str, str]) -> bool:
    """Whether the user has decided about this key: itself, one that says the same, or a key of the option in a group."""
    deciding = (key, *DECIDED_BY.get(key, ()))
    return any(k == d or k.startswith(f"{d}.") for k in given for d in deciding)


def survey(words: Sequence[str]) -> Facts | None:
    """What the rule needs to know of the user's folder; None where the folder cannot be listed, which the run itself then
    reports, or where a sweep ranges over folders."""
    from sft_exp.data.readers.files import is_image  # late, like the next: it imports torch
    from sft_exp.datasets.image_folder import ImageFolder

    about = [w for w in words if w.lstrip("+").startswith(("dataset=", "dataset."))]
    sweep = "-m" in words or "--multirun" in words
    if sweep and any("," in w and "[" not in w for w in about):
        return None
    config, _ = compose.compose(about)
    options = {k: v for k, v in config["dataset"].items() if k != "_target_"}
    try:
        data = ImageFolder(**options)
        rows = data.table() if data.labels else data.folders()
        pool = [f for f in data.pool({r.file.id for r in rows}) if is_image(f.id)]
    except (Failure, OSError):
        return None
    rows = [r for r in rows if not r.fate]
    learnt = [r for r in rows if r.split != "test"]
    files = [r.file.path for r in learnt] + [
        f.path for f in pool if f.content is None and f.size < 0
    ]
    sizes, grey = headers(files)
    if not sizes:
        return None
    classes = len({r.label for r in learnt if r.label})
    labelled = count(overridden(words), sum(1 for r in learnt if r.label), classes)
    gpu, bf16 = machine(overridden(words))
    return Facts(median_low(sizes), grey, len(learnt) + len(pool), labelled, classes, gpu, bf16)


def headers(files: Sequence[Path]) -> tuple[list[int], bool]:
    """(shorter sides, whether no image has colours) of a sample of the files. Unreadable ones are the run's to report."""
    sizes, grey = [], True
    for path in files[:: max(1, len(files) // SAMPLE)]:
        try:
            with Image.open(path) as image:
                sizes.append(min(image.size))
                grey = grey and colourless(image)
        except (OSError, ValueError):
            continue
    return sizes, grey


def colourless(image: Image.Image) -> bool:
    """Whether the image is grey, whatever it is stored as: many grey images lie in colour files."""
    if image.mode in ("1", "L", "LA", "I", "F") or image.mode.startswith("I;16"):
        return True
    image.thumbnail((64, 64))
    red, green, blue = image.convert("RGB").split()
    return red.tobytes() == green.tobytes() == blue.tobytes()


def count(given: dict[str, str], images: int, classes: int) -> int:
    """Labels over all classes that the words ask for; of a sweep over label counts, the first."""
    if given.get("labels_total", "null") != "null":
        return int(given["labels_total"].split(",")[0])
    # conf's default for a folder: all
    labels = given.get("labels", "all").split(",")[0].strip("'\"")
    if labels.isdigit():
        return min(images, int(labels) * classes)
    if labels.endswith("%"):
        return round(images * float(labels[:-1]) / 100)
    return images


def machine(given: dict[str, str]) -> tuple[bool, bool]:
    """(whether a GPU is used, whether it or the CPU computes in bf16 natively)"""
    import torch

    device = given.get("hardware.device", given.get("hardware", "auto"))
    if device.startswith("cuda") or (device == "auto" and torch.cuda.is_available()):
        return True, torch.cuda.is_available() and torch.cuda.is_bf16_supported(
            including_emulation=False
        )
    try:
        flags = Path("/proc/cpuinfo").read_text().split()
    except OSError:  # not Linux: bf16 is not assumed
        return False, False
    return False, any(flag in flags for flag in BF16_FLAGS)
