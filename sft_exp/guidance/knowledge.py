"""The settings that are known to help: each with the gain that was measured, and its publication.

The advice after a run and the defaults for folders of images follow from this table, and nothing
else in the package recommends a method. `source` is a committed page under docs/.
tests/guidance/test_knowledge.py reads every number back from there, so that a test fails if a page is written
anew and this table is not.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

# points of accuracy; a smaller lead is within the noise of the tables, and no reason to switch
MARGIN = 2.0

# Accuracy in % after fine-tuning with 10 labels a class of MNIST: 1,000 steps of pretraining,
# encoder=conv, 3 seeds; the column "10: full" of the page.
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
    """The properties of a run that a recommendation depends on."""

    choices: dict[str, str]  # the option chosen in each config group
    augmented: bool  # whether the labelled images are augmented
    grey: bool  # whether the images have one channel
    unlabelled: bool  # whether images without labels are left
    better: tuple[str, ...] = ()  # baselines that the result does not beat


class Step(NamedTuple):
    """A change of the command whose gain in a committed table exceeds the noise."""

    name: str
    changes: dict[str, Any]  # the overrides
    applies: Callable[[Case], bool]  # whether the change is advice for a run
    number: str  # the number in the source: points over the step before, or accuracy in %
    source: str  # page that holds the number
    row: str  # first cell of the number's row there


def best_pretrainer() -> str:
    """The option of the group `pretrainer` with the highest accuracy in the table."""
    return max(PRETRAINERS, key=PRETRAINERS.__getitem__)


def lead_over(pretrainer: str) -> float:
    """Points of accuracy by which the best method leads over this one.

    It is 0 for a method that the table does not hold, such as weights from a file, because nothing
    is known about it.
    """
    return PRETRAINERS[best_pretrainer()] - PRETRAINERS.get(pretrainer, PRETRAINERS["vicreg"])


def trains_classifier(case: Case) -> bool:
    """Whether the run trains a whole classifier by gradient, which the table's numbers are for."""
    return case.choices.get("task") == "classify" and case.choices.get("strategy") == "full"


def has_better_pretrainer(case: Case) -> bool:
    """Whether the best method leads over the run's by more than the noise."""
    return lead_over(case.choices.get("pretrainer", "")) > MARGIN


# Encoders other than convolutional networks that are trained by gradients; the table has none.
NOT_CONVOLUTIONAL = ("mlp", "projection", "patches")

# On colour photographs its effect was not distinguishable from zero
# (docs/results/attribution_cifar10_jpeg).
FIXMATCH = Step(
    "FixMatch",
    {"task": "fixmatch", "task.labelled": "strong", "task.cutout": "0"},
    lambda case: trains_classifier(case) and case.unlabelled and case.grey,
    "+1.4",
    "docs/results/attribution_mnist/README.md",
    "semi_supervised",
)

# Steps in the order in which they are worth a try: the largest gain first.
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
        lambda case: (
            has_better_pretrainer(case) and case.choices.get("encoder") not in NOT_CONVOLUTIONAL
        ),
        "93.7",
        PRETRAINERS_SOURCE,
        "vicreg",
    ),
    Step(
        "a method that is ahead, with the encoder that it was measured with",
        {"pretrainer": best_pretrainer(), "encoder": "conv"},
        lambda case: (
            has_better_pretrainer(case) and case.choices.get("encoder") in NOT_CONVOLUTIONAL
        ),
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
    FIXMATCH,
)


def next_step(case: Case) -> Step | None:
    """The first step that applies to a run; None if no table has anything better."""
    return next((step for step in STEPS if step.applies(case)), None)
