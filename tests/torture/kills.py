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
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import psutil
from faults import cli, contents, fork, leftovers

MARK = "SFT_EXP_TORTURE"  # environment variable that all processes of a run inherit
KILLS, STOPS = 200, 60
PATIENCE = 10.0  # seconds after which no process may be alive
# long enough that most kills meet the work, and not what comes before it
SMALL = [
    "tracker=none", "encoder.hidden=[8]", "pretrain.steps=1500", "finetune.steps=400", "draws=1",
    "controls=false", "val=none", "monitors=false", "report=false",
    "hardware.checkpoint_seconds=0.1",
]  # fmt: skip
# launcher -> (share of the kills, overrides); those that start fewer processes are tried more often in the same time
LAUNCHERS: dict[str, tuple[int, list[str]]] = {
    "single": (8, []),
    "basic": (4, ["-m", "seed=0,1"]),
    "joblib": (2, ["-m", "seed=0,1", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]),
    "ddp": (4, ["hardware=ddp", "hardware.processes=2"]),
    "submitit": (2, ["-m", "seed=0,1", "hydra/launcher=submitit_local"]),
    "ray": (2, ["-m", "seed=0,1", "hydra/launcher=ray"]),
}
PLUGINS = {
    "submitit": "hydra_plugins.hydra_submitit_launcher",
    "ray": "hydra_plugins.hydra_ray_launcher",
}


# joblib's workers unpickle what the command's main module has imported, and a forked process has no such module
NOT_FORKED = {"joblib"}


def kinds(launcher: str) -> list[type["Started"]]:
    return [Started] if launcher in NOT_FORKED else [Started, Forked]


def installed(launcher: str) -> bool:
    try:
        return launcher not in PLUGINS or importlib.util.find_spec(PLUGINS[launcher]) is not None
    except ModuleNotFoundError:
        return False


class Started:
    """A run from the command line in the present folder, and every process that belongs to it."""

    process: Any

    def __init__(self, launcher: str):
        self.mark = uuid.uuid4().hex
        self.said = Path(f"said-{self.mark}")
        environment = {**os.environ, "OMP_NUM_THREADS": "1", MARK: self.mark}
        command = [sys.executable, "-m", "sft_exp", *SMALL, *LAUNCHERS[launcher][1]]
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


def mark(value: str) -> None:
    """Let all processes that this one starts inherit the mark."""
    os.environ[MARK] = value


class Fork:
    """A process of `faults.fork` as `subprocess.Popen` has it."""

    def __init__(self, process: Any):
        self.process = process

    def poll(self) -> int | None:
        return self.process.exitcode

    def wait(self, seconds: float) -> int:
        self.process.join(seconds)
        if self.process.exitcode is None:
            raise subprocess.TimeoutExpired("fork", seconds)
        return self.process.exitcode

    def send_signal(self, number: int) -> None:
        os.kill(self.process.pid, number)

    def kill(self) -> None:
        self.process.kill()


class Forked(Started):
    """The same command whose first process is forked from one that has imported everything, which saves most of the
    time; the processes that it starts itself begin anew."""

    def __init__(self, launcher: str):
        self.mark = uuid.uuid4().hex
        self.said = Path(f"said-{self.mark}").absolute()
        words = (*SMALL, *LAUNCHERS[launcher][1])
        self.process = Fork(fork(cli, self.said, partial(mark, self.mark), None, *words))


def undisturbed(launcher: str, kind: type[Started]) -> tuple[float, dict]:
    """(seconds, contents of the store) of a whole run; of two, as the first one reads its files from disk."""
    durations, expected = [], {}
    for _ in range(2):
        before, run = time.monotonic(), kind(launcher)
        code = run.process.wait(1800)
        durations.append(time.monotonic() - before)
        assert code == 0, f"{launcher}: {code}\n{run.said.read_text()}"
        expected = contents(Path("outputs/store"))
        shutil.rmtree("outputs")
    return min(durations), expected


@dataclass
class Tally:
    """What was done to the runs of one launcher."""

    killed: int = 0
    stopped: int = 0
    late: int = 0  # the run had ended before the signal, which is not counted as a kill
    forked: int = 0  # of the kills, those of a run without imports
    importing: int = 0  # of the kills, those that came before the first folder of the store
    faults: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        kills = f"{self.killed} killed ({self.forked} of them forked, {self.importing} before the store existed)"
        return f"{kills}, {self.stopped} stopped by signals, {self.late} too late"


def disturb(
    launcher: str,
    kind: type[Started],
    signals: list[signal.Signals],
    seconds: float,
    expected: dict,
    chance: random.Random,
    tally: Tally,
) -> None:
    """Kill or stop a run at a random moment, repeat the command, and note what went wrong."""
    moment, faults = chance.uniform(0.1, seconds), tally.faults
    run = kind(launcher)
    what = f"{launcher} {kind.__name__} {[s.name for s in signals]} after {moment:.2f} of {seconds:.0f} s"
    time.sleep(moment)
    alive, early = run.process.poll() is None, not Path("outputs/store").exists()
    for number in signals:
        if run.process.poll() is None:
            run.process.send_signal(number)
            time.sleep(chance.choice([0.0, 0.05, 1.0]))
    try:
        code = run.process.wait(60)
    except subprocess.TimeoutExpired:
        code = None
        run.process.kill()
    if lines := run.outlived():
        faults.append(f"{what}: alive {PATIENCE:.0f} s later: {lines}")
    said = run.said.read_text()
    killed = signals == [signal.SIGKILL]
    if not alive:
        tally.late += 1
    elif killed:
        tally.killed += 1
        tally.importing += early
        tally.forked += kind is Forked
    else:
        tally.stopped += 1
    if not killed and (code not in (0, 75, 130) or "Traceback" in said):
        faults.append(f"{what}: exit code {code}\n{said[-2000:]}")
    again = kinds(launcher)[-1](launcher)
    code = again.process.wait(1800)
    said = again.said.read_text()
    if code != 0:
        faults.append(f"{what}: the next run left with {code}\n{said[-2000:]}")
    elif contents(Path("outputs/store")) != expected:
        faults.append(f"{what}: other bits")
    elif left := leftovers(Path("outputs/store")):
        faults.append(f"{what}: left behind {left}")
    shutil.rmtree("outputs", ignore_errors=True)


def work(chance: random.Random, share: float, only: list[str]) -> tuple[str, list[str]]:
    """(what was tried, faults) of `share` times so many kills and stops, spread over the launchers."""
    launchers = [n for n in LAUNCHERS if installed(n) and (not only or n in only)]
    whole, tallies = sum(LAUNCHERS[launcher][0] for launcher in launchers), {}
    for launcher in launchers:
        part = share * LAUNCHERS[launcher][0] / whole
        kills, stops = (max(1, round(n * part)) for n in (KILLS, STOPS))
        durations = {kind: undisturbed(launcher, kind) for kind in kinds(launcher)}
        expected = durations[Started][1]
        assert all(contents == expected for _, contents in durations.values())
        tallies[launcher] = tally = Tally()
        while (done := tally.killed + tally.stopped) < kills + stops:
            # a third of the kills meet imports, those of forked runs the work
            kind = chance.choice([Started, *2 * kinds(launcher)[1:]])
            signals = [signal.SIGKILL]
            if done >= kills:
                kind = Started
                signals = chance.choices([signal.SIGINT, signal.SIGTERM], k=chance.randint(1, 3))
            known = len(tally.faults)
            disturb(launcher, kind, signals, durations[kind][0], expected, chance, tally)
            print(
                f"  {launcher}: {tally}, {len(tally.faults)} faults",
                *tally.faults[known:],
                sep="\n    ",
                flush=True,
            )
    tried = "; ".join(f"{name}: {tally}" for name, tally in tallies.items())
    return tried, [fault for tally in tallies.values() for fault in tally.faults]
