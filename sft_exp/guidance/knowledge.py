"""What is known to help, as one table: which setting, what it brought, on which data, and where that is published.

The line after a run, the defaults for folders of images and the tests read it. `source` is a committed page under docs/;
tests/test_knowledge.py reads every number back from there, so that a page that is made again and a table that is not
disagree in a test. Nothing else in the package holds an opinion on which method to try.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

# points of accuracy; a smaller lead is within the noise of the tables, and no reason to change
MARGIN = 2.0

# Fine-tuning with 10 labels a class of MNIST after 1,000 steps, encoder=conv, 3 seeds: the column "10: full".
PRETRAINERS_SOURCE = "docs/results/pretrainers_mnist/README.md"
PRETRAINERS = {
    "vicreg": 93.7,
    "simclr": 93.3,
    "dino": 93.1,
    "moco": 92.3,
    "simsiam": 92.0,
    "byol": 91.3,
    "barlow_twins": 91.2,
    "vae": 85.9,
    "rotation": 85.8,
    "mae": 84.9,
    "jigsaw": 84.2,
    "wgan_gp": 83.7,
    "kmeans": 83.4,
    "dae": 82.5,
    "ae": 82.2,
    "gan": 80.7,
    "bigan": 79.1,
    "pca": 77.4,
    "none": 71.7,
}


class Case(NamedTuple):
    """What a recommendation depends on."""

    choices: dict[str, str]  # the option taken in each group
    augmented: bool  # whether the labelled images are shown in views
    grey: bool
    unlabelled: bool  # whether images without labels are left
    better: tuple[str, ...] = ()  # baselines that the result does not beat


class Step(NamedTuple):
    """A change of the command that a committed table has seen to bring more than noise."""

    name: str
    changes: dict[str, Any]
    applies: Callable[[Case], bool]
    number: str  # what the source says of it: points over the step before, or accuracy in %
    source: str  # page that holds the number
    row: str  # first cell of its row there


def best_pretrainer() -> str:
    return max(PRETRAINERS, key=PRETRAINERS.__getitem__)


def ahead_of(pretrainer: str) -> float:
    """Points by which the best method leads over this one; 0 for a method that the table does not hold, such as weights
    from a file, because nothing is known."""
    return PRETRAINERS[best_pretrainer()] - PRETRAINERS.get(pretrainer, PRETRAINERS["vicreg"])


def trains_classifier(case: Case) -> bool:
    return case.choices.get("task") == "classify" and case.choices.get("strategy") == "full"


def behind(case: Case) -> bool:
    return ahead_of(case.choices.get("pretrainer", "")) > MARGIN


# Encoders that are no convolutional networks trained by gradients.
NARROW = ("mlp", "projection", "patches")

# In the order in which they are worth a try: the largest gain first.
STEPS = (
    Step(
        "augmentation",
        {"task.augment": "true"},
        lambda case: trains_classifier(case) and not case.augmented,
        "+19.7",
        "docs/results/attribution_mnist/README.md",
        "augmentation",
    ),
    Step(
        "a method that is ahead",
        {"pretrainer": best_pretrainer()},
        lambda case: behind(case) and case.choices.get("encoder") not in NARROW,
        "93.7",
        PRETRAINERS_SOURCE,
        "vicreg",
    ),
    Step(
        "a method that is ahead, with the encoder that it was measured with",
        {"pretrainer": best_pretrainer(), "encoder": "conv"},
        lambda case: behind(case) and case.choices.get("encoder") in NARROW,
        "93.7",
        PRETRAINERS_SOURCE,
        "vicreg",
    ),
    Step(
        "label propagation on the learned features",
        {"strategy": "spread"},
        lambda case: (
            trains_classifier(case) and case.unlabelled and case.better[:1] == ("raw_spread",)
        ),
        "97.0",
        "docs/results/mnist/README.md",
        "vicreg",
    ),
    # On colour photographs its effect was not distinguishable from zero
    # (docs/results/attribution_cifar10_jpeg).
    Step(
        "FixMatch",
        {"task": "fixmatch", "task.labelled": "strong", "task.cutout": "0"},
        lambda case: trains_classifier(case) and case.unlabelled and case.grey,
        "+1.4",
        "docs/results/attribution_mnist/README.md",
        "semi_supervised",
    ),
)


def next_step(case: Case) -> Step | None:
    """The first step that applies; None where the tables know of nothing better."""
    return next((step for step in STEPS if step.applies(case)), None)
