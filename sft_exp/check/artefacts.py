"""A run as it lies on disk: the folders of the store that its results name, and what their requests ask for."""

import json
import re
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from sft_exp.errors import DataError
from sft_exp.store import atomic_io
from sft_exp.training import health

NAME = re.compile(r"[a-z_]+-[0-9a-f]{16}")


class Shelf:
    """A store's finished folders, read and never written."""

    def __init__(self, root: Path):
        self.root = root
        self._requests: dict[str, dict[str, Any]] = {}

    def request(self, name: str) -> dict[str, Any]:
        if name not in self._requests:
            self._requests[name] = self.json(name, "request.json")
        return self._requests[name]

    def json(self, name: str, file: str) -> Any:
        """DataError unless the file is there and whole."""
        try:
            return json.loads((self.root / name / file).read_text())
        except (OSError, ValueError) as error:
            raise DataError(
                f"{self.root / name / file}: unreadable ({type(error).__name__})"
            ) from error

    def whole(self, value: Any, without: frozenset[str]) -> Any:
        """A request with the folders it names replaced by their own requests, and some keys left out at every depth."""
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
        """The folder and all it was made from."""
        found, roots = set[str](), {name}
        while roots:
            found |= roots
            texts = [json.dumps(self.request(r)) for r in roots]
            roots = {n for t in texts for n in NAME.findall(t) if (self.root / n).exists()} - found
        return found

    def of(self, stage: str) -> list[str]:
        return sorted(p.parent.name for p in self.root.glob(f"{stage}-*/{atomic_io.SEAL}"))


@dataclass(frozen=True)
class Arm:
    """One arm in one draw."""

    evaluate: str  # names of folders
    finetune: str
    draw: int


@dataclass(eq=False)
class Run:
    """A job that is done."""

    folder: Path
    result: dict[str, Any]  # results.json
    shelf: Shelf
    arms: dict[str, list[Arm]] = field(default_factory=dict)

    @cached_property
    def learnt(self) -> dict[str, Any]:
        return self.shelf.json(self.result["folders"]["data"], "manifest.json")

    @cached_property
    def tested(self) -> dict[str, Any]:
        return self.shelf.json(self.result["folders"]["test"], "manifest.json")

    @cached_property
    def labels(self) -> dict[str, int]:
        """Name -> label of the images to learn from."""
        return dict(zip(self.learnt["ids"]["train"], self.learnt["labels"], strict=True))

    @cached_property
    def rows(self) -> dict[Arm, tuple[list[int], list[int]]]:
        """(rows of the test manifest, classes predicted for them) of every evaluation."""
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        found = {}
        for arm in (a for arms in self.arms.values() for a in arms):
            file = self.shelf.root / arm.evaluate / "predictions.safetensors"
            try:
                tensors = load_file(file)
                found[arm] = (tensors["row"].tolist(), tensors["predicted"].tolist())
            except (OSError, SafetensorError, KeyError) as error:
                raise DataError(f"{file}: unreadable ({error})") from error
        return found

    def accuracies(self, arm: str) -> list[float]:
        """Of its draws, from the predictions."""
        labels = self.tested["labels"]
        found = []
        for one in self.arms.get(arm, []):
            rows, predicted = self.rows[one]
            found.append(
                sum(labels[r] == p for r, p in zip(rows, predicted, strict=True))
                / max(1, len(rows))
            )
        return found

    def faults(self, arm: str) -> list[str]:
        """How the arm's training failed in each draw, from what the trainings left; empty strings where it did not."""
        return [health.of(self.shelf.root / one.finetune) for one in self.arms.get(arm, [])]

    def labels_of(self, arm: Arm) -> tuple[list[str], list[str]]:
        """Names of the images (learnt from with their labels, chosen by)."""
        found = self.shelf.json(arm.finetune, "labels.json")
        return found["labelled"], found["validation"]

    def elsewhere(self, arm: Arm) -> dict[str, str]:
        """Name -> hash of the pixels of the images of another data set that were pretrained on."""
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
        held = {self.tested["ids"][r] for r in self.rows[arm][0]}
        return [name for name in ids["train"] if name not in held]


def read(folder: Path) -> Run:
    """DataError where the run or its store is not there, or the run is older than what the standard asks it to leave."""
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
    if (score := result.get("score", "accuracy")) != "accuracy":
        raise DataError(
            f"{folder}: its score is {score}, and what is graded so far are runs that classify images"
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
