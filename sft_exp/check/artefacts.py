"""A run on disk: its results, and the folders and requests of the store that these name."""

import json
import re
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

from sft_exp.core.score import ACCURACY, BALANCED, balanced_accuracy
from sft_exp.errors import DataError
from sft_exp.store import atomic_io
from sft_exp.training import health

NAME = re.compile(r"[a-z_]+-[0-9a-f]{16}")


class Shelf:
    """Read access to a store's finished folders."""

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

    def whole(self, value: Any, without: frozenset[str]) -> Any:
        """A request in which names of folders are replaced by the folders' own requests.

        Keys in `without` are left out at every depth.
        """
        if isinstance(value, dict):
            return {k: self.whole(v, without) for k, v in value.items() if k not in without}
        if isinstance(value, list):
            return [self.whole(v, without) for v in value]
        if (
            isinstance(value, str)
            and NAME.fullmatch(value)
            and (self.root / value / "request.json").exists()
        ):
            return self.whole(self.request(value), without)
        return value

    def below(self, name: str) -> set[str]:
        """The names of the folder and of all folders that it was made from."""
        names, new = set[str](), {name}
        while new:
            names |= new
            texts = [json.dumps(self.request(n)) for n in new]
            new = {n for t in texts for n in NAME.findall(t) if (self.root / n).exists()} - names
        return names

    def of(self, stage: str) -> list[str]:
        """The names of all finished folders of a stage."""
        return sorted(p.parent.name for p in self.root.glob(f"{stage}-*/{atomic_io.SEAL}"))


@dataclass(frozen=True)
class Arm:
    """One arm in one draw."""

    evaluate: str  # name of the evaluation's folder
    finetune: str  # name of the fine-tuning's folder
    draw: int


@dataclass(eq=False)
class Run:
    """A finished job."""

    folder: Path
    result: dict[str, Any]  # results.json
    shelf: Shelf
    arms: dict[str, list[Arm]] = field(default_factory=dict)

    @cached_property
    def learnt(self) -> dict[str, Any]:
        """The manifest of the images to learn from."""
        return self.shelf.json(self.result["folders"]["data"], "manifest.json")

    @cached_property
    def tested(self) -> dict[str, Any]:
        """The manifest of the test images."""
        return self.shelf.json(self.result["folders"]["test"], "manifest.json")

    @cached_property
    def labels(self) -> dict[str, int]:
        """Name -> label of the images to learn from."""
        return dict(zip(self.learnt["ids"]["train"], self.learnt["labels"], strict=True))

    @cached_property
    def rows(self) -> dict[Arm, tuple[list[int], list[int]]]:
        """Of every evaluation, (indices into the test manifest, classes predicted for them)."""
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        predictions = {}
        for arm in (a for arms in self.arms.values() for a in arms):
            file = self.shelf.root / arm.evaluate / "predictions.safetensors"
            try:
                tensors = load_file(file)
                predictions[arm] = (tensors["row"].tolist(), tensors["predicted"].tolist())
            except (OSError, SafetensorError, KeyError) as error:
                raise DataError(f"{file}: unreadable ({error})") from error
        return predictions

    def accuracies(self, arm: str) -> list[float]:
        """The accuracy in each draw, from the predictions."""
        return [
            fmean(label == p for label, p in self.answers(one)) for one in self.arms.get(arm, [])
        ]

    def scores(self, arm: str) -> list[float]:
        """The score that the verdict compares, in each draw, from the predictions."""
        if self.score != BALANCED:
            return self.accuracies(arm)
        return [balanced_accuracy(self.answers(one)) for one in self.arms.get(arm, [])]

    def answers(self, one: Arm) -> list[tuple[int, int]]:
        """(label, class predicted) of each test image of an evaluation."""
        rows, predicted = self.rows[one]
        return [(self.tested["labels"][r], p) for r, p in zip(rows, predicted, strict=True)]

    @property
    def score(self) -> str:
        return str(self.result.get("score", ACCURACY))

    def faults(self, arm: str) -> list[str]:
        """How the arm's training failed in each draw, from its files; empty where it did not."""
        return [health.of(self.shelf.root / one.finetune) for one in self.arms.get(arm, [])]

    def labels_of(self, arm: Arm) -> tuple[list[str], list[str]]:
        """Names of the (labelled images, images used for validation)."""
        names = self.shelf.json(arm.finetune, "labels.json")
        return names["labelled"], names["validation"]

    def elsewhere(self, arm: Arm) -> dict[str, str]:
        """Name -> hash of the pixels, of the pretraining images if they are of another data set."""
        start = self.shelf.request(arm.finetune)["start"]
        data = self.shelf.request(start)["data"] if start else self.result["folders"]["data"]
        if data == self.result["folders"]["data"]:
            return {}
        manifest = self.shelf.json(data, "manifest.json")
        ids, hashes = manifest["ids"], manifest["content"]
        return {name: h for split in ids for name, h in zip(ids[split], hashes[split], strict=True)}

    def pooled(self, arm: Arm) -> list[str]:
        """Names of the images of this data set that may have been pretrained on."""
        ids = self.learnt["ids"]
        if not self.tested["folds"]:
            return [*ids["train"], *ids.get("unlabelled", [])]
        if "unlabelled" in ids:
            return ids["unlabelled"]
        tested = {self.tested["ids"][r] for r in self.rows[arm][0]}
        return [name for name in ids["train"] if name not in tested]


def read(folder: Path) -> Run:
    """The run in a folder.

    Raises:
        DataError: the run or its store is missing, or the run is too old to have the files that the
            standard requires.
    """
    try:
        result = json.loads((folder / "results.json").read_text())
        names, store = result["folders"], Path(result["config"]["store"])
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
    places = (start / store for start in (Path(), *folder.resolve().parents))
    root = next((p for p in places if (p / names["data"]).is_dir()), None)
    if root is None:
        raise DataError(f"{folder}: its results lie in {store}, and {names['data']} is not there")
    shelf = Shelf(root)
    run = Run(folder, result, shelf)
    for arm, evaluations in names["arms"].items():
        requests = [shelf.request(name) for name in evaluations]
        run.arms[arm] = [
            Arm(n, r["model"], r["draw"]) for n, r in zip(evaluations, requests, strict=True)
        ]
    return run
