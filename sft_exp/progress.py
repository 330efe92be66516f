"""Messages and progress: a bar on a terminal, a line every few seconds elsewhere.

Text printed on `console` is also a record of the logger `sft_exp.run`, which Hydra's job_logging writes into the run's log
file. A level above INFO for that logger (`hydra/job_logging=quiet`) silences both.
"""

import io
import logging
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

LOG = logging.getLogger("sft_exp.run")
LOG.setLevel(logging.INFO)  # unless Hydra's configuration sets another one
LOG.addHandler(logging.NullHandler())  # without a log file, warnings stay on the console alone
LOG.propagate = False  # Hydra's console handler would print each line a second time
LOG_WIDTH = 160  # columns of a table in the log file


class Screen(Console):
    """A console that shows nothing more once its reader has left (`| head`): rich would end the process,
    and with it a run."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        stream = sys.stderr if self.stderr else sys.stdout
        with suppress(OSError, ValueError):  # so that what is left in its buffer goes nowhere
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


class LoggedConsole(Screen):
    """A console on stderr that writes each message into the run's log file, too."""

    def print(self, *objects: Any, **options: Any) -> None:
        """Print and log the objects; see `rich.console.Console.print`."""
        if LOG.isEnabledFor(logging.INFO):
            super().print(*objects, **options)
            log(*objects, **options)

    def message(self, text: str) -> None:
        """Print text as it is, without wrapping, colours or markup."""
        self.print(text, highlight=False, markup=False, soft_wrap=True)


def log(*objects: Any, **options: Any) -> None:
    """Write into the log file what `console.print` would show, without showing it."""
    if LOG.isEnabledFor(logging.INFO):
        # no colours and no control codes in a file
        plain = Console(file=io.StringIO(), width=LOG_WIDTH, color_system=None)
        with plain.capture() as capture:
            plain.print(*objects, **options)
        if text := capture.get().strip():  # a live display prints control codes alone
            LOG.info("%s", text)


console = LoggedConsole(stderr=True)
EVERY = 5.0  # seconds between lines where there is no terminal
LINE = re.compile(r"(?P<label>.+): (?P<done>\d+)/(?P<total>\d+)(?P<note> .*)?")  # of `_lines`
COLUMNS = (
    TextColumn("{task.description}"),
    BarColumn(),
    MofNCompleteColumn(),
    TimeRemainingColumn(),
    TextColumn("{task.fields[note]}"),
)

Advance = Callable[[int, str], None]  # (done so far, a note)
_showing = False  # whether a bar is shown; nested bars are silent


@contextmanager
def bar(label: str, total: int) -> Iterator[Advance]:
    """Show progress inside the block; yields the function that advances it."""
    global _showing
    if _showing or not LOG.isEnabledFor(logging.INFO):
        yield lambda done, note: None
        return
    _showing = True
    try:
        if console.is_terminal:
            with Progress(*COLUMNS, console=console, transient=True) as live:
                task = live.add_task(label, total=total, note="")
                yield lambda done, note: live.update(task, completed=done, note=note)
        else:
            yield _lines(label, total)
    finally:
        _showing = False


def _lines(label: str, total: int) -> Advance:
    last = time.monotonic()

    def advance(done: int, note: str) -> None:
        nonlocal last
        if time.monotonic() - last >= EVERY:
            last = time.monotonic()
            console.print(f"{label}: {done}/{total} {note}".rstrip(), highlight=False)

    return advance
