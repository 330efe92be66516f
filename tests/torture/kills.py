"""Kills and signals at random moments, the imports included, under every launcher; then the same command once more.

After `kill -9` of the launcher no process of the run may be alive 10 s later. Signals end a run in 75 or 130, or come too
late (0), never in a traceback. The command that follows must end in the bits of an undisturbed run.
"""

import importlib.util
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import psutil
from faults import contents, leftovers

MARK = "SFT_EXP_TORTURE"  # environment variable that all processes of a run inherit
PATIENCE = 10.0  # seconds after which no process may be alive
SMALL = [
    "tracker=none",
    "encoder.hidden=[8]",
    "pretrain.steps=60",
    "finetune.steps=20",
    "draws=1",
    "controls=false",
    "val=none",
    "monitors=false",
    "report=false",
    "hardware.checkpoint_seconds=0.1",
]
LAUNCHERS = {
    "single": [],
    "basic": ["-m", "seed=0,1"],
    "joblib": ["-m", "seed=0,1", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"],
    "ddp": ["hardware=ddp", "hardware.processes=2"],
    "submitit": ["-m", "seed=0,1", "hydra/launcher=submitit_local"],
    "ray": ["-m", "seed=0,1", "hydra/launcher=ray"],
}
PLUGINS = {
    "submitit": "hydra_plugins.hydra_submitit_launcher",
    "ray": "hydra_plugins.hydra_ray_launcher",
}


def installed(launcher: str) -> bool:
    try:
        return launcher not in PLUGINS or importlib.util.find_spec(PLUGINS[launcher]) is not None
    except ModuleNotFoundError:
        return False


class Started:
    """A run from the command line in the present folder, and every process that belongs to it."""

    def __init__(self, launcher: str):
        self.mark = uuid.uuid4().hex
        self.said = Path(f"said-{self.mark}")
        environment = {**os.environ, "OMP_NUM_THREADS": "1", MARK: self.mark}
        command = [sys.executable, "-m", "sft_exp", *SMALL, *LAUNCHERS[launcher]]
        with self.said.open("w") as said:
            self.process = subprocess.Popen(
                command, stdout=said, stderr=said, env=environment, start_new_session=True
            )

    def alive(self) -> list[str]:
        """Command lines of all its processes, also of those that lost their parent."""
        lines = []
        for process in psutil.process_iter():
            try:
                if process.environ().get(MARK) == self.mark and process.status() != "zombie":
                    lines.append(f"{process.pid} {' '.join(process.cmdline())[:120]}")
            except psutil.Error:
                continue
        return lines

    def outlived(self) -> list[str]:
        """What is alive `PATIENCE` seconds from now; those are ended."""
        end = time.monotonic() + PATIENCE
        while (lines := self.alive()) and time.monotonic() < end:
            time.sleep(0.1)
        for line in lines:
            os.kill(int(line.split()[0]), signal.SIGKILL)
        return lines


def undisturbed(launcher: str) -> tuple[float, dict]:
    """(seconds, contents of the store) of a whole run."""
    before, run = time.monotonic(), Started(launcher)
    code = run.process.wait(1800)
    assert code == 0, f"{launcher}: {code}\n{run.said.read_text()}"
    expected = contents(Path("outputs/store"))
    shutil.rmtree("outputs")
    return time.monotonic() - before, expected


def disturbed(launcher: str, seconds: float, expected: dict, chance: random.Random) -> list[str]:
    """Kill or stop a run at a random moment, repeat the command; what went wrong."""
    moment, signals = chance.uniform(0.1, seconds), [signal.SIGKILL]
    if chance.random() < 0.3:
        signals = chance.choices([signal.SIGINT, signal.SIGTERM], k=chance.randint(1, 3))
    run, faults = Started(launcher), []
    what = f"{launcher} {[s.name for s in signals]} after {moment:.2f} of {seconds:.0f} s"
    time.sleep(moment)
    for number in signals:
        if run.process.poll() is None:
            run.process.send_signal(number)
            time.sleep(chance.choice([0.0, 0.05, 1.0]))
    try:
        code = run.process.wait(60)
    except subprocess.TimeoutExpired:
        code = None
        run.process.kill()
    said = run.said.read_text()
    if signals != [signal.SIGKILL] and (code not in (0, 75, 130) or "Traceback" in said):
        faults.append(f"{what}: exit code {code}\n{said[-2000:]}")
    if lines := run.outlived():
        faults.append(f"{what}: alive {PATIENCE:.0f} s later: {lines}")
    again = Started(launcher)
    code = again.process.wait(1800)
    if code != 0:
        faults.append(f"{what}: the next run left with {code}\n{again.said.read_text()[-2000:]}")
    elif contents(Path("outputs/store")) != expected:
        faults.append(f"{what}: other bits")
    elif left := leftovers(Path("outputs/store")):
        faults.append(f"{what}: left behind {left}")
    shutil.rmtree("outputs", ignore_errors=True)
    return faults


def work(chance: random.Random, share: float, only: list[str]) -> tuple[str, list[str]]:
    """(what was tried, faults) of `share` times 200 disturbances, spread over the launchers."""
    launchers = [n for n in LAUNCHERS if installed(n) and (not only or n in only)]
    count, faults = max(1, round(200 * share / len(launchers))), []
    for launcher in launchers:
        seconds, expected = undisturbed(launcher)
        for _ in range(count):
            faults += disturbed(launcher, seconds, expected, chance)
            print(f"  {launcher}: {len(faults)} faults so far", flush=True)
    return f"{count} disturbances of each of {', '.join(launchers)}", faults
