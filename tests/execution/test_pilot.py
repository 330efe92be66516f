"""What a run will take, told before anything is computed: some steps of each network are timed."""

import json
from pathlib import Path

import pytest

from sft_exp.config import build
from sft_exp.config.compose import compose
from sft_exp.core.tracker import Tracker
from sft_exp.execution import pilot
from sft_exp.execution.pilot import Pace
from sft_exp.jobs import prepare
from sft_exp.training.context import Context

BRIEF = ["dataset=digits", "hardware=cpu", "tracker=none", "hardware.workers=1", "draws=2"]


def prepared(*overrides):
    job = prepare.prepare(build.experiment(*compose([*BRIEF, *overrides])))
    return job, Context.on(job.experiment.hardware, Tracker())


def test_the_networks_of_a_fresh_store_are_timed_and_nothing_is_kept():
    job, ctx = prepared("pretrain.steps=1000", "controls=[scratch,pca_svm]")
    found = pilot.estimate(job, ctx)
    assert found.unknown == 0
    assert found.megabytes > 0.1
    assert {"pretrain", "finetune", "evaluate"} <= {*found.seconds}
    assert found.together > found.seconds["pretrain"] > 0
    assert not list(Path.cwd().rglob("*"))


@pytest.fixture
def timings(monkeypatch):
    """The requests that were timed; each step is said to take 10 ms, and the rest a second."""
    seen = []

    def timed(_, folder, name, request):
        seen.append((name, folder.name))
        return Pace(0.01, 1.0, 0.0, 2.0)

    monkeypatch.setattr(pilot.Pilot, "timed", timed)
    return seen


def test_a_network_is_timed_once_and_its_steps_counted(timings):
    job, ctx = prepared("finetune.steps=300", "pretrain.steps=500", "controls=[scratch]", "seeds=1")
    found = pilot.estimate(job, ctx)
    # with monitors, whose time is that of the first training beyond its steps
    assert found.seconds["pretrain"] == pytest.approx(1 + 500 * 0.01, abs=0.5)
    assert found.seconds["finetune"] == pytest.approx(2 * 2 * (1 + 300 * 0.01), abs=0.01)
    assert found.megabytes == (1 + 2 * 2) * 2.0
    assert [name for name, folder in timings if folder == "timed"] == ["pretrain", "finetune"]
    assert "Expected: " in found.sentence


def test_paces_are_kept_in_the_store_by_shape(timings):
    store = Path("store")
    store.mkdir()
    job, ctx = prepared("store=store", "finetune.steps=300")
    before = pilot.estimate(job, ctx)
    assert json.loads((store / pilot.FILE).read_text())
    timings.clear()
    assert pilot.estimate(job, ctx) == before
    assert timings == []
    pilot.estimate(*prepared("store=store", "finetune.steps=300", "finetune.batch_size=16"))
    assert {name for name, _ in timings} == {"finetune"}


@pytest.mark.parametrize("content", ['{"a', "[1]", '{"a": {"stepp": 1}}', '{"a": 3}'])
def test_damaged_paces_are_measured_again(content, tmp_path):
    (tmp_path / pilot.FILE).write_text(content)
    assert pilot.Pilot(prepared()[1], tmp_path).known == {}


def test_only_long_runs_are_timed_before_they_start(timings, capsys):
    pilot.announce(*prepared("finetune.steps=30", "pretrain.steps=30"))
    assert timings == []
    pilot.announce(*prepared("finetune.steps=30000"))
    assert "Expected: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("step", "alone", "said"), [(0.9, 0.15, True), (0.09, 0.15, False), (0.15, 0.15, False)]
)
def test_threads_that_wait_for_cores_are_said(monkeypatch, capsys, step, alone, said):
    """The steps of a training on two threads, with and without a program beside it that takes a core."""
    monkeypatch.setattr(pilot.torch, "get_num_threads", lambda: 2)

    def timed(_, folder, name, request):
        return Pace(alone if folder.name == "alone" else step, 1.0, 0.0, 2.0)

    monkeypatch.setattr(pilot.Pilot, "timed", timed)
    Path("store").mkdir()
    wide = ["encoder.hidden=[2048,2048]", "pretrain.steps=30000", "store=store"]
    pilot.announce(*prepared(*wide))
    advice = "a step takes 0.9 s on 2 threads and 0.15 s on one" in capsys.readouterr().err
    assert advice == said
    kept = json.loads(Path("store", pilot.FILE).read_text())
    assert any(pace["one_thread"] for pace in kept.values()) != said, "another start measures again"
