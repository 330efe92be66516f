"""`hydra/sweeper=optuna`: Optuna's TPE over jobs of this program, with a job killed half-way.

Needs the extra `optuna`, which brings Hydra 1.4: `pip install -e ".[test,optuna]"`.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from faults import ENVIRONMENT, TINY

optuna = pytest.importorskip("optuna", reason="the extra optuna is not installed")
pytest.importorskip(
    "hydra_plugins.hydra_optuna_sweeper", reason="the extra optuna is not installed"
)
STORAGE = "sqlite:///trials.db"
TYPED = [
    "--multirun",
    "hydra/sweeper=optuna",
    "hydra.sweeper.sampler.seed=1",
    f"hydra.sweeper.storage={STORAGE}",
    "hydra.sweeper.study_name=mine",
    "pretrainer=none",
    "optim.lr=tag(log,interval(1e-4,1e-1))",
    *TINY,
]


def start(trials):
    return subprocess.Popen(
        [sys.executable, "-m", "sft_exp", *TYPED, f"hydra.sweeper.n_trials={trials}"],
        env={**os.environ, **ENVIRONMENT},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def trials():
    """State -> number of trials in the storage."""
    kept = optuna.load_study(study_name="mine", storage=STORAGE).trials
    states = [trial.state.name for trial in kept]
    return {state: states.count(state) for state in set(states)}


def running():
    """The folders of jobs that run now."""
    found = Path().glob("outputs/multirun/*/*/status.json")
    return [file.parent for file in found if json.loads(file.read_text())["state"] == "running"]


def kill_a_job(driver, after):
    """Kill the worker of the first job that runs once `after` folders are there; the job's folder."""
    for _ in range(6000):
        assert driver.poll() is None, driver.stdout.read()
        there = len(list(Path().glob("outputs/multirun/*/*/status.json")))
        if there > after and (jobs := running()):
            for child in psutil.Process(driver.pid).children(recursive=True):
                if "sft_exp.sweep.worker" in child.cmdline():
                    child.kill()
                    return jobs[0]
        time.sleep(0.02)
    raise AssertionError("no job ran")


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_sweep_of_20_trials_loses_the_killed_job_and_goes_on_from_its_storage():
    driver = start(20)
    lost = kill_a_job(driver, after=6)
    text, _ = driver.communicate(timeout=1500)
    assert driver.returncode == 6, text  # a sweep with failed jobs
    assert trials() == {"COMPLETE": 19, "FAIL": 1}, text
    # the sweeper's default would minimise the accuracy
    assert optuna.load_study(study_name="mine", storage=STORAGE).direction.name == "MAXIMIZE"
    status = json.loads((lost / "status.json").read_text())
    assert (status["state"], status["resumable"]) == ("failed", True)
    assert "19 of 20 jobs done" in text

    more = start(1)
    text, _ = more.communicate(timeout=1500)
    assert more.returncode == 0, text
    assert trials() == {"COMPLETE": 20, "FAIL": 1}
    assert len(list(Path().glob("outputs/multirun/*"))) == 2, (
        "new trials have a folder of their own"
    )
    # with this seed a fresh study would begin with the first trial again
    kept = optuna.load_study(study_name="mine", storage=STORAGE).trials
    assert kept[20].params != kept[0].params
