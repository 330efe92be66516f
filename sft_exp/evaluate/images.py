"""The images on which a run's model is scored, and the run's own training and held-out images."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from sft_exp import api
from sft_exp.config import build, compose
from sft_exp.config.moved import updated
from sft_exp.config.schema import Experiment
from sft_exp.config.sources import KINDS
from sft_exp.core.task import Task
from sft_exp.core.types import LABEL_SET, Spec
from sft_exp.data import duplicates, splits
from sft_exp.data.corpus import Corpus
from sft_exp.data.decode import decode
from sft_exp.data.images import Held, Images, fitted
from sft_exp.errors import ConfigError, DataError
from sft_exp.failures import translated
from sft_exp.stages import logits
from sft_exp.stages import model as models
from sft_exp.stages.outcome import IGNORE
from sft_exp.store import results
from sft_exp.store.listing import located
from sft_exp.training import context

# fields of a data set that name its files: those of the run do not belong to other images
PLACES = ("root", "labels", "table", "unlabelled", "group")
# targets that hold no class numbers; those of boxes are in `labels`
WITHOUT_CLASSES = ("boxes", "crowd")
Copy = tuple[str, str, float]  # id of a scored image, id of an image of the run, correlation


@dataclass(frozen=True)
class Scored:
    """Images to score, with the model's class numbers."""

    name: str
    manifest: str  # SHA-256 of their content and labels
    which: str  # what they are of the data set, in words
    images: Images
    absent: tuple[str, ...] = ()  # classes of the model that have no image


@dataclass(frozen=True)
class Own:
    """What a run learnt from, for its first labelled split."""

    pools: list[Images]  # its labelled images, and those that it was pretrained on
    # labelled images inside the label budget that the model was not trained on; None without any
    held_out: Images | None
    why: str = ""  # why there are none


def new(run: Path, words: Sequence[str], task: Task, spec: Spec) -> Scored:
    """The images of the data set that the overrides `dataset=... dataset.key=...` describe, beside the
    run's own settings.

    Their class numbers are those of the model, whose task and spec are given.

    Raises:
        ConfigError: an override that is not valid.
        DataError: files that cannot be read; classes that the model does not know.
    """
    node = described(run, words, spec)
    source = build.part(node, "dataset", KINDS["dataset"])
    source.learnt = False
    corpus = source.load()
    images = corpus.train if corpus.test is None else corpus.test
    images = images.at((images.y >= 0).nonzero().flatten())
    images = read_alike(fitted(images, spec.image), corpus, spec)
    which = "all its labelled images" if corpus.test is None else "its test images"
    manifest = corpus.fingerprint if corpus.test is None else corpus.test_fingerprint
    images, absent = matched(images, corpus.spec, task, spec)
    return Scored(corpus.name, manifest, which, images, absent)


def described(run: Path, words: Sequence[str], spec: Spec) -> dict[str, Any]:
    """The configuration of the data set.

    Without `dataset=NAME` it is that of the run with the keys that the words name; if they name
    other files, the run's are left out. Images have the model's size unless a word says otherwise.
    """
    result = results.read(run)
    config = located(updated(build.resolved(result.config)), run)
    option = [] if any(w.startswith("dataset=") for w in words) else [result.choices["dataset"]]
    plugins = [f"plugins={config['plugins']}"] if config.get("plugins") else []
    overrides = [*plugins, *(f"dataset={name}" for name in option), *words]
    with translated(overrides):
        values, _ = compose.compose(overrides)
    node = values["dataset"]
    named = {w.partition("=")[0].split(".")[1] for w in words if w.startswith("dataset.")}
    if option:
        other_files = {"root", "labels", "table"} & named
        node |= {
            key: value
            for key, value in config["dataset"].items()
            if key not in named and not (other_files and key in PLACES)
        }
    channels, height, width = spec.image
    size = {"size": height if height == width else [height, width], "channels": channels}
    return node | {key: value for key, value in size.items() if key in node and key not in named}


def read_alike(images: Images, corpus: Corpus, spec: Spec) -> Images:
    """The images, read from their files as the model's were: in proportions, and in the scale of more than 8 bits a pixel.

    Masks and boxes would not follow, so that images with such targets keep their proportions.
    """
    files_known = all(name in corpus.files for name in images.ids)
    of_whole_images = {n: images.target(n) for n in images.targets if n in (LABEL_SET, "value")}
    fit = (
        spec.fit if files_known and of_whole_images.keys() == images.targets.keys() else corpus.fit
    )
    # a model of images of 8 bits has no scale, and each image would be scaled by its own values
    levels = spec.levels or corpus.levels
    if (corpus.levels, corpus.fit) == (levels, fit):
        return images
    if any(name not in corpus.files for name in images.ids):
        raise DataError(
            f"{corpus.name}: its images have the levels {corpus.levels} and the model's {spec.levels};"
            " only files of their own can be scaled alike: unpack the archive"
        )
    files = [corpus.files[name] for name in images.ids]

    def read(row: int) -> torch.Tensor:
        return decode(files[row].read_bytes(), spec.image, fit, levels)

    return replace(images, x=read, rows=None, targets=of_whole_images)


def matched(images: Images, theirs: Spec, task: Task, ours: Spec) -> tuple[Images, tuple[str, ...]]:
    """The images with the class numbers of the model, and the model's classes without an image.

    Classes are matched by name, whatever the task predicts: those of images, of pixels, of boxes.

    Args:
        images: with the data set's class numbers.
        theirs: the data set's spec.
        task: the model's task.
        ours: the model's spec.

    Raises:
        DataError: a class that the model does not know; the message has both lists.
    """
    absent: list[str] = []
    for target in task.needs or ("y",):
        known, found = ours.of(target).classes, theirs.of(target).classes
        held: Any = images.y if target == "y" else images.targets.get(target)
        if held is None:
            raise DataError(f"the images have no annotation {target!r}, which the model predicts")
        sample = held if isinstance(held, torch.Tensor) else held(0)
        no_classes = not found and target != LABEL_SET  # a table without any label names none
        if target in WITHOUT_CLASSES or sample.is_floating_point() or no_classes:
            continue
        if unknown := [name for name in found if name not in known]:
            raise DataError(
                f"the model does not know {', '.join(map(repr, unknown))}."
                f"\n  classes of the images: {', '.join(found)}"
                f"\n  classes of the model: {', '.join(known)}"
            )
        number_Y = torch.tensor([known.index(name) for name in found], dtype=torch.long)
        if target == LABEL_SET:
            sets_NY = held.new_zeros(len(held), len(known))
            sets_NY[:, number_Y] = held
            images = replace(images, targets={**images.targets, LABEL_SET: sets_NY})
            seen = set(images.target(LABEL_SET).any(0).nonzero().flatten().tolist())
        elif target == "y":
            images = replace(images, y=number_Y[images.y.cpu()])
            seen = set(images.y.tolist())
        else:
            first = 1 if target == "labels" else 0  # of boxes 0 is none
            table_C = torch.arange(max(IGNORE, len(found) + first) + 1)
            table_C[first : first + len(found)] = number_Y + first
            if found != known[: len(found)]:
                other = {target: renumbered(held, table_C)}
                images = replace(images, targets={**images.targets, **other})
            seen = {value - first for value in values_of(images, target)}
        of_several = f"{target}/" if len(task.needs) > 1 and target != "labels" else ""
        absent += [f"{of_several}{name}" for n, name in enumerate(known) if n not in seen]
    return images, tuple(absent)


def renumbered(held: Held, table_C: torch.Tensor) -> Held:
    """A target with `table_C[value]` in place of each value."""
    if isinstance(held, torch.Tensor):
        return table_C[held.long()].to(held.dtype)
    return partial(_renumbered_row, held, table_C)


def _renumbered_row(
    held: Callable[[int], torch.Tensor], table_C: torch.Tensor, row: int
) -> torch.Tensor:
    # a function of the module and no lambda: worker processes that are not forked unpickle it
    value = held(row)
    return table_C[value.long()].to(value.dtype)


def values_of(images: Images, target: str) -> set[int]:
    """The values that occur in a target."""
    held = images.targets[target]
    if isinstance(held, torch.Tensor):
        return set(images.target(target).unique().tolist())
    rows = range(len(images)) if images.rows is None else images.rows.tolist()
    return {value for row in rows for value in held(row).unique().tolist()}


def own(run: Path) -> tuple[Scored, Own]:
    """The run's own test images, and what it learnt from, of its first labelled split.

    Raises:
        DataError: its images are not where they were, or have changed.
    """
    experiment = api.reopen(run)
    corpus = context.corpus(experiment.dataset)
    result = results.read(run)
    if (corpus.fingerprint, corpus.test_fingerprint) != (
        result.data.manifest,
        result.data.test_manifest,
    ):
        raise DataError(f"{run}: the images of its data set have changed since")
    draw = splits.make(corpus, splits.Labels.parse(experiment.labels, experiment.labels_total), 0)
    pools = [draw.labelled, draw.pool]
    if experiment.pretrain_dataset is not None:
        other = context.corpus(experiment.pretrain_dataset)
        pools.append(fitted(splits.everything(other), corpus.image))
    held_out, why = unlearnt(models.folder_of(run), experiment, draw.labelled)
    manifest = corpus.test_fingerprint or corpus.fingerprint
    test = Scored(corpus.name, manifest, "the run's own test images", draw.test)
    return test, Own([pool for pool in pools if len(pool)], held_out, why)


def unlearnt(folder: Path, experiment: Experiment, labelled: Images) -> tuple[Images | None, str]:
    """The labelled images that the model in the folder was not trained on; without any, why."""
    rows = logits.unlearnt(folder, labelled)
    if experiment.val == "full" or not len(rows):
        return None, logits.why_none(experiment.val)
    return labelled.at(rows), ""


def own_if_present(run: Path) -> Own:
    """What a run learnt from; nothing, and why, where its images are gone or have changed."""
    try:
        return own(run)[1]
    except (ConfigError, DataError) as error:
        return Own([], None, f"its own images cannot be read ({error})")


def copies(images: Images, pools: Sequence[Images]) -> list[Copy]:
    """Scored images that are copies, exact or near, of images that the run learnt from."""
    # names of other images say nothing here: without them no two images count as the same file
    nameless = replace(images, ids=[""] * len(images))
    found: dict[str, Copy] = {}
    for pool in pools:
        for pair in duplicates.near_copies(nameless, pool):
            name = images.ids[pair.test]
            found.setdefault(name, (name, pool.ids[pair.other], pair.correlation))
    return list(found.values())
