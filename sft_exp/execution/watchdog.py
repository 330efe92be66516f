"""Ends every process with its parent, and on every signal, whatever it is doing.

Linux can send a signal when a parent dies (PR_SET_PDEATHSIG), but that refers to the parent's
thread, which may end before its process. Polling the parent's pid works on every platform, and is
fast enough. Nothing here imports torch, so that a process is watched before it does.
"""

import atexit
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import NoReturn

from sft_exp.errors import Interrupted

EVERY = 0.5  # seconds between two checks of the parent
GRACE = 3.0  # seconds that an orphan has to write a checkpoint
DRIVER = "SFT_EXP_DRIVER"  # environment variable: pid of the process that began the sweep
SIGNALS = [
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2")
    if hasattr(signal, name)
]


def when_orphaned(call: Callable[[], object], parent: int | None = None) -> None:
    """Call a function once, from a new thread, when this process's parent has died.

    Args:
        call: the function.
        parent: pid of the parent. With it, a parent that died before this call is noticed, too.
    """
    expected = os.getppid() if parent is None else parent
    call_after(call, lambda: os.getppid() == expected)


def call_after(call: Callable[[], object], lasts: Callable[[], bool]) -> None:
    """Call a function once, from a new thread, as soon as `lasts()` is False."""

    def watch() -> None:
        while lasts():
            time.sleep(EVERY)
        call()

    threading.Thread(target=watch, daemon=True).start()


def end_with_parent(parent: int | None = None) -> None:
    """When the parent dies, end as on SIGTERM; after `GRACE` seconds end in any case."""

    def end() -> None:
        os.kill(os.getpid(), signal.SIGTERM)  # training handles it and writes a checkpoint
        time.sleep(GRACE)
        os._exit(Interrupted.code)

    when_orphaned(end, parent)


def end_with_driver() -> None:
    """End a process that joblib or submitit's local executor started when the process that began
    the sweep dies. Does nothing in all other processes."""
    driver = int(os.environ.get(DRIVER, os.getpid()))
    if driver == os.getpid():
        return
    if os.environ.get("SUBMITIT_EXECUTOR") == "local":  # its parent is a process of submitit
        call_after(lambda: os._exit(Interrupted.code), lambda: exists(driver))
    elif "joblib.externals.loky" in sys.modules:
        when_orphaned(lambda: os._exit(Interrupted.code), driver)


def exists(pid: int) -> bool:
    """Whether there is a process of this pid; on POSIX only."""
    try:
        os.kill(pid, 0)
    except OSError as error:
        return not isinstance(error, ProcessLookupError)
    return True


def leave_on_signals() -> None:
    """Make signals end this process with exit code 130 (Ctrl-C) or 75 (others), without a
    traceback.

    Training replaces these handlers while it runs (`Stop`), to write a checkpoint first. During
    interpreter shutdown signals are ignored, since the exit code is known by then.
    """
    handle_signals(leave)
    atexit.register(handle_signals, signal.SIG_IGN)


def interrupt_once() -> None:
    """Make the first signal raise KeyboardInterrupt, which ends the jobs in order, and the second
    one exit at once."""

    def interrupt(number: int, frame: FrameType | None) -> NoReturn:
        handle_signals(leave)
        raise KeyboardInterrupt

    handle_signals(interrupt)


def handle_signals(handler: Callable[[int, FrameType | None], object] | signal.Handlers) -> None:
    """Install `handler` for all signals that ask a process to stop; does nothing outside the main
    thread."""
    if threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            signal.signal(number, handler)


def leave(number: int, frame: FrameType | None) -> NoReturn:
    os._exit(130 if number == signal.SIGINT else Interrupted.code)
