"""Kills the processes that a sweep's own Ray leaves behind when the sweep itself is killed.

    python -m sft_exp.execution.reaper DRIVER

Ray's workers end when their node does, but not while they are still importing, which takes many
seconds. This process waits until its parent, the sweep with the pid DRIVER, has died, leaves jobs
the time to write a checkpoint, and kills whatever else has inherited the sweep's environment. Linux
alone shows a process's environment; elsewhere Ray's workers end by themselves, only later.
"""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from sft_exp.execution import watchdog

PROCESSES = Path("/proc")


def start(driver: int) -> None:
    """Watch this process, whose environment names `driver` as the sweep; does nothing but on Linux."""
    if sys.platform == "linux":
        subprocess.Popen(  # noqa: S603 - our own interpreter and module
            [sys.executable, "-m", "sft_exp.execution.reaper", str(driver)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C on the terminal is not for it
        )


def descendants(driver: int) -> Iterator[int]:
    """The pids of the other processes that inherited the environment of the sweep `driver`."""
    mark = f"{watchdog.DRIVER}={driver}".encode()
    for folder in PROCESSES.glob("[0-9]*"):
        with suppress(OSError):  # it has ended, or is another user's
            if mark in (folder / "environ").read_bytes().split(b"\0"):
                pid = int(folder.name)
                if pid not in (os.getpid(), driver):
                    yield pid


def main() -> None:
    driver, dead = int(sys.argv[1]), threading.Event()
    watchdog.when_orphaned(dead.set, driver)
    dead.wait()
    threading.Event().wait(watchdog.GRACE_SECONDS + 2 * watchdog.POLL_SECONDS)
    for pid in descendants(driver):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    main()
