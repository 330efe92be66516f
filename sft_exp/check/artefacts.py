"""A run on disk: its results, and the folders and requests of the store that these name."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from sft_exp.core.score import ACCURACY, BALANCED, balanced_accuracy
from sft_exp.errors import DataError
from sft_exp.store import atomic_io
from sft_exp.store.listing import near
from sft_exp.training import health

NAME = re.compile(r"[a-z_]+-[0-9a-f]{16}")


class FinishedFolders:
    """The finished folders of a store, read-only."""

    def __init__(self, root: Path):
        self.root = root
        self._requests: dict[str, dict[str, Any]] = {}

    def request(self, name: str) -> dict[str, Any]:
        if name not in self._requests:
            self._requests[name] = self.json(name, "request.json")
        return self._requests[name]

    def json(self, name: str, file: str) -> Any:
        """The content of a file of a folder.

        Raises:
            DataError: the file is missing or damaged.
        """
        try:
            return json.loads((self.root / name / file).read_text())
        except (OSError, ValueError) as error:
            raise DataError(
                f"{self.root / name / file}: unreadable ({type(error).__name__})"
            ) from error

    def expanded(self, value: Any, without: frozenset[str]) -> Any:
        """A request in which names of folders are replaced by the folders' own requests.

        Keys in `without` are left out at every depth.
        """
        if isinstance(value, dict):
            return {k: self.expanded(v, without) for k, v in value.items() if k not in without}
        if isinstance(value, list):
            return [self.expanded(v, without) for v in value]
        if (
            isinstance(value, str)
            and NAME.fullmatch(value)
            and (self.root / value / "request.json").exists()
        ):
            return self.expanded(self.request(value), without)
        return value

    def with_inputs(self, name: str) -> set[str]:
        """The names of the folder and of all folders that its result was computed from."""
        names, new = set[str](), {name}
        while new:
            names |= new
            texts = [json.dumps(self.request(n)) for n in new]
            new = {n for t in texts for n in NAME.findall(t) if (self.root / n).exists()} - names
        return names

    def of_stage(self, stage: str) -> list[str]:
        """The names of all finished folders of a stage."""
        return sorted(p.parent.name for p in self.root.glob(f"{stage}-*/{atomic_io.SEAL}"))


@dataclass(frozen=True)
class Evaluation:
    """The evaluation of one arm on one labelled split."""

    evaluate: str  # name of the evaluation's folder
    finetune: str  # name of the fine-tuning's folder
    draw: int  # index of the labelled split
    seed: int | None = None  # the pretraining seed that the results state, of further ones


class Predictions(NamedTuple):
    """The predictions of an evaluation."""

    rows: list[int]  # indices into the test manifest
    classes: list[int]  # indices of the predicted classes


@dataclass(eq=False)
class Run:
    """A finished job."""

    folder: Path
    result: dict[str, Any]  # results.json
    store: FinishedFolders
    arms: dict[str, list[Evaluation]] = field(default_factory=dict)
    # the same of each further pretraining seed
    other_seeds: list[dict[str, list[Evaluation]]] = field(default_factory=list)

    @cached_property
    def train_manifest(self) -> dict[str, Any]:
        """The manifest of the training images and of the unlabelled pool."""
        return self.store.json(self.result["folders"]["data"], "manifest.json")

    @cached_property
    def test_manifest(self) -> dict[str, Any]:
        """The manifest of the test images."""
        return self.store.json(self.result["folders"]["test"], "manifest.json")

    @cached_property
    def labels(self) -> dict[str, int]:
        """Name -> label of each training image."""
        return dict(
            zip(self.train_manifest["ids"]["train"], self.train_manifest["labels"], strict=True)
        )

    @cached_property
    def predictions(self) -> dict[Evaluation, Predictions]:
        """The predictions of every evaluation.

        Raises:
            DataError: a file of predictions is missing or damaged.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        predictions = {}
        for _, evaluation in self.evaluations():
            file = self.store.root / evaluation.evaluate / "predictions.safetensors"
            try:
                tensors = load_file(file)
                rows, classes = tensors["row"].tolist(), tensors["predicted"].tolist()
                predictions[evaluation] = Predictions(rows, classes)
            except (OSError, SafetensorError, KeyError) as error:
                raise DataError(f"{file}: unreadable ({error})") from error
        return predictions

    @property
    def by_seed(self) -> list[dict[str, list[Evaluation]]]:
        """The arms of the first pretraining seed, and those of each further one."""
        return [self.arms, *self.other_seeds]

    def accuracies(self, arm: str, seed: int = 0) -> list[float]:
        """The accuracy in each draw, from the predictions; `seed` counts from the first."""
        answers = map(self.labels_and_predictions, self.by_seed[seed].get(arm, []))
        return [fmean(label == predicted for label, predicted in pairs) for pairs in answers]

    def scores(self, arm: str, seed: int = 0) -> list[float]:
        """The score that the verdict compares, in each draw, from the predictions."""
        if self.score != BALANCED:
            return self.accuracies(arm, seed)
        answers = map(self.labels_and_predictions, self.by_seed[seed].get(arm, []))
        return [balanced_accuracy(pairs) for pairs in answers]

    def labels_and_predictions(self, evaluation: Evaluation) -> list[tuple[int, int]]:
        """(label, predicted class) of each test image of an evaluation."""
        labels = self.test_manifest["labels"]
        return [(labels[row], c) for row, c in zip(*self.predictions[evaluation], strict=True)]

    def evaluations(self) -> Iterator[tuple[str, Evaluation]]:
        """(name of the arm, evaluation) for all arms, labelled splits and pretraining seeds."""
        for arms in self.by_seed:
            for arm, evaluations in arms.items():
                for evaluation in evaluations:
                    yield arm, evaluation

    @property
    def score(self) -> str:
        """The key of the score that the verdict compares; results of older versions state none."""
        return str(self.result.get("score", ACCURACY))

    def faults(self, arm: str, seed: int = 0) -> list[str]:
        """How the arm's training failed in each draw, by its files; "" where it did not fail."""
        return [health.of(self.store.root / e.finetune) for e in self.by_seed[seed].get(arm, [])]

    def labels_of(self, evaluation: Evaluation) -> tuple[list[str], list[str]]:
        """Names of the (labelled images, images used for validation)."""
        names = self.store.json(evaluation.finetune, "labels.json")
        return names["labelled"], names["validation"]

    def tested(self, evaluation: Evaluation) -> set[str]:
        """Names of the test images of an evaluation."""
        return {self.test_manifest["ids"][row] for row in self.predictions[evaluation].rows}

    def pretrained_elsewhere(self, evaluation: Evaluation) -> dict[str, str]:
        """Name -> hash of the pixels of each pretraining image, if these are of another data set."""
        start = self.store.request(evaluation.finetune)["start"]
        data = self.store.request(start)["data"] if start else self.result["folders"]["data"]
        if data == self.result["folders"]["data"]:
            return {}
        manifest = self.store.json(data, "manifest.json")
        ids, hashes = manifest["ids"], manifest["content"]
        return {name: h for split in ids for name, h in zip(ids[split], hashes[split], strict=True)}

    def pretraining_pool(self, evaluation: Evaluation) -> list[str]:
        """Names of the images of this data set that the encoder may have been pretrained on."""
        ids = self.train_manifest["ids"]
        if not self.test_manifest["folds"]:
            return [*ids["train"], *ids.get("unlabelled", [])]
        if "unlabelled" in ids:
            return ids["unlabelled"]
        tested = self.tested(evaluation)
        return [name for name in ids["train"] if name not in tested]


def read(folder: Path) -> Run:
    """Read the run in a folder.

    Raises:
        DataError: the run or its store is missing, or the run is too old to have the files that the
            standard requires.
    """
    try:
        result = json.loads((folder / "results.json").read_text())
        names, location = result["folders"], Path(result["config"]["store"])
    except (OSError, ValueError) as error:
        raise DataError(
            f"{folder / 'results.json'}: unreadable ({type(error).__name__})"
        ) from error
    except KeyError as error:
        raise DataError(
            f"{folder / 'results.json'}: does not name {error}; the same command writes it anew"
        ) from error
    if (score := result.get("score", ACCURACY)) not in (ACCURACY, BALANCED):
        raise DataError(
            f"{folder}: its score is {score}, but only runs that classify images can be graded"
        )
    # another store may have the data, and not the results
    needed = {names["data"], names["test"], *chain(*names["arms"].values())}

    def held(place: Path) -> int:
        return sum((place / name).is_dir() for name in needed)

    root = max(near(folder, location), key=held)
    if not (root / names["data"]).is_dir():
        raise DataError(
            f"{folder}: its results lie in {location}, and {names['data']} is not there"
        )
    store = FinishedFolders(root)
    run = Run(folder, result, store)
    run.arms = evaluations_of(store, names["arms"])
    run.other_seeds = [
        evaluations_of(store, arms, int(seed))
        for seed, arms in names.get("other_seeds", {}).items()
    ]
    return run


def evaluations_of(
    store: FinishedFolders, names: dict[str, list[str]], seed: int | None = None
) -> dict[str, list[Evaluation]]:
    """Arm -> its evaluations, given the names of their folders."""
    requests = {name: store.request(name) for of in names.values() for name in of}
    return {
        arm: [Evaluation(n, requests[n]["model"], requests[n]["draw"], seed) for n in of]
        for arm, of in names.items()
    }
