"""Several processes from the command line: killed, stopped and finished."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from sft_exp.errors import Interrupted, LostRank

STEPS = [
    "pretrain.steps=300",
    "pretrain.batch_size=32",
    "finetune.steps=20",
    "hardware.checkpoint_seconds=0.2",
]
SMALL = [
    "tracker=none",
    "draws=1",
    "controls=false",
    "val=none",
    "monitors=false",
    "report=false",
    *STEPS,
]
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
engines = pytest.mark.parametrize("engine", ["ddp", "fsdp"])


def command(store, *overrides, processes=2, torchrun=False):
    start = TORCHRUN if torchrun else []
    count = [] if torchrun else [f"hardware.processes={processes}"]
    return [sys.executable, *start, "-m", "sft_exp", *SMALL, f"store={store}", *count, *overrides]


def run(store, *overrides, **how):
    return subprocess.run(command(store, *overrides, **how), capture_output=True, text=True)


def weights(store):
    return {
        f"{file.parent.name}/{file.name}": hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(Path(store).glob("*/*.safetensors"))
    }


def status():
    return json.loads(Path("outputs/latest/status.json").read_text())


def started(store, *overrides, **how):
    """A run that has left a checkpoint of its pretraining."""
    process = subprocess.Popen(command(store, *overrides, **how), stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 120
    while not [
        *Path(store).glob("work/*/pretrain-*/checkpoint.pt"),
        *Path(store).glob("work/*/pretrain-*/shards/done.json"),
    ]:
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < end
        time.sleep(0.02)
    return process


def ranks(process):
    """The processes of a group, in the order of ranks."""
    found = {
        int(p.environ()["RANK"]): p
        for p in psutil.Process(process.pid).children(recursive=True)
        if "RANK" in p.environ()
    }
    return [found[r] for r in sorted(found)]


@engines
@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_process_ends_all_and_the_run_goes_on_to_the_same_bits(engine, rank):
    assert run("undisturbed", f"hardware={engine}").returncode == 0
    process = started("killed", f"hardware={engine}")
    group = ranks(process)
    group[rank].kill()
    before = time.monotonic()
    _, said = process.communicate(timeout=240)
    assert time.monotonic() - before < 45
    assert process.returncode == LostRank.code
    assert f"process {rank} (pid {group[rank].pid}) was killed by SIGKILL" in said
    assert not psutil.wait_procs(group, 10)[1]
    assert status()["resumable"]
    assert status()["exit_code"] == LostRank.code
    assert run("killed", f"hardware={engine}").returncode == 0
    assert weights("killed") == weights("undisturbed")
    assert len(weights("killed")) > 2
    assert not [*Path("killed").glob("*/shards*"), *Path("killed").glob("*/checkpoint*")]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_asked_to_stop_all_stop_at_one_step_with_a_checkpoint(number):
    process = started("stopped", "hardware=ddp")
    os.kill(process.pid, number)
    process.communicate(timeout=240)
    assert process.returncode == Interrupted.code
    assert status()["state"] == "interrupted"
    assert run("stopped", "hardware=ddp").returncode == 0
    assert run("undisturbed", "hardware=ddp").returncode == 0
    assert weights("stopped") == weights("undisturbed")


def test_what_two_processes_left_one_and_three_go_on_with():
    """Sharded checkpoints: saved by two, loaded by any number."""
    for count in (1, 3):
        process = started(f"store{count}", "hardware=fsdp")
        os.kill(process.pid, signal.SIGTERM)
        process.communicate(timeout=240)
        done = run(f"store{count}", "hardware=fsdp", processes=count)
        assert done.returncode == 0, done.stderr


@engines
def test_torchrun_makes_one_run_folder_and_ends_with_zero_each_time(engine):
    for n in range(20):
        done = run(f"store{n}", f"hardware={engine}", "pretrain.steps=5", torchrun=True)
        assert done.returncode == 0, done.stderr
    assert len([*Path("outputs/runs").glob("*/*")]) == n + 1
    assert len({str(sorted(weights(f"store{m}").values())) for m in range(n + 1)}) == 1


OF_ITS_OWN = """
import os, runpy, sys
sys.argv = ["sft_exp", *sys.argv[2:], sys.argv[1] + os.environ["RANK"]]
runpy.run_module("sft_exp", run_name="__main__")
"""


@pytest.mark.parametrize("override", ["seed=", "dataset.test=40"])
def test_a_process_with_another_config_is_refused_at_the_start(override):
    Path("other.py").write_text(OF_ITS_OWN)
    words = [*SMALL, "store=store", "hardware=ddp"]
    done = subprocess.run(
        [sys.executable, *TORCHRUN, "other.py", override, *words], capture_output=True, text=True
    )
    assert done.returncode != 0
    assert "has another config, other code or other data than the first" in done.stderr
    assert not [*Path("store").glob("pretrain-*"), *Path("store").glob("work/*/pretrain-*")]
