"""Sweeps on a real Slurm (the one that SLURM_CONF names, with accounting) and on a local Ray."""

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

SMALL = [
    "draws=1", "controls=false", "val=none", "monitors=false", "tracker=none",
    "hardware.checkpoint_seconds=1",
]  # fmt: skip
GRID = ["pretrainer=ae,vae", "optim.lr=1e-2,1e-3", "pretrain.steps=200", "finetune.steps=40"]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]
slurm = pytest.mark.skipif(
    "SLURM_CONF" not in os.environ
    or not shutil.which("sbatch")
    or not importlib.util.find_spec("submitit"),
    reason="no Slurm: sbatch, SLURM_CONF and .[slurm] are needed",
)
ray = pytest.mark.skipif(not importlib.util.find_spec("ray"), reason="no Ray: .[ray] is needed")


def sweep(launcher, *overrides):
    command = [
        sys.executable,
        "-m",
        "sft_exp",
        "-m",
        f"hydra/launcher={launcher}",
        *SMALL,
        *overrides,
    ]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def ended(process):
    said, _ = process.communicate()
    return process.returncode, said


def folders(stage):
    return sorted(Path("outputs/store").glob(f"{stage}-*"))


def weights(store):
    return {
        f"{f.parent.name}/{f.name}": f.read_bytes()
        for f in sorted(Path(store).glob("*/*.safetensors"))
    }


@pytest.mark.parametrize(
    "launcher", [pytest.param("slurm", marks=slurm), pytest.param("ray", marks=ray)]
)
def test_a_sweep_of_four_jobs_pretrains_twice(launcher):
    code, said = ended(sweep(launcher, *GRID))
    assert code == 0, said
    assert len(folders("pretrain")) == 2
    assert len(folders("finetune")) == 4
    assert "4 of 4 jobs done" in said


@slurm
def test_two_tasks_of_a_job_are_a_group():
    code, said = ended(
        sweep(
            "slurm",
            "hardware=ddp",
            "hydra.launcher.tasks_per_node=2",
            "pretrain.steps=40",
            "seed=0,1",
        )
    )
    assert code == 0, said
    assert len(folders("pretrain")) == 2


@slurm
def test_a_job_that_is_told_to_go_is_queued_again_and_ends_in_the_right_bits():
    """By the signal that Slurm sends before a job's time is up, or when another takes its place. Slurm lets it wait for two
    minutes before it starts it again."""
    work = ["encoder=conv", "pretrain.steps=600", "finetune.steps=40"]
    process = sweep("slurm", "seed=0,1", *work, "hydra.launcher.array_parallelism=1")
    end = time.monotonic() + 300
    while not (found := list(Path("outputs/store/work").glob("*/pretrain-*/checkpoint.pt"))):
        assert time.monotonic() < end
        time.sleep(0.2)
    job = next(Path("outputs/multirun").glob("*/.submitit/*_0")).name
    subprocess.run(["scancel", "--signal=USR2", job], check=True)
    code, said = ended(process)
    assert code == 0, said
    logs = "".join(f.read_text() for f in Path("outputs/multirun").glob("*/.submitit/*/*_log.out"))
    assert "Requeued job" in logs
    undisturbed = [*SMALL, *work, "store=other"]
    for seed in (0, 1):
        subprocess.run([sys.executable, "-m", "sft_exp", *undisturbed, f"seed={seed}"], check=True)
    assert found
    assert weights("outputs/store") == weights("other")


@slurm
def test_a_job_that_is_killed_outright_is_reported():
    process = sweep("slurm", "pretrain.steps=100000", "seed=0,1")
    end = time.monotonic() + 120
    while not (found := list(Path("outputs/multirun").glob("*/0/status.json"))):
        assert time.monotonic() < end
        time.sleep(0.2)
    jobs = [
        p
        for p in psutil.process_iter(["cmdline"])
        if "submitit.core._submit" in (p.info["cmdline"] or [])
    ]
    for job in jobs:
        if str(found[0].parents[1].absolute()) in " ".join(job.info["cmdline"]):
            os.kill(job.pid, signal.SIGKILL)
    code, said = ended(process)
    assert code == 6
    assert "a job was lost" in said
