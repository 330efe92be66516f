"""A run folder has one writer and holds one experiment."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from faults import ENVIRONMENT

from sft_exp import api
from sft_exp.errors import ConfigError, StorageError
from sft_exp.execution import ownership, session

TINY = [
    "encoder.hidden=[8]", "pretrain.steps=2", "finetune.steps=2", "draws=1", "controls=false",
    "tracker=none", "val=none",
]  # fmt: skip
HOLDER = """
import sys
from pathlib import Path
from sft_exp.execution import ownership
ownership.take(Path("run"))
print("held", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def holder():
    """Another process that works in the folder `run`."""
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER],
        stdin=pipe,
        stdout=pipe,
        text=True,
        env={**os.environ, **ENVIRONMENT},
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_a_second_writer_is_refused_by_pid_and_host_until_the_first_is_gone(holder):
    before = {p: p.read_bytes() for p in Path("run").iterdir()}
    with pytest.raises(
        ConfigError, match=rf"hydra\.run\.dir=run: process {holder.pid} on .* is at work there"
    ):
        ownership.take(Path("run"))
    with pytest.raises(ConfigError, match=str(holder.pid)):
        api.run(TINY, folder="run")
    assert not ownership.idle(Path("run"))
    assert {p: p.read_bytes() for p in Path("run").iterdir()} == before
    holder.kill()
    holder.wait()
    assert ownership.idle(Path("run"))


def test_who_lost_the_folder_writes_nothing_there(monkeypatch):
    """An orphan whose run was taken up by another process must not say how it ended."""

    def overtaken(*_, **__):
        Path("run", ownership.OWNER).write_text(
            json.dumps({"token": "another", "pid": 1, "host": "there"})
        )
        Path("run/status.json").write_text('{"state": "done"}')
        raise RuntimeError("late")

    monkeypatch.setattr(session.pipeline, "run", overtaken)
    with pytest.raises(RuntimeError, match="late"):
        api.run(TINY, folder="run")
    assert json.loads(Path("run/status.json").read_text()) == {"state": "done"}
    ownership.adopt(Path("run"), "mine")
    with pytest.raises(StorageError, match="process 1 on there has taken it over"):
        ownership.require(Path("run"))
    ownership.release(Path("run"))


def test_a_folder_of_another_experiment_is_refused_or_cleared():
    first = api.run([*TINY, "report=true"], folder="run")
    saved = json.loads(Path("run/results.json").read_text())
    del saved["config"]["score"]  # as a version without this key has left it
    Path("run/results.json").write_text(json.dumps(saved))
    again = api.run([*TINY, "report=true", "name=again"], folder="run")
    assert again["test"] == first["test"], "the same experiment may run again"
    Path("run/notes.txt").write_text("mine")
    before = {p: p.read_bytes() for p in Path("run").glob("*.*") if not p.name.startswith(".owner")}
    pictures = list(Path("run").glob("*.png"))
    assert pictures
    with pytest.raises(
        ConfigError,
        match=r"hydra\.run\.dir=run: holds another experiment's results \(labels differs\)",
    ):
        api.run([*TINY, "labels=3"], folder="run")
    assert {
        p: p.read_bytes() for p in Path("run").glob("*.*") if not p.name.startswith(".owner")
    } == before
    api.run([*TINY, "labels=3", "replace=true", "report=false"], folder="run")
    assert json.loads(Path("run/results.json").read_text())["config"]["labels"] == 3
    assert not list(Path("run").glob("*.png")), "no stale pictures"
    assert Path("run/notes.txt").read_text() == "mine"


def test_results_of_a_debug_run_are_replaced_and_replace_none_themselves():
    tiny = ["debug=tiny", "encoder.hidden=[8]", "controls=false", "val=none", "report=false"]
    api.run(tiny, folder="run")
    api.run([*tiny, "labels=3"], folder="run")
    assert json.loads(Path("run/results.json").read_text())["config"]["labels"] == 3
    api.run([*TINY, "report=false"], folder="run")
    with pytest.raises(ConfigError, match="holds another experiment's results"):
        api.run(tiny, folder="run")


def test_a_folder_that_cannot_be_made_is_a_storage_error():
    Path("file").write_text("")
    with pytest.raises(StorageError, match="Not a directory"):
        ownership.take(Path("file/run"))
