"""What a person sees while waiting: a bar on a terminal, a line now and then elsewhere."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

console = Console(stderr=True)
EVERY = 5.0  # seconds between lines where there is no terminal
COLUMNS = (
    TextColumn("{task.description}"),
    BarColumn(),
    MofNCompleteColumn(),
    TimeRemainingColumn(),
    TextColumn("{task.fields[note]}"),
)

Advance = Callable[[int, str], None]  # (done so far, a note)
_showing = False  # one bar at a time: an inner one is silent


@contextmanager
def bar(label: str, total: int) -> Iterator[Advance]:
    """Progress of one piece of work: gives the function that moves it on."""
    global _showing
    if _showing:
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
