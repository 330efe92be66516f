"""Every process ends with the one that started it, and on every signal, whatever it is doing at the time.

Linux could send a signal itself when a parent dies (PR_SET_PDEATHSIG), but means the thread that started the process, which
may end while its process goes on. Watching the parent's pid is right everywhere, and soon enough. Nothing here imports torch,
so that a process can be watched before it does.
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

EVERY = 0.5  # seconds between two looks at the parent
GRACE = 3.0  # seconds that an orphan has to write a checkpoint
DRIVER = "SFT_EXP_DRIVER"  # environment variable: pid of the process that began the sweep
SIGNALS = [
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2")
    if hasattr(signal, name)
]


def when_orphaned(call: Callable[[], object], parent: int | None = None) -> None:
    """Call once, from a thread of its own, when this process's parent has died.

    Args:
        call: what to do then.
        parent: pid of the process that started this one. With it a parent that died before this call is noticed, too.
    """
    expected = os.getppid() if parent is None else parent

    def watch() -> None:
        while os.getppid() == expected:
            time.sleep(EVERY)
        call()

    threading.Thread(target=watch, daemon=True).start()


def end_with_parent(parent: int | None = None) -> None:
    """When the parent dies, end as on SIGTERM; after `GRACE` seconds end in any case."""

    def end() -> None:
        os.kill(os.getpid(), signal.SIGTERM)  # training hears it and leaves a checkpoint
        time.sleep(GRACE)
        os._exit(Interrupted.code)

    when_orphaned(end, parent)


def end_with_driver() -> None:
    """End a process that joblib started when the process that began the sweep dies. Does nothing in all other processes."""
    driver = int(os.environ.get(DRIVER, os.getpid()))
    if driver != os.getpid() and "joblib.externals.loky" in sys.modules:
        when_orphaned(lambda: os._exit(Interrupted.code), driver)


def leave_on_signals() -> None:
    """From now on a signal ends this process with exit code 130 (Ctrl-C) or 75 (others), without a traceback.

    Training replaces these handlers while it runs (`Stop`), to write a checkpoint first. Once the interpreter shuts down
    signals are ignored: the exit code is known by then.
    """
    handle_signals(leave)
    atexit.register(handle_signals, signal.SIG_IGN)


def interrupt_once() -> None:
    """The first signal raises KeyboardInterrupt, which ends the jobs in order; the second one leaves at once."""

    def interrupt(number: int, frame: FrameType | None) -> NoReturn:
        handle_signals(leave)
        raise KeyboardInterrupt

    handle_signals(interrupt)


def handle_signals(handler: Callable[[int, FrameType | None], object] | signal.Handlers) -> None:
    """Let `handler` handle all signals that ask a process to stop; only the main thread can."""
    if threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            signal.signal(number, handler)


def leave(number: int, frame: FrameType | None) -> NoReturn:
    os._exit(130 if number == signal.SIGINT else Interrupted.code)
