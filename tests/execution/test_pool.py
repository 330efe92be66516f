"""Workers of one run: same bits as one process, nothing left behind, none where they do not pay."""

import json
import os
import time
from pathlib import Path

import pytest
import torch

import sft_exp
from sft_exp.config import build
from sft_exp.config.compose import compose
from sft_exp.core.tracker import Tracker
from sft_exp.errors import ConfigError
from sft_exp.execution import pool
from sft_exp.jobs import prepare, stage_requests
from sft_exp.store.store import Store
from sft_exp.training.context import Context

SETTINGS = [
    "dataset=digits", "pretrainer=ae", "pretrain.steps=20", "finetune.steps=20", "draws=2",
    "hardware=cpu",
]  # fmt: skip


def prepared(*overrides):
    values, choices = compose([*SETTINGS, *overrides])
    job = prepare.prepare(build.experiment(values, choices))
    return job, Context.on(job.experiment.hardware, Tracker()), values


def contents(store):
    """Name -> bytes of each file that a result consists of; seals without the time it took."""
    found = {}
    for path in sorted(Path(store).glob("*-*/**/*")):
        if path.is_file():
            name = path.relative_to(store).as_posix()
            if path.name == "done.json":
                found[name] = json.loads(path.read_text())["sha256"]
            else:
                found[name] = path.read_bytes()
    return found


def without_times(value):
    """results.json without times, folders and the config, which names store and workers."""
    if isinstance(value, dict):
        left_out = ("seconds", "cached", "folder", "folders", "config")
        return {k: without_times(v) for k, v in value.items() if k not in left_out}
    return [without_times(v) for v in value] if isinstance(value, list) else value


def test_a_run_whose_folders_workers_computed_has_the_bits_of_one_process():
    settings = ["controls=[scratch]", "report=false"]
    alone = sft_exp.run([*SETTINGS, *settings, "store=alone", "hardware.workers=1"])

    job, ctx, values = prepared(*settings, "store=shared", "hardware.workers=2")
    names = set(pool.pooled_requests(job, ctx))
    store = Store(Path("shared"))
    pretrainings = {
        name for name, (of, _) in pool.pooled_requests(job, ctx).items() if of == "pretrain"
    }
    assert len(pretrainings) == 3, "of three seeds"
    with pool.workers(job, ctx, values):  # the main process does nothing but what workers cannot
        for stage, awaited in (("data", pretrainings), ("features", names)):
            store.run(stage_requests.stage(stage, ctx), job.requests[stage])
            end = time.monotonic() + 500
            while missing := [name for name in awaited if not store.has(name)]:
                assert time.monotonic() < end, missing
                time.sleep(0.1)
    assert len(names) >= 4
    (worker,) = pool._running
    result = sft_exp.run([*SETTINGS, *settings, "store=shared", "hardware.workers=2"])
    assert pool._running == [worker]  # it served both runs
    assert worker.poll() is None
    pool.stop()
    assert worker.poll() is not None

    assert contents("shared") == contents("alone")
    assert without_times(result) == without_times(alone)
    assert not list(Path("shared/work").iterdir())


def test_workers_end_with_a_run_that_fails():
    job, ctx, values = prepared("store=failing", "hardware.workers=2")
    started = []

    def fail():
        with pool.workers(job, ctx, values):
            started.extend(pool._running)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert [worker.poll() is None for worker in started] == [False]
    assert pool._running == []


@pytest.mark.parametrize("threads", [1, 3])
def test_small_networks_are_fine_tuned_on_one_thread_whatever_the_machine(
    threads, tmp_path, monkeypatch
):
    job, ctx, _ = prepared()
    seen = []

    def observe(*_):
        seen.append(torch.get_num_threads())

    monkeypatch.setitem(stage_requests.FUNCTIONS, "finetune", observe)
    monkeypatch.setattr(stage_requests, "digest", lambda *_: "of a function that only looks")
    torch.set_num_threads(threads)
    stage_requests.stage("finetune", ctx).run([tmp_path], job.requests["finetune"][:1])
    assert seen == [1]
    assert torch.get_num_threads() == threads


def test_large_networks_and_stated_threads_keep_theirs():
    job, ctx, _ = prepared("hardware.threads=2")
    request = job.requests["finetune"][0]
    assert not stage_requests.on_one_thread("finetune", request, ctx)
    what = stage_requests.stage("finetune")
    single = [r for r in job.requests["finetune"] if not what.batch_key(r)]
    pooled = {what.folder_name(r) for r in single} | job.named("pretrain").keys()
    assert set(pool.pooled_requests(job, ctx)) == pooled
    large, ctx, _ = prepared("encoder=resnet18")
    trained = large.requests["finetune"][0]
    assert not stage_requests.on_one_thread("finetune", trained, ctx)
    assert large.requests["finetune"][0] not in [
        r for _, r in pool.pooled_requests(large, ctx).values()
    ]


@pytest.mark.parametrize(
    ("words", "one"),
    [
        ((), True),
        (("pretrain.batch_size=512",), False),
        (("encoder=conv",), False),
        (("hardware.threads=1",), False),
    ],
)
def test_a_pretraining_has_one_thread_where_more_do_not_shorten_its_steps(words, one):
    job, ctx, _ = prepared(*words)
    first, solved, *others = job.requests["pretrain"]
    trained = [first, *others]
    assert [stage_requests.on_one_thread("pretrain", r, ctx) for r in trained] == [one] * 3
    assert solved["optim"] is None
    assert not stage_requests.on_one_thread("pretrain", solved, ctx), "principal components"


def test_a_worker_begins_with_the_pretrainings_and_from_the_back(monkeypatch):
    job, ctx, _ = prepared("store=ordered", "controls=[scratch]")
    for stage in ("data", "test"):
        Store(Path("ordered")).run(stage_requests.stage(stage, ctx), job.requests[stage])
    computed = []

    def compute(store, stage, request):
        folder = store.root / stage.folder_name(request)
        folder.mkdir()
        (folder / "done.json").touch()
        computed.append((stage.name, request["seed"]))
        return True

    monkeypatch.setattr(Store, "run_if_free", compute)
    pool.work(job, ctx)
    assert computed[:3] == [("pretrain", seed) for seed in (2, 1, 0)]
    assert {stage for stage, _ in computed[3:]} == {"finetune"}


@pytest.mark.parametrize(
    ("cores", "steps", "threads", "count"),
    [
        (1, 100_000, "auto", 1),
        (2, 20, "auto", 1),
        (2, 100_000, "auto", 2),
        (16, 30_000, "auto", 9),
        (16, 100_000, 8, 2),
    ],
)
def test_as_many_workers_as_cores_and_work(monkeypatch, cores, steps, threads, count):
    job, ctx, _ = prepared(
        f"finetune.steps={steps}", f"hardware.threads={threads}", "hardware.workers=auto"
    )
    monkeypatch.setattr(pool, "cores", lambda: cores)
    assert pool.count_of(job, ctx) == count


def test_cores_are_those_of_the_launchers_share(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert pool.cores() == 1
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert pool.cores() == len(os.sched_getaffinity(0))


@pytest.mark.parametrize("override", ["hardware.workers=0", "hardware.workers=many"])
def test_refused(override):
    with pytest.raises(ConfigError, match="workers"):
        prepared(override)
