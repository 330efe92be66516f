"""A run that is killed at any moment and repeated ends with identical bits."""

import hashlib
import json
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import time
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from faults import (
    ENVIRONMENT,
    TINY,
    Fault,
    cli,
    contents,
    ended,
    find,
    fork,
    leftovers,
    line,
    memory,
    run,
    stepwise,
)

from sft_exp.store import atomic_io
from sft_exp.training import checkpoints

STORE = Path("outputs/store")
METHODS = (
    "pretrainer=vae",
    "pretrainer=gan strategy=linear optim=momentum",
    # stops before its schedules end, and leaves checkpoints
    "pretrainer=ae pretrain.schedule_length=9 finetune.schedule_length=9",
)


@pytest.fixture(autouse=True)
def in_memory(isolated, monkeypatch):
    with memory() as folder:
        monkeypatch.chdir(folder)
        yield folder


class Job(NamedTuple):
    arguments: tuple  # of `line`
    expected: dict  # contents of all finished folders after an undisturbed run
    changes: int  # that it makes on disk


@pytest.fixture(scope="module")
def job(compose, device):
    """Overrides -> a job, run once undisturbed."""
    from sft_exp.config import build

    @cache
    def made(*overrides):
        tiny = [o for o in TINY if not (o.startswith("encoder.") and "pretrainer=pca" in overrides)]
        cfg = compose(*tiny, *overrides, f"hardware.device={device}")
        arguments = build.plain(cfg), build.choices(cfg)
        code, said = run(line, *arguments)
        assert code == 0, said
        found, changes = contents(STORE), int(Path("changes").read_text())
        assert {name.partition("-")[0] for name in found} >= {"pretrain", "finetune", "evaluate"}
        shutil.rmtree("outputs")
        return Job(arguments, found, changes)

    return made


def finishes(job, prepare=None):
    """The same once more gives the same bits, and leaves nothing behind; what it said."""
    code, said = run(line, *job.arguments, prepare=prepare)
    assert code == 0, said
    assert contents(STORE) == job.expected
    assert not leftovers(STORE)
    return said


def kill_at(job, *points):
    """Killed at one change on disk, and again while resuming, and again."""
    codes = [run(line, *job.arguments, fault=Fault(at))[0] for at in points]
    assert codes[0] == -signal.SIGKILL
    # so little may be left to do that a later one is not reached
    assert set(codes) <= {-signal.SIGKILL, 0}
    finishes(job)
    shutil.rmtree("outputs")


def steps():
    """Steps of training that were taken since the file was last removed."""
    return [int(n) for n in Path("steps").read_text().split()]


def points(changes, number):
    """Some of all changes, others each time; the first and the last among them."""
    seed = int(os.environ.get("SEED", time.time_ns() % 10_000))
    print(f"SEED={seed} repeats this")  # shown if the test fails
    return sorted({0, changes - 1, *random.Random(seed).sample(range(changes), number)})


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.sampled(1)
def test_killed_at_some_changes_on_disk(job, method):
    what = job(*method.split())
    assert what.changes > 60
    for at in points(what.changes, 4):
        kill_at(what, at)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("method", METHODS)
def test_killed_at_every_change_on_disk_and_again_while_resuming(job, method):
    what = job(*method.split())
    for at in range(what.changes):
        kill_at(what, at)
    for at in points(what.changes, 40):
        kill_at(what, at, 5)
    for at in points(what.changes // 2, 10):
        kill_at(what, at, at // 2, 3)


@pytest.mark.parametrize("step", [1, 4, 8, 12, 18])
def test_killed_at_a_step_loses_no_more_than_since_the_last_checkpoint(job, step):
    """10 steps of pretraining, then 10 of fine-tuning that keep their best weights; a checkpoint every third step."""
    what = job("pretrain.steps=10", "finetune.steps=10", "hardware.checkpoint_seconds=3")
    assert run(line, *what.arguments, prepare=partial(stepwise, kill_at=step))[0] == -signal.SIGKILL
    finishes(what, stepwise)
    assert len(steps()) - 20 <= 4
    assert steps()[:step] == [*range(1, 11), *range(1, 11)][:step]


@pytest.mark.parametrize("lose", ["optimizer", "rows", "step"])
def test_the_comparison_notices_a_lost_piece_of_state(job, lose):
    """The negative control of this file: resuming without it must not give the same bits."""
    what = job()
    run(line, *what.arguments, prepare=partial(stepwise, kill_at=4))
    assert run(line, *what.arguments, prepare=partial(stepwise, lose=lose))[0] == 0
    assert contents(STORE) != what.expected


DAMAGES = {
    "flipped": lambda data: (
        data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 16]) + data[len(data) // 2 + 1 :]
    ),
    "truncated": lambda data: data[:-1],
    "emptied": lambda data: b"",
}


@pytest.mark.parametrize("step", [4, 9], ids=["pretrain", "finetune"])
@pytest.mark.parametrize(
    ("damage", "which"),
    [("flipped", "newest"), ("truncated", "newest"), ("emptied", "newest"), ("flipped", "all")],
)
def test_a_damaged_checkpoint_is_named_and_the_one_before_used(job, step, damage, which):
    what = job()
    run(line, *what.arguments, prepare=partial(stepwise, kill_at=step))
    Path("steps").unlink()
    checkpoints = sorted(STORE.glob("work/*/*/checkpoint*"))
    assert [c.name for c in checkpoints] == ["checkpoint.previous.pt", "checkpoint.pt"]
    for file in checkpoints if which == "all" else checkpoints[1:]:
        file.write_bytes(DAMAGES[damage](file.read_bytes()))
    said = finishes(what, stepwise)
    assert said.count("checkpoint.pt: damaged") == 1
    assert said.count("checkpoint.previous.pt: damaged") == (which == "all")
    assert steps()[0] == (1 if which == "all" else 3)


@pytest.mark.parametrize("old", [b"{", b"1"], ids=["no JSON", "other numbers"])
def test_damaged_monitors_of_a_killed_pretraining_do_no_harm(job, old):
    """The rows that go on are the checkpoint's, since the file does not show whether it is damaged."""
    what = job("monitors=true")
    run(line, *what.arguments, prepare=partial(stepwise, kill_at=4))
    (file,) = STORE.glob("work/*/*/monitors.jsonl")
    file.write_bytes(file.read_bytes().replace(old, b"2"))
    finishes(what)


@pytest.mark.parametrize("stage", ["pretrain", "finetune", "evaluate"])
def test_a_damaged_seal_is_computed_again(job, stage):
    what = job()
    assert run(line, *what.arguments)[0] == 0
    seal = next(STORE.glob(f"{stage}-*/done.json"))
    content = bytearray(seal.read_bytes())
    content[len(content) // 2] ^= 4
    seal.write_bytes(content)
    shutil.rmtree("outputs/runs", ignore_errors=True)
    code, said = run(line, *what.arguments)
    assert code == 0, said
    assert f"{stage}-" in said
    assert "Set aside" in said
    assert contents(STORE) == what.expected


def test_another_number_of_threads_is_warned_of(job):
    what = job()
    run(line, *what.arguments, prepare=partial(stepwise, kill_at=4))
    (file,) = STORE.glob("work/*/*/checkpoint.pt")
    state = checkpoints.load(file, torch.device("cpu"))
    assert state["threads"] == 1
    atomic_io.write_checked(file, checkpoints.to_bytes({**state, "threads": 7}))
    assert "began with 7 threads and goes on with 1;" in finishes(what, stepwise)


class Evil:
    def __reduce__(self):
        return os.mkdir, ("hacked",)


def test_a_checkpoint_that_is_not_ours_runs_no_code(job):
    """A pickle with a sound checksum is refused all the same, and the training starts over."""
    what = job()
    run(line, *what.arguments, prepare=partial(stepwise, kill_at=4))
    data = pickle.dumps({"step": 3, "nets": Evil()})
    for file in STORE.glob("work/*/*/checkpoint*"):
        file.write_bytes(data + hashlib.sha256(data).digest())
    assert "not a checkpoint of sft_exp" in finishes(what)
    assert not Path("hacked").exists()


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGUSR1", "SIGUSR2"])
def test_a_signal_is_a_checkpoint_at_the_end_of_the_step(job, name):
    what = job("hardware.checkpoint_seconds=1000")
    code, said = run(
        line, *what.arguments, prepare=partial(stepwise, signals=(getattr(signal, name),))
    )
    assert (code, said.strip()) == (
        75,
        "pretrain VAE: stopped after step 4 of 5; the same command continues from there",
    )
    finishes(what, stepwise)
    assert steps() == [1, 2, 3, 4, 5] * 2


def test_a_second_interrupt_leaves_at_once(job):
    what = job()
    code, _ = run(
        line, *what.arguments, prepare=partial(stepwise, signals=(signal.SIGINT, signal.SIGINT))
    )
    assert code == 130
    finishes(what)


def stop_while_writing():
    from sft_exp.stages import pretrain

    to_bytes = pretrain.to_bytes

    def interrupted(tensors):
        os.kill(os.getpid(), signal.SIGTERM)
        return to_bytes(tensors)

    pretrain.to_bytes = interrupted


def test_stopped_where_nothing_trains_by_steps(job):
    """No loop looks at the signal in a PCA and an SVM; the store does, between them."""
    what = job("pretrainer=pca", "strategy=svm", "val=none")
    code, said = run(line, *what.arguments, prepare=stop_while_writing)
    assert code == 75
    assert "features: stopped before it began; the same command continues" in said
    finishes(what)


def test_the_command_line_says_that_it_was_interrupted_and_goes_on(job):
    # a report stores features beside what the job itself does
    changed = ("pretrain.steps=1000", "hardware.checkpoint_seconds=0.1", "report=false")
    what, command = job(*changed), [*TINY, *changed, "hydra.run.dir=run"]
    process = fork(cli, Path("said"), None, None, *command)
    while not find(f"{STORE}/work/*/pretrain-*/checkpoint.pt"):
        assert process.exitcode is None
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGTERM)
    assert ended(process, seconds=10) == 75
    status = json.loads(Path("run/status.json").read_text())
    assert (status["state"], status["exit_code"], status["resumable"]) == ("interrupted", 75, True)
    said = Path("said").read_text()
    assert "the same command continues from there" in said
    assert "Traceback" not in said

    assert run(cli, *command)[0] == 0
    assert json.loads(Path("run/status.json").read_text())["state"] == "done"
    assert contents(STORE) == what.expected


def test_a_finished_run_once_more_changes_nothing_in_the_store(job):
    what = job()
    assert run(line, *what.arguments)[0] == 0
    before = {p: p.stat().st_mtime_ns for p in STORE.rglob("*") if p.is_file()}
    assert run(line, *what.arguments, prepare=stepwise)[0] == 0
    assert before == {p: p.stat().st_mtime_ns for p in STORE.rglob("*") if p.is_file()}
    assert not Path("steps").exists()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_real_command_killed_at_random_moments():
    """Twice in each stage, at some moment after its first checkpoint."""
    overrides = (
        "tracker=none", "pretrainer=dae", "pretrain.steps=3000", "finetune.steps=3000", "draws=1",
        "controls=false",
    )  # fmt: skip
    command = [
        sys.executable,
        "-m",
        "sft_exp",
        *overrides,
        "val=none",
        "report=false",
        "hardware.checkpoint_seconds=0.2",
    ]

    def start():
        return subprocess.Popen(
            command, env={**os.environ, **ENVIRONMENT}, stdout=subprocess.DEVNULL
        )

    assert start().wait(300) == 0
    expected = contents(STORE)
    shutil.rmtree("outputs")
    for stage in ("pretrain", "finetune") * 2:
        process = start()
        while not find(f"{STORE}/work/*/{stage}-*/checkpoint.pt"):
            assert process.poll() is None
            time.sleep(0.01)
        time.sleep(random.uniform(0, 1))
        process.kill()
        process.wait()
        if stage == "finetune":
            assert start().wait(300) == 0
            assert contents(STORE) == expected
            assert not leftovers(STORE)
            shutil.rmtree("outputs")
