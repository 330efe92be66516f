"""The images on which a run's model is scored, and the run's own training and held-out images."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from sft_exp import api
from sft_exp.config import build, compose
from sft_exp.config.moved import updated
from sft_exp.config.schema import Experiment
from sft_exp.config.sources import KINDS
from sft_exp.core.types import LABEL_SET, Spec
from sft_exp.data import duplicates, splits
from sft_exp.data.corpus import Corpus
from sft_exp.data.decode import decode
from sft_exp.data.images import Images, fitted
from sft_exp.errors import ConfigError, DataError
from sft_exp.failures import translated
from sft_exp.stages import logits
from sft_exp.stages import model as models
from sft_exp.store import results
from sft_exp.store.results import Results
from sft_exp.training import context

# fields of a data set that name its files: those of the run do not belong to other images
PLACES = ("root", "labels", "table", "unlabelled", "group")
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


def new(result: Results, words: Sequence[str], spec: Spec) -> Scored:
    """The images of the data set that the overrides `dataset=... dataset.key=...` describe.

    Raises:
        ConfigError: an override that is not valid.
        DataError: files that cannot be read; classes that the model does not know.
    """
    node = described(result, words, spec)
    corpus = build.part(node, "dataset", KINDS["dataset"]).load()
    images = corpus.train if corpus.test is None else corpus.test
    images = images.at((images.y >= 0).nonzero().flatten())
    images = read_alike(fitted(images, spec.image), corpus, spec)
    which = "all its labelled images" if corpus.test is None else "its test images"
    manifest = corpus.fingerprint if corpus.test is None else corpus.test_fingerprint
    images, absent = matched(images, corpus.classes, spec.classes)
    return Scored(corpus.name, manifest, which, images, absent)


def described(result: Results, words: Sequence[str], spec: Spec) -> dict[str, Any]:
    """The configuration of the data set.

    Without `dataset=NAME` it is that of the run with the keys that the words name; if they name
    other files, the run's are left out. Images have the model's size unless a word says otherwise.
    """
    config = updated(build.resolved(result.config))
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
    if (corpus.levels, corpus.fit) == (spec.levels, fit):
        return images
    if any(name not in corpus.files for name in images.ids):
        raise DataError(
            f"{corpus.name}: its images have the levels {corpus.levels} and the model's {spec.levels};"
            " only files of their own can be scaled alike: unpack the archive"
        )
    files = [corpus.files[name] for name in images.ids]

    def read(row: int) -> torch.Tensor:
        return decode(files[row].read_bytes(), spec.image, fit, spec.levels)

    return replace(images, x=read, rows=None, targets=of_whole_images)


def matched(
    images: Images, classes: Sequence[str], known: Sequence[str]
) -> tuple[Images, tuple[str, ...]]:
    """The images with the class numbers of the model, and the model's classes without an image.

    Raises:
        DataError: a class that the model does not know; the message has both lists.
    """
    if unknown := [name for name in classes if name not in known]:
        raise DataError(
            f"the model does not know {', '.join(map(repr, unknown))}."
            f"\n  classes of the images: {', '.join(classes)}"
            f"\n  classes of the model: {', '.join(known)}"
        )
    number = torch.tensor([known.index(name) for name in classes], dtype=torch.long)
    if LABEL_SET in images.targets:
        held: Any = images.targets[LABEL_SET]
        sets_NY = held.new_zeros(len(held), len(known))
        sets_NY[:, number] = held
        images = replace(images, targets={LABEL_SET: sets_NY})
        present_Y = images.target(LABEL_SET).any(0).tolist()
        return images, tuple(name for name, seen in zip(known, present_Y, strict=True) if not seen)
    y = number[images.y.cpu()] if len(classes) else images.y
    present = {known[n] for n in y.unique().tolist()} if len(classes) else set(known)
    return replace(images, y=y), tuple(name for name in known if name not in present)


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
