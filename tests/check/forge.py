"""Runs of a tiny line, and copies of them in which something is not as it was."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from sft_exp.check.__main__ import grade, merge
from sft_exp.check.standard import Grade
from sft_exp.config.build import experiment
from sft_exp.config.compose import compose
from sft_exp.execution.session import work
from sft_exp.jobs import prepare
from sft_exp.store import atomic_io

SMALL = (
    "tracker=none", "report=false", "pretrain.steps=8", "finetune.steps=40", "optim.lr=1e-5", "draws=2", "seeds=1",
    "val=none", "labels=5",
)  # fmt: skip


def run(
    folder: Path,
    *overrides: str,
    name: str = "run",
    encoder: tuple[str, ...] = ("encoder.hidden=[16]",),
) -> Path:
    """The run folder of a line whose store is beside it."""
    values, choices = compose([*SMALL, *encoder, *overrides])
    folder.mkdir(exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        work(
            prepare.prepare(experiment(values, choices)),
            Path(name),
            values,
            ["python", "-m", "sft_exp", *overrides],
        )
    return folder / name


def points(*runs: Path, again: bool = False) -> dict[str, Grade]:
    return {g.point: g for g in merge(grade(runs, again))}


def failed(*runs: Path, again: bool = False) -> dict[str, str]:
    """Point -> why."""
    return {g.point: g.reason for g in points(*runs, again=again).values() if g.passed is False}


class Forged:
    """A copy of a run with its store, sealed again after every change as a careful forger would."""

    def __init__(self, run: Path, to: Path):
        shutil.copytree(run.parent, to)
        self.run, self.store = to / run.name, to / "outputs/store"

    @property
    def result(self) -> dict[str, Any]:
        return json.loads((self.run / "results.json").read_text())

    def state(self, **changes: Any) -> None:
        """Change what results.json says; dots go down: `verdict__word="helped"`."""
        result = self.result
        for key, value in changes.items():
            node, *path = result, *key.split("__")
            for word in path[:-1]:
                node = node[word]
            node[path[-1]] = value
        atomic_io.write_json(self.run / "results.json", result)

    def evaluation(self, arm: str, draw: int) -> str:
        return self.result["folders"]["arms"][arm][draw]

    def model(self, arm: str, draw: int) -> str:
        return json.loads((self.store / self.evaluation(arm, draw) / "request.json").read_text())[
            "model"
        ]

    def edit(self, name: str, file: str, **changes: Any) -> None:
        """Change values of a JSON file, or tensors of a safetensors file, of a folder."""
        from safetensors.torch import load_file, save

        path = self.store / name / file
        if path.suffix == ".json":
            atomic_io.write_json(path, {**json.loads(path.read_text()), **changes})
        else:
            atomic_io.write(path, save({**load_file(path), **changes}))
        self.seal(name)

    def seal(self, name: str) -> None:
        seconds = json.loads((self.store / name / atomic_io.SEAL).read_text())["seconds"]
        atomic_io.seal(self.store / name, {"seconds": seconds})

    def ask(self, name: str, **changes: Any) -> None:
        """Change a request, and with it the name of its folder and all that was made from it."""
        request = {**json.loads((self.store / name / "request.json").read_text()), **changes}
        atomic_io.write_json(self.store / name / "request.json", request)
        new = f"{name.rpartition('-')[0]}-{hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()[:16]}"
        self.seal(name)
        atomic_io.move(self.store / name, self.store / new)
        for file in sorted(self.store.glob("*/request.json")):
            if name in (text := file.read_text()):
                atomic_io.write(file, text.replace(name, new))
                self.ask(file.parent.name)
        atomic_io.write(
            self.run / "results.json", (self.run / "results.json").read_text().replace(name, new)
        )
