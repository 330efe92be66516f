"""Ends a process when its parent dies, and on signals, whatever the process is doing.

Linux can send a signal when a parent dies (PR_SET_PDEATHSIG), but that refers to the parent's
thread, which may end before its process. Polling the parent's pid works on every platform, and is
fast enough. This module does not import torch, so that the watch begins before that slow import.
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

POLL_SECONDS = 0.5  # time between two checks of the parent
GRACE_SECONDS = 3.0  # time that an orphan has to write a checkpoint
DRIVER = "SFT_EXP_DRIVER"  # environment variable: pid of the process that began the sweep
SIGNALS = [  # Windows has the first two
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
    call_when_false(call, lambda: os.getppid() == expected)


def call_when_false(call: Callable[[], object], condition: Callable[[], bool]) -> None:
    """Call a function once, from a new thread, as soon as `condition()` is False."""

    def watch() -> None:
        while condition():
            time.sleep(POLL_SECONDS)
        call()

    threading.Thread(target=watch, daemon=True).start()


def end_with_parent(parent: int | None = None) -> None:
    """End this process when its parent dies: as on SIGTERM, and after `GRACE_SECONDS` at once.

    `parent` is the pid of the parent, as in `when_orphaned`.
    """

    def end() -> None:
        os.kill(os.getpid(), signal.SIGTERM)  # training handles it and writes a checkpoint
        time.sleep(GRACE_SECONDS)
        os._exit(Interrupted.code)

    when_orphaned(end, parent)


def end_with_driver() -> None:
    """End a job of a sweep when the process that began the sweep dies.

    Only processes that joblib or submitit's local executor started are such jobs; others are left
    alone.
    """
    driver = int(os.environ.get(DRIVER, os.getpid()))
    if driver == os.getpid():
        return
    if os.environ.get("SUBMITIT_EXECUTOR") == "local":  # its parent is a process of submitit
        call_when_false(lambda: os._exit(Interrupted.code), lambda: exists(driver))
    elif "joblib.externals.loky" in sys.modules:
        when_orphaned(lambda: os._exit(Interrupted.code), driver)


def exists(pid: int) -> bool:
    """Whether there is a process of this pid; on POSIX only."""
    try:
        os.kill(pid, 0)
    except OSError as error:
        return not isinstance(error, ProcessLookupError)
    return True


def exit_on_signals() -> None:
    """Make signals end this process with exit code 130 (Ctrl-C) or 75 (others), without a
    traceback.

    Training replaces these handlers while it runs (`Stop`), to write a checkpoint first. During
    interpreter shutdown signals are ignored, since the exit code is known by then.
    """
    handle_signals(exit_at_once)
    atexit.register(handle_signals, signal.SIG_IGN)


def interrupt_once() -> None:
    """Make the first signal raise KeyboardInterrupt, and the second one exit at once.

    The exception lets a sweep end its jobs in an orderly way.
    """

    def interrupt(number: int, frame: FrameType | None) -> NoReturn:
        handle_signals(exit_at_once)
        raise KeyboardInterrupt

    handle_signals(interrupt)


def handle_signals(handler: Callable[[int, FrameType | None], object] | signal.Handlers) -> None:
    """Install `handler` for all signals that ask a process to stop; does nothing outside the main
    thread."""
    if threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            signal.signal(number, handler)


def exit_at_once(number: int, frame: FrameType | None) -> NoReturn:
    """Exit with the code for this signal, without cleaning up."""
    os._exit(130 if number == signal.SIGINT else Interrupted.code)
