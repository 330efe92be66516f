"""Every process ends with its parent and on every signal, at any moment."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from faults import ENVIRONMENT

from sft_exp import api
from sft_exp.errors import Interrupted
from sft_exp.execution import reaper, session, watchdog

# What a process may be doing when its parent dies or a signal comes: importing, working in Python, waiting in C.
# The waits are short ones in a row: Python misses a signal that comes in the microseconds between its last check and
# the system call, and hears it when the call returns.
BUSY = {
    "importing": "print('here', flush=True)\nimport time\nfor _ in range(600): time.sleep(0.1)\ndef main(): pass",
    "working": "def main():\n    print('here', flush=True)\n    while True: pass",
    "waiting": "import threading\ndef main():\n    print('here', flush=True)\n    while True: threading.Event().wait(1)",
}
PARENT = """
import os, subprocess, sys, time
subprocess.Popen([sys.executable, "-m", "sft_exp.execution.child", str(os.getpid()), "busy"])
time.sleep(60)
"""


def environment():
    path = os.pathsep.join([os.getcwd(), ENVIRONMENT["PYTHONPATH"]])
    return {**os.environ, **ENVIRONMENT, "PYTHONPATH": path}


def started(*command):
    """A process that has said `here`."""
    process = subprocess.Popen(
        [sys.executable, *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    assert process.stdout.readline() == "here\n"
    return process


@pytest.mark.parametrize("busy", BUSY)
def test_a_process_ends_within_ten_seconds_of_its_killed_parent(busy):
    Path("busy.py").write_text(BUSY[busy])
    parent = started("-c", PARENT)
    children = psutil.Process(parent.pid).children()
    assert len(children) == 1
    parent.kill()
    _, alive = psutil.wait_procs(children, 10)
    parent.communicate()
    assert not alive


def test_a_parent_that_died_before_its_process_began_is_noticed():
    Path("busy.py").write_text(BUSY["working"])
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    command = [sys.executable, "-m", "sft_exp.execution.child", str(gone.pid), "busy"]
    orphan = subprocess.run(command, env=environment(), timeout=60, capture_output=True)
    assert orphan.returncode == Interrupted.code


@pytest.mark.parametrize("busy", ["importing", "waiting"])
@pytest.mark.parametrize(
    ("names", "codes"),
    [(["SIGINT"], {130}), (["SIGTERM"], {75}), (["SIGTERM", "SIGINT", "SIGTERM"], {75, 130})],
)
def test_signals_end_a_process_with_their_code_and_no_traceback(busy, names, codes):
    Path("busy.py").write_text(BUSY[busy])
    process = started("-m", "sft_exp.execution.child", str(os.getpid()), "busy")
    for name in names:
        process.send_signal(getattr(signal, name))
    _, said = process.communicate(timeout=60)
    assert process.returncode in codes
    assert said == ""


def test_the_first_signal_interrupts_a_sweep_and_the_second_one_leaves():
    code = """
import time
from sft_exp.execution import watchdog
watchdog.interrupt_once()
try:
    print("here", flush=True)
    time.sleep(60)
except KeyboardInterrupt:
    print("interrupted", flush=True)
    time.sleep(60)
"""
    process = started("-c", code)
    process.send_signal(signal.SIGTERM)
    assert process.stdout.readline() == "interrupted\n"
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (130, "")


def test_signals_while_the_interpreter_shuts_down_change_nothing():
    code = """
import atexit, os, signal
from sft_exp.execution import watchdog

class Late:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)

watchdog.exit_on_signals()
late = Late()
print("here", flush=True)
"""
    process = started("-c", code)
    assert process.wait(60) == 0
    process.communicate()


def test_a_signal_on_the_way_out_does_not_hide_how_a_run_ended(monkeypatch):
    """The second SIGTERM comes while status.json is written."""
    write_json = session.atomic_io.write_json

    def stopped(*_, **__):
        raise Interrupted("stopped")

    def signalled(path, value):
        if path.name == "status.json" and value["state"] == "interrupted":
            os.kill(os.getpid(), signal.SIGTERM)
        write_json(path, value)

    monkeypatch.setattr(session.pipeline, "run", stopped)
    monkeypatch.setattr(session.atomic_io, "write_json", signalled)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted):
        api.run(["tracker=none", "encoder.hidden=[8]"], folder="run")
    status = json.loads(Path("run/status.json").read_text())
    assert (status["state"], status["exit_code"]) == ("interrupted", Interrupted.code)
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_task_of_submitits_local_executor_ends_with_the_process_that_began_the_sweep():
    """Between the two is a process of submitit, which outlives the first one."""
    driver = started("-c", "print('here', flush=True)\nimport time\ntime.sleep(60)")
    code = "from sft_exp.execution import watchdog\nwatchdog.end_with_driver()\n"
    names = {watchdog.DRIVER: str(driver.pid), "SUBMITIT_EXECUTOR": "local"}
    task = subprocess.Popen(
        [sys.executable, "-c", code + "import time\ntime.sleep(60)"],
        env=environment() | names,
    )
    with pytest.raises(subprocess.TimeoutExpired):
        task.wait(2 * watchdog.POLL_SECONDS)
    driver.kill()
    driver.communicate()
    assert task.wait(10) == Interrupted.code


def test_only_processes_of_joblib_follow_the_sweeps_first_process(monkeypatch):
    calls = []
    monkeypatch.setattr(watchdog, "when_orphaned", lambda call, parent: calls.append(parent))
    monkeypatch.delenv(watchdog.DRIVER, raising=False)
    watchdog.end_with_driver()
    monkeypatch.setenv(watchdog.DRIVER, "1")
    monkeypatch.delitem(sys.modules, "joblib.externals.loky", raising=False)
    watchdog.end_with_driver()
    assert calls == []
    monkeypatch.setitem(sys.modules, "joblib.externals.loky", sys)
    watchdog.end_with_driver()
    assert calls == [1]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux shows the environment of a process")
def test_what_a_killed_sweep_left_behind_is_killed(monkeypatch):
    """A process in a session of its own that neither watches its parent nor minds a signal."""
    stubborn = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"
    code = (
        "import os, subprocess, sys, time\n"
        "from sft_exp.execution import reaper, watchdog\n"
        "os.environ[watchdog.DRIVER] = str(os.getpid())\n"
        "reaper.start(os.getpid())\n"
        f"subprocess.Popen([sys.executable, '-c', {stubborn!r}], start_new_session=True)\n"
        "print('here', flush=True)\n"
        "time.sleep(60)"
    )
    monkeypatch.setenv(watchdog.DRIVER, "1")
    unrelated = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    driver = started("-c", code)
    children = psutil.Process(driver.pid).children()
    assert len(children) == 2
    assert {*reaper.descendants(driver.pid)} == {child.pid for child in children}
    driver.kill()
    _, alive = psutil.wait_procs(children, 10)
    driver.communicate()
    assert not alive
    assert unrelated.poll() is None
    unrelated.kill()
    unrelated.wait()
