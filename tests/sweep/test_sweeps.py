"""Multiruns through the real command line: shared pretraining, isolated failures, checked jobs."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from faults import cli, run
from omegaconf import OmegaConf, open_dict

from sft_exp import api
from sft_exp.config import register
from sft_exp.errors import ConfigError
from sft_exp.models import transfer
from sft_exp.sweep import composition, sweeps

ROOT = Path(__file__).parents[2]
TINY = [
    "pretrain.steps=4", "finetune.steps=4", "draws=1", "controls=false", "tracker=none", "val=none",
]  # fmt: skip
PLANTED = """
import os, signal, sys
from dataclasses import dataclass
from sft_exp.pretrainers.ae import AE

@dataclass
class Planted(AE):
    how: str = "well"

    def loss(self, nets, x_BCHW):
        if self.how == "raise":
            raise ValueError("planted")
        if self.how == "exit":
            sys.exit(75)
        if self.how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        return super().loss(nets, x_BCHW)
"""


def command(*overrides: str) -> list[str]:
    return [sys.executable, "-m", "sft_exp", *overrides]


def environment(*paths: Path) -> dict[str, str]:
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(map(str, [ROOT, *paths])),
        "OMP_NUM_THREADS": "1",
    }


def sweep(*overrides: str, paths: tuple[Path, ...] = (), code: int = 0) -> str:
    if not paths and not [o for o in overrides if o.startswith("hydra/launcher=")]:
        left, said = run(cli, "-m", *overrides, seconds=1800)
    else:  # other paths, and processes that a launcher starts, need an interpreter of their own
        done = subprocess.run(
            command("-m", *overrides), env=environment(*paths), capture_output=True, text=True
        )
        left, said = done.returncode, done.stdout + done.stderr
    assert left == code, said
    return said


def folders(stage: str) -> list[Path]:
    return sorted(Path("outputs/store").glob(f"{stage}-*"))


def table(folder: Path) -> str:
    return (folder / "compare.csv").read_text()


def only_sweep() -> Path:
    (folder,) = Path("outputs/multirun").iterdir()
    return folder


GRID = ["pretrainer=ae,vae", "optim=sgd,adam", "optim.lr=1e-2,1e-3"]


def test_pretrains_once_and_repeats_nothing():
    sweep(*GRID, *TINY)
    assert (len(folders("pretrain")), len(folders("finetune"))) == (2, 8)
    assert (only_sweep() / "compare.html").exists()
    made = {f: f.stat().st_mtime_ns for f in Path("outputs/store").glob("*-*")}
    said = sweep(*GRID, *TINY)
    assert "8 of 8 jobs were done before" in said
    assert made == {f: f.stat().st_mtime_ns for f in Path("outputs/store").glob("*-*")}


@pytest.mark.slow
def test_a_plan_counts_what_all_jobs_would_compute_and_runs_none():
    def counts() -> dict[str, list[str]]:
        rows = [line.split() for line in sweep(*GRID, *TINY, "plan=true").splitlines()]
        table = [row for row in rows if len(row) > 3 and all(word.isdigit() for word in row[1:4])]
        return {row[0]: row[1:4] for row in table if row[0] in ("pretrain", "finetune")}

    assert counts() == {"pretrain": ["2", "0", "2"], "finetune": ["8", "0", "8"]}
    assert [p.as_posix() for p in Path("outputs").rglob("*")] == [
        "outputs/plan",
        "outputs/plan/inputs.png",
    ]
    sweep("pretrainer=ae", "optim=sgd", "optim.lr=1e-2", *TINY)
    assert counts() == {"pretrain": ["2", "1", "1"], "finetune": ["8", "1", "7"]}
    assert len(list(Path("outputs/multirun").iterdir())) == 1
    rungs = [o for o in TINY if not o.startswith("finetune.steps")]  # set by each rung
    said = sweep("hydra/sweeper=halving", *GRID, *rungs, "plan=true", code=2)
    assert "plan" in said
    assert "the sweeper chooses its jobs as it goes" in said


def test_a_store_that_cannot_be_written_to_stops_the_sweep_before_its_first_job(tmp_path):
    (tmp_path / "file").touch()
    said = sweep(*GRID, *TINY, f"store={tmp_path / 'file' / 'store'}", code=5)
    assert f"sft_exp: store={tmp_path / 'file' / 'store'}: Not a directory" in said
    assert not Path("outputs").exists()


@pytest.mark.slow
def test_parallel_jobs_share_one_pretraining():
    sweep(*GRID, *TINY, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    assert (len(folders("pretrain")), len(folders("finetune"))) == (2, 8)


JOBLIB = pytest.param(["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"], id="joblib")


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [pytest.param([], id="basic"), JOBLIB])
def test_a_job_loses_only_itself(tmp_path, launcher):
    (tmp_path / "planted.py").write_text(PLANTED)
    (tmp_path / "mine/pretrainer").mkdir(parents=True)
    node = "_target_: planted.Planted\nhow: well\nreconstruction: bernoulli\noutput: sigmoid\n"
    (tmp_path / "mine/pretrainer/planted.yaml").write_text(node)
    jobs = "pretrainer.how=well,raise,better,exit,best,kill"
    given = ["--config-dir", str(tmp_path / "mine"), "pretrainer=planted", jobs, *TINY, *launcher]
    said = sweep(*given, paths=(tmp_path,), code=6)
    states = [json.loads((only_sweep() / str(n) / "status.json").read_text()) for n in range(6)]
    assert [s["state"] for s in states] == ["done", "failed", "done", "failed", "done", "failed"]
    assert "ValueError: planted" in states[1]["error"]
    assert states[3]["exit_code"] == 75
    assert "SIGKILL" in states[5]["error"]
    assert "3 of 6 jobs done" in said

    (tmp_path / "planted.py").write_text(PLANTED.replace("self.how ==", "'mended' =="))
    said = sweep(*given, paths=(tmp_path,))
    assert "3 of 6 jobs were done before" in said


def test_checked_whole_before_anything_is_written():
    said = sweep("optim.lr=1e-3,-1", *TINY, code=2)
    assert "job 1" in said
    assert "optim.lr=-1" in said
    assert not list(Path().iterdir())


@pytest.mark.slow
def test_editing_yaml_changes_no_pending_job(tmp_path):
    """Jobs run what was composed at the start: the files are overwritten with nonsense while the first one works."""
    mine = tmp_path / "mine/optim"
    mine.mkdir(parents=True)
    (mine / "own.yaml").write_text("_target_: torch.optim.SGD\nlr: 0.01\nmomentum: 0.5\n")
    given = ["--config-dir", str(tmp_path / "mine"), "optim=own", "seed=0,1,2", *TINY]
    running = subprocess.Popen(
        command("-m", *given),
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    wait_for(lambda: list(Path("outputs/multirun").glob("*/0/status.json")), running)
    (mine / "own.yaml").write_text("momentum: [nonsense")
    said, _ = running.communicate()
    assert running.returncode == 0, said
    jobs = [
        json.loads((only_sweep() / str(n) / "results.json").read_text())["config"] for n in range(3)
    ]
    assert [(j["seed"], j["optim"]["momentum"]) for j in jobs] == [(0, 0.5), (1, 0.5), (2, 0.5)]


@pytest.mark.slow
def test_a_killed_driver_loses_nothing(tmp_path, monkeypatch):
    long = ["pretrain.epochs=40", "finetune.steps=100", "draws=2", "controls=false", "tracker=none"]
    for name in ("calm", "killed"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "calm")
    sweep(*GRID, *long)
    calm = table(only_sweep())
    monkeypatch.chdir(tmp_path / "killed")
    moments = random.Random(0)
    for _ in range(5):
        running = subprocess.Popen(
            command("-m", *GRID, *long),
            env=environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        time.sleep(moments.uniform(4, 12))
        running.send_signal(signal.SIGKILL)
        running.wait()
    sweep(*GRID, *long)
    assert table(only_sweep()) == calm


def wait_for(there, running: subprocess.Popen, seconds: float = 40) -> None:
    end = time.monotonic() + seconds
    while not there():
        assert running.poll() is None, running.communicate()
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.slow
def test_a_rung_goes_on_from_its_checkpoint_to_the_same_bits():
    """Successive halving: 8 steps of 24, then on to 24, against 24 at once."""
    given = [
        "draws=1", "controls=false", "tracker=none", "val=cv", "pretrain.steps=8",
        "finetune.schedule_length=24",
    ]  # fmt: skip
    api.run([*given, "store=rungs", "finetune.steps=8"], folder="first")
    second = api.run(
        [*given, "store=rungs", "finetune.steps=24", "finetune.resume_from=8"], folder="second"
    )
    undisturbed = api.run([*given, "store=whole", "finetune.steps=24"], folder="whole")
    a, b = (Path(r["stages"]["finetune"]["folder"]) for r in (second, undisturbed))
    assert a.name == b.name
    assert (a / "model.safetensors").read_bytes() == (b / "model.safetensors").read_bytes()
    assert (a / "metrics.jsonl").read_bytes() == (b / "metrics.jsonl").read_bytes()
    assert second["val"] == undisturbed["val"]


@pytest.mark.slow
def test_a_rung_of_pretraining_goes_on_too():
    given = [
        "draws=1", "controls=false", "tracker=none", "val=none", "finetune.steps=2",
        "pretrain.schedule_length=24",
    ]  # fmt: skip
    api.run([*given, "store=rungs", "pretrain.steps=8"], folder="first")
    second = api.run(
        [*given, "store=rungs", "pretrain.steps=24", "pretrain.resume_from=8"], folder="second"
    )
    whole = api.run([*given, "store=whole", "pretrain.steps=24"], folder="whole")
    a, b = (
        Path(r["stages"]["pretrain"]["folder"]) / "encoder.safetensors" for r in (second, whole)
    )
    assert a.read_bytes() == b.read_bytes()


@pytest.mark.slow
def test_halving_keeps_the_best_third():
    said = sweep(
        "hydra/sweeper=halving",
        "hydra.sweeper.least=3",
        "optim.lr=1e-5,1e-4,1e-3",
        *TINY[:1],
        "draws=1",
        "controls=false",
        "tracker=none",
    )
    jobs = [
        json.loads(f.read_text())["config"]["finetune"]
        for f in sorted(only_sweep().glob("*/results.json"))
    ]
    assert [(j["steps"], j["schedule_length"], j["resume_from"]) for j in jobs] == [
        (3, 9, None)
    ] * 3 + [(9, 9, 3)]
    assert "4 of 4 jobs done" in said


@pytest.mark.parametrize(
    ("own", "maximised"),
    [
        ({"direction": "minimize"}, {"direction": "maximize"}),  # Optuna
        ({"optim": {"maximize": False}}, {"optim": {"maximize": True}}),  # Nevergrad
        (
            {"ax_config": {"experiment": {"minimize": True}}},
            {"ax_config": {"experiment": {"minimize": False}}},
        ),
        ({"n_jobs": 2}, {"n_jobs": 2}),
    ],
)
def test_sweepers_that_minimise_by_default_maximise_the_score(compose, own, maximised):
    cfg = deepcopy(compose())
    with open_dict(cfg.hydra):
        cfg.hydra.sweeper = own
    sweeps.choose_by_validation(cfg)
    assert cfg.hydra.sweeper == maximised
    key = next(iter(maximised))
    if key == "direction":
        cfg.hydra.sweeper.direction = "minimize"
        cfg.hydra.overrides.hydra = ["hydra.sweeper.direction=minimize"]
        with pytest.raises(ConfigError, match="must be maximize"):
            sweeps.choose_by_validation(cfg)


@pytest.mark.parametrize("data", ["val=none", "dataset=boxes"])
def test_no_sweeper_chooses_by_test_scores(compose, data):
    root = ["dataset.root=."] if data == "dataset=boxes" else []
    with pytest.raises(ConfigError, match="halving chooses by validation scores"):
        sweeps.choose_by_validation(compose("hydra/sweeper=halving", data, *root))


def test_learning_rate_finder_leaves_no_trace():
    """A run at the rate it found equals one that never looked, to the bit."""
    given = [
        "draws=1", "controls=false", "tracker=none", "val=none", "pretrain.steps=20",
        "finetune.steps=10",
    ]  # fmt: skip
    found = api.run([*given, "store=auto", "optim.lr=auto"], folder="auto")
    (file,) = Path("auto").glob("lr_find-*/lr.json")
    rate = json.loads(file.read_text())["lr"]
    assert 1e-6 < rate < 1
    plain = api.run([*given, "store=plain", f"optim.lr={rate!r}"], folder="plain")
    a, b = (
        transfer.read_own(Path(r["stages"]["finetune"]["folder"]) / "model.safetensors")
        for r in (found, plain)
    )
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert found["test"] == plain["test"]


@pytest.mark.slow
def test_search_chooses_by_validation_and_flags_the_edge():
    given = [
        "draws=1", "controls=false", "tracker=none", "val=none", "pretrain.steps=20",
        "finetune.steps=5",
    ]  # fmt: skip
    api.run([*given, "optim.lr=search", "optim.hints.search.lr=[1e-9,1e-3]"], folder="run")
    (file,) = Path("outputs/store").glob("choose-*/lr.json")
    chosen = json.loads(file.read_text())
    assert chosen["edge"]
    assert chosen["accuracy"][chosen["rates"].index(chosen["lr"])] == max(chosen["accuracy"])


@pytest.mark.slow
def test_heads_of_a_sweep_train_together_and_equal_heads_alone():
    given = [
        "strategy=linear", "draws=1", "controls=false", "tracker=none", "val=none",
        "pretrain.steps=8", "finetune.steps=20",
    ]  # fmt: skip
    sweep(*given, "optim=momentum", "optim.lr=1e-3,1e-2,1e-1", "store=together")
    seconds = {
        json.loads((f / "done.json").read_text())["seconds"]
        for f in Path("together").glob("finetune-*")
    }
    assert len(seconds) == 1  # one call made all three
    for lr in ("1e-3", "1e-2", "1e-1"):
        words = [*given, "optim=momentum", f"optim.lr={lr}", "store=alone"]
        alone = api.run(words, folder=f"run-{lr}")
        name = Path(alone["stages"]["finetune"]["folder"]).name
        a, b = (
            transfer.read_own(Path(store) / name / "model.safetensors")
            for store in ("alone", "together")
        )
        for tensor in a:
            torch.testing.assert_close(a[tensor], b[tensor], rtol=0, atol=1e-5)


# Where jobs lie


def laid(*overrides: str, jobs=(["seed=0"], ["seed=1"])) -> list[str]:
    """The folders that a sweep gives its jobs."""
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    from sft_exp.config import hydra_state, register
    from sft_exp.sweep import sweeps

    register.register()
    with hydra_state.initialized():
        given = ["seed=0,1", *overrides]
        cfg = GlobalHydra.instance().hydra.compose_config(
            "config", given, run_mode=RunMode.MULTIRUN
        )
        composer = composition.Composer(cfg)
        places = sweeps.lay_folders(cfg, [{"overrides": job} for job in jobs], composer)
        assert HydraConfig.instance().cfg is None, (
            "what Hydra knows of the running job is as it was"
        )
        return [str(p) for p in places]


@pytest.mark.parametrize(
    ("overrides", "places"),
    [
        (["hydra.sweep.dir=there"], ["there/0", "there/1"]),
        (
            ["hydra.sweep.dir=there", "hydra.sweep.subdir=seed_${seed}"],
            ["there/seed_0", "there/seed_1"],
        ),
        (
            ["hydra.sweep.dir=there", "hydra.sweep.subdir=a/${hydra.job.num}"],
            ["there/a/0", "there/a/1"],
        ),
        (
            ["hydra.sweep.dir=there", "hydra.sweep.subdir=${hydra.job.override_dirname}"],
            ["there/seed=0", "there/seed=1"],
        ),
        (["hydra.sweep.dir=by/${seed}", "hydra.sweep.subdir=x"], ["by/0/x", "by/1/x"]),
    ],
)
def test_jobs_lie_where_hydra_puts_them(overrides, places):
    assert laid(*overrides) == places


@pytest.mark.parametrize("subdir", ["same", "${labels}", "s${draws}"])
def test_two_jobs_in_one_folder_are_refused(subdir):
    with pytest.raises(
        ConfigError, match=r"hydra.sweep.subdir=.*: jobs 0 and 1 would share the folder there"
    ):
        laid("hydra.sweep.dir=there", f"hydra.sweep.subdir={subdir}")


@pytest.mark.slow
@pytest.mark.parametrize("subdir", ["${hydra.job.override_dirname}", "a/seed_${seed}"])
def test_a_sweep_in_folders_of_ones_own_is_whole(subdir):
    given = [
        "seed=0,1",
        "pretrainer=none",
        *TINY,
        f"hydra.sweep.subdir={subdir}",
        "hydra.sweep.dir=there",
        "hydra.job.chdir=true",
    ]
    said = sweep(*given)
    assert "2 of 2 jobs done" in said
    assert len(list(Path("there").rglob("results.json"))) == 2
    assert Path("outputs/store").is_dir(), "paths are relative to where the command was typed"
    if subdir.startswith("a"):
        assert "2 of 2 jobs were done before" in sweep(*given)


@pytest.mark.parametrize(
    ("sweeper", "anew"),
    [
        ({"_target_": sweeps.BASIC}, False),
        ({"_target_": sweeps.HALVING}, False),
        ({"_target_": "theirs.Sweeper", "sampler": {"seed": None}, "storage": None}, True),
        ({"_target_": "theirs.Sweeper", "sampler": {"seed": 1}, "storage": None}, False),
        ({"_target_": "theirs.Sweeper", "sampler": {"seed": 1}, "storage": "sqlite:///a.db"}, True),
        ({"_target_": "theirs.Sweeper", "seed": 3}, False),
    ],
)
def test_a_sweeper_that_draws_other_jobs_each_time_is_known(sweeper, anew):
    assert sweeps.chooses_anew(OmegaConf.create({"hydra": {"sweeper": sweeper}})) is anew


def test_new_jobs_get_a_folder_beside_the_one_of_earlier_jobs():
    register.register()
    for expected in ("sweeps/name", "sweeps/name-2", "sweeps/name-3"):
        register.name_sweep("name")
        cfg = OmegaConf.create({"hydra": {"sweep": {"dir": "sweeps/${sweep_name:}"}}})
        sweeps.take_unused_folder(cfg, "name")
        assert cfg.hydra.sweep.dir == expected
        Path(expected).mkdir(parents=True)
    mine = OmegaConf.create({"hydra": {"sweep": {"dir": "sweeps/name"}}})
    sweeps.take_unused_folder(mine, "name")
    assert mine.hydra.sweep.dir == "sweeps/name"


OF_MANY_JOBS = """
import gc, json, sys
import psutil
from sft_exp.config import compose
from sft_exp.sweep import worker

TINY = ["tracker=none", "encoder.hidden=[8]", "pretrain.steps=2", "finetune.steps=2", "draws=1"]
TINY += ["controls=false", "val=none", "report=false", "monitors=false"]
process, kept = psutil.Process(), []

def used():
    # not all that is resident: pages of files come and go with what else the machine does
    lines = [x.split() for x in open("/proc/self/status")]
    own = sum(int(x[1]) for x in lines if x[0] in ("RssAnon:", "VmSwap:"))
    return own / 1000, process.num_fds(), process.num_threads()

def growth(first, count, kilobytes=0):
    before = used()
    for n in range(first, first + count):
        config, choices = compose.compose([*TINY, f"optim.lr={0.001 + n * 1e-6}"])
        job = {"do": "run", "config": config, "choices": choices, "folder": f"runs/{n}"}
        job |= {"logging": None, "siblings": "none", "varying": [], "command": []}
        assert worker.answer(job)["code"] == 0
        kept.append(b"x" * 1024 * kilobytes)
        gc.collect()  # what is reachable grows or does not; garbage reaches a limit after many jobs
    after = used()
    return [(after[0] - before[0]) / count, after[1] - before[1], after[2] - before[2]]

count = int(sys.argv[1])
growth(0, 4)
gc.freeze()  # the next collections need not look through all that is imported
print("counted", json.dumps([growth(4, count), growth(4 + count, 4, 20_000)]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("count", [8, pytest.param(300, marks=pytest.mark.slow)])
def test_a_sweep_s_worker_does_not_grow(count):
    """Memory, open files and threads, in the process that runs the jobs: the MB per job. Jobs that keep
    20 megabytes each are noticed."""
    script = [sys.executable, "-c", OF_MANY_JOBS, str(count)]
    said = subprocess.run(script, capture_output=True, text=True, check=True).stdout
    ((per_job, files, threads), (kept, _, _)) = json.loads(said.rpartition("counted ")[2])
    assert (files, threads) == (0, 0), said
    assert per_job < (0.2 if count > 100 else 0.5), said
    assert kept > 10, said
