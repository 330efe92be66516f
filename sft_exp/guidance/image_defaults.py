"""Default settings for a folder of images, chosen from the images, the labels and the machine.

The rule adds explicit overrides to a command before Hydra composes it. They are therefore hashed,
saved and repeated like the user's own overrides. It also adds `auto=false`, so that a rerun does not
choose again. A key that the user gives is never replaced, and neither are the settings of an
experiment or a debug option.
"""

from collections.abc import Iterable, Sequence
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
# CPU flags of Linux that stand for arithmetic in bf16; without them autocast emulates it, slower than fp32.
BF16_FLAGS = ("avx512_bf16", "amx_bf16")
# Bundles of settings that a user may choose; the rule does not replace what they set.
BUNDLES = ("experiment", "debug", "hydra/sweeper")
# Keys that a study takes from the rule: how images are read and augmented, and the network. A study
# sets methods, numbers of steps, validation and controls itself.
OF_IMAGES = (
    "dataset.size", "dataset.channels", "encoder", "encoder.channels", "augment",
    "hardware.precision",
)  # fmt: skip


class Setting(NamedTuple):
    """A key of the config, the value that the rule sets, and the reason for it."""

    key: str
    value: str
    reason: str


@dataclass(frozen=True)
class Facts:
    """The properties of the data and the machine that the rule depends on."""

    size: int  # shorter side of the images in pixels, the lower median
    grey: bool  # whether no image has colours
    images: int  # number of images that may be pretrained on
    labelled: int  # number of labels over all classes, after `labels=`
    classes: int
    gpu: bool
    bf16: bool  # whether the machine computes in bf16 natively


def settings(facts: Facts) -> list[Setting]:
    """The settings for these facts: the rule itself, as a pure function."""
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
            "more images for each step; a loss that compares those of a batch needs many of them",
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


def with_defaults(
    arguments: Sequence[str], silent: bool = False, objects: Iterable[str] = ()
) -> list[str]:
    """The arguments of a command with the rule's overrides in front, for dataset=image_folder.

    They are unchanged if the user gives auto=false, or chooses an experiment, a debug option or a
    sweeper, which have settings of their own. A study gets only the settings that follow from the
    images (`OF_IMAGES`). Each setting is printed with its reason, unless `silent`. `objects` are the
    keys that are given as objects.
    """
    overrides = overridden(arguments)
    applies = (
        overrides.get("dataset") == "image_folder"
        and overrides.get("auto", "true").lower() == "true"
    )
    if not applies or any(overrides.get(bundle, "null") != "null" for bundle in BUNDLES):
        return list(arguments)
    facts = inspect(arguments)
    if facts is None:
        return list(arguments)
    decided = [*overrides, *objects]
    chosen = [s for s in settings(facts) if not is_decided(s.key, decided)]
    if overrides.get("study", "null") != "null":
        chosen = [s for s in chosen if s.key in OF_IMAGES]
    if not silent:
        console.message(
            "Chosen for these images; a key of yours replaces its line, auto=false all of them:\n"
            + "\n".join(f"  {s.key}={s.value}: {s.reason}" for s in chosen)
        )
    # Hydra's flags stay in front; the user's overrides follow the rule's.
    first = next(n for n, w in enumerate(arguments) if "=" in w and not w.startswith("-"))
    added = ["auto=false", *(f"{s.key}={s.value}" for s in chosen)]
    rest = [w for w in arguments[first:] if w.partition("=")[0].lstrip("+") != "auto"]
    return [*arguments[:first], *added, *rest]


def overridden(arguments: Sequence[str]) -> dict[str, str]:
    """Key -> value of the overrides among command-line arguments."""
    pairs = (w.partition("=") for w in arguments if "=" in w and not w.startswith("-"))
    return {key.lstrip("+~"): value for key, _, value in pairs}


# key -> other keys by which a user decides about it, too
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
    "encoder.channels": ("encoder",),
}


def is_decided(key: str, overrides: Iterable[str]) -> bool:
    """Whether the user has set this key, a key of its option, or one of `DECIDED_BY`."""
    deciding = (key, *DECIDED_BY.get(key, ()))
    return any(k == d or k.startswith(f"{d}.") for k in overrides for d in deciding)


def inspect(arguments: Sequence[str]) -> Facts | None:
    """The facts about the user's folder of images and the machine.

    They are None if a sweep varies the data set, or if the folder cannot be listed, which the run
    itself reports.
    """
    from sft_exp.data.readers.files import is_image  # late, like the next: it imports torch
    from sft_exp.datasets.image_folder import ImageFolder

    about = [w for w in arguments if w.lstrip("+").startswith(("dataset=", "dataset."))]
    sweep = "-m" in arguments or "--multirun" in arguments
    if sweep and any("," in w and "[" not in w for w in about):
        return None
    config, _ = compose.compose(about)
    options = {k: v for k, v in config["dataset"].items() if k != "_target_"}
    try:
        data = ImageFolder(**options)
        rows, _ = data.annotated()
        pool = [f for f in data.pool({r.file.id for r in rows}) if is_image(f.id)]
    except (Failure, OSError):
        return None
    rows = [r for r in rows if not r.fate]
    trained_on = [r for r in rows if r.split != "test"]
    files = [r.file.path for r in trained_on] + [
        f.path for f in pool if f.content is None and f.size < 0
    ]
    sizes, grey = headers(files)
    if not sizes:
        return None
    classes = len({r.label for r in trained_on if r.label})
    labelled = label_count(overridden(arguments), sum(1 for r in trained_on if r.label), classes)
    gpu, bf16 = machine(overridden(arguments))
    return Facts(median_low(sizes), grey, len(trained_on) + len(pool), labelled, classes, gpu, bf16)


def headers(files: Sequence[Path]) -> tuple[list[int], bool]:
    """(shorter sides in pixels, whether no image has colours) of a sample of the files.

    Unreadable files are left out; the run itself reports them.
    """
    sizes, grey = [], True
    for path in files[:: max(1, len(files) // SAMPLE)]:
        try:
            with Image.open(path) as image:
                sizes.append(min(image.size))
                grey = grey and is_grey(image)
        except (OSError, ValueError):
            continue
    return sizes, grey


def is_grey(image: Image.Image) -> bool:
    """Whether an image has no colours, whatever its mode: many grey images are stored in colour."""
    if image.mode in ("1", "L", "LA", "I", "F") or image.mode.startswith("I;16"):
        return True
    image.thumbnail((64, 64))
    red, green, blue = image.convert("RGB").split()
    return red.tobytes() == green.tobytes() == blue.tobytes()


def label_count(overrides: dict[str, str], images: int, classes: int) -> int:
    """The number of labels over all classes that the overrides ask for; the first in a sweep."""
    if overrides.get("labels_total", "null") != "null":
        return int(overrides["labels_total"].split(",")[0])
    # conf's default for a folder: all
    labels = overrides.get("labels", "all").split(",")[0].strip("'\"")
    if labels.isdigit():
        return min(images, int(labels) * classes)
    if labels.endswith("%"):
        return round(images * float(labels[:-1]) / 100)
    return images


def machine(overrides: dict[str, str]) -> tuple[bool, bool]:
    """(whether a GPU is used, whether the GPU or else the CPU computes in bf16 natively)."""
    import torch

    device = overrides.get("hardware.device", overrides.get("hardware", "auto"))
    if device.startswith("cuda") or (device == "auto" and torch.cuda.is_available()):
        return True, torch.cuda.is_available() and torch.cuda.is_bf16_supported(
            including_emulation=False
        )
    try:
        flags = Path("/proc/cpuinfo").read_text().split()
    except OSError:  # not Linux: bf16 is not assumed
        return False, False
    return False, any(flag in flags for flag in BF16_FLAGS)
