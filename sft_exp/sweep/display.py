"""The terminal's view of a running sweep: a live block, or a line per job where there is no
terminal.

The block is drawn by the process that began the sweep, so that two processes never draw on one
terminal. The messages of its own worker come through a pipe: progress goes into the block, everything
else is printed above it. Of jobs that a launcher runs in other processes, here or on other machines,
it reads the run folders, and those processes write into their log files alone.
"""

import atexit
import threading
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from sft_exp.compare.comparison import SILENT
from sft_exp.execution import ownership
from sft_exp.progress import LINE, console, log
from sft_exp.store import results

REFRESH_PER_SECOND = 4.0
BAR_COLUMNS = 20  # width of the progress bar
LOOK_SECONDS = 1.0  # between two looks at the run folders of other processes
MOST_NAMED = 8  # running jobs, and kinds of scores, that are named
# in the environment of a launcher's processes: another process shows their jobs on this terminal
SHOWN = "SFT_EXP_SHOWN"


class Display:
    """The state of a sweep's jobs, and its picture on the terminal.

    Args:
        total: number of jobs; None if the sweeper chooses them as it goes.
        done: how many of them were done before.
        common: overrides that all jobs share; they are left out of the jobs' descriptions.
        live: whether to draw a block, on a terminal whose other processes are silent.
        silent: whether to write into the log alone, because another process draws the block.
    """

    def __init__(
        self,
        total: int | None,
        done: int = 0,
        common: Sequence[str] = (),
        live: bool = False,
        silent: bool = False,
    ):
        self.total, self.done, self.common = total, done, frozenset(common)
        self.earlier, self.failed, self.seconds = done, 0, 0.0
        # what is scored (`Results.kind`) -> best validation score, description of the job
        self.best: dict[str, tuple[float, str]] = {}
        self.activity, self.detail, self.started = "", "", time.monotonic()
        self.silent, self.watched = silent, 0.0  # when `watch` began
        # jobs at work in other processes -> where, and since when
        self.elsewhere: dict[str, tuple[str, float]] = {}
        self.live: Live | None = None
        if live and console.is_terminal and not console.quiet:
            self.live = Live(
                console=console,
                get_renderable=self.block,
                refresh_per_second=REFRESH_PER_SECOND,
                transient=True,
            )
            self.live.start()
            # a process that exits at once on a second Ctrl-C could not show the cursor again
            console.show_cursor(True)
            atexit.register(self.close)

    def describe(self, number: int, overrides: Sequence[str]) -> str:
        """`job 4 (5 of 27): pretrainer=ae optim.lr=0.1`, with the overrides that differ between
        jobs."""
        position = f" ({number + 1} of {self.total})" if self.total else ""
        settings = " ".join(varying(overrides, self.common))
        return f"job {number}{position}{f': {settings}' if settings else ''}"

    def begin(self, activity: str) -> None:
        """Show the current activity."""
        self.activity, self.detail, self.started = activity, "", time.monotonic()

    def consider(self, job: str, val: float | None, kind: str = "") -> None:
        """Remember a job's validation score, a fraction, if it is the best so far of its kind."""
        if val is not None and (kind not in self.best or val > self.best[kind][0]):
            self.best[kind] = (val, job)

    def end(self, job: str, val: float | None, test: float, kind: str = "") -> None:
        """Count a job that is done. Scores are fractions."""
        seconds = time.monotonic() - self.started
        self.done, self.seconds, self.activity = self.done + 1, self.seconds + seconds, ""
        self.consider(job, val, kind)
        scores = f"{'' if val is None else f'validation {100 * val:.1f}, '}test {100 * test:.1f}"
        show = log if self.live or self.silent else console.print
        show(f"{job}: {scores} in {seconds:.0f} s", highlight=False, markup=False, soft_wrap=True)

    def fail(self, job: str, error: str) -> None:
        """Count a job that failed, and say why."""
        self.failed, self.seconds = self.failed + 1, self.seconds + time.monotonic() - self.started
        self.activity = ""
        text = f"{job}: failed, {error.splitlines()[0]}"
        if self.silent:
            log(text, highlight=False, markup=False, soft_wrap=True)
        else:
            console.message(text)

    def show_message(self, line: str) -> None:
        """Show a worker's message: its progress in the block, anything else above it."""
        if LINE.fullmatch(line):
            self.detail = line
        elif line.strip() and not self.silent:
            console.message(line)

    def watch(self, places: Mapping[Path, str]) -> None:
        """Follow jobs that other processes run, by what they write into their run folders, in a
        thread of its own. `places`: run folder -> the job's description."""
        waiting = {place: changed(place) for place in places}
        self.watched = time.monotonic()

        def look() -> None:
            while waiting and self.live:
                for place in [p for p, before in waiting.items() if changed(p) != before]:
                    if self.found(place, places[place]):
                        del waiting[place]
                time.sleep(LOOK_SECONDS)

        threading.Thread(target=look, daemon=True).start()

    def found(self, place: Path, job: str) -> bool:
        """Take over what a run folder says of its job; returns whether the job has ended."""
        status = ownership.read(place / "status.json")
        state = status.get("state")
        if state == "running":
            self.elsewhere.setdefault(job, (ownership.owner(place), time.monotonic()))
            return False
        if state not in ("done", "failed", "interrupted"):
            return False
        _, self.started = self.elsewhere.pop(job, ("", time.monotonic()))
        result = results.read_if_complete(place) if state == "done" else None
        if result is None:
            self.fail(job, str(status.get("error") or state))
        else:
            self.end(job, result.validated, result.tested, result.kind)
        return True

    def seconds_left(self) -> float | None:
        """Seconds until the last job ends, if the others take as long as those so far, or None.

        None means that nothing is known: no job has ended, or the number of jobs is not fixed.
        """
        ended = self.done - self.earlier + self.failed
        if not ended or not self.total:
            return None
        remaining = self.total - self.done - self.failed
        if self.watched:  # several at a time
            return (time.monotonic() - self.watched) * remaining / ended
        now = time.monotonic() - self.started if self.activity else 0.0
        mean = self.seconds / ended
        return max(0.0, remaining * mean - min(now, mean))

    def block(self) -> Group:
        """The live block: counts, the best job so far, and the current activity.

        Numbers come first in each line, because long lines wrap.
        """
        ended = self.done + self.failed
        counts = f"{self.done} of {self.total} jobs done" if self.total else f"{self.done} done"
        if self.failed:
            counts += f", {self.failed} failed"
        if (seconds_left := self.seconds_left()) is not None:
            counts += f", about {clock(seconds_left)} left"
        head = Table.grid(padding=(0, 1))
        cells: list[RenderableType] = [Text(counts)]
        if self.total:
            cells.insert(0, ProgressBar(total=self.total, completed=ended, width=BAR_COLUMNS))
        head.add_row(*cells)
        lines: list[RenderableType] = [head]
        for kind, (score, job) in list(self.best.items())[:MOST_NAMED]:
            of_kind = f" ({kind})" if len(self.best) > 1 else ""
            lines.append(Text(f"best by validation so far{of_kind}: {100 * score:.1f}, {job}"))
        if self.activity:
            detail = f" ({self.detail})" if self.detail else ""
            seconds = clock(time.monotonic() - self.started)
            lines.append(Text(f"{seconds} {self.activity}{detail}"))
        lines += self.at_work()
        return Group(*lines)

    def at_work(self) -> Iterator[Text]:
        """What other processes do, and where, the oldest first."""
        jobs = list(self.elsewhere.items())
        for job, (where, since) in jobs[:MOST_NAMED]:
            yield Text(f"{clock(time.monotonic() - since)} {job}, {where}")
        if len(jobs) > MOST_NAMED:
            yield Text(f"and {len(jobs) - MOST_NAMED} more at work")

    def interrupt(self) -> None:
        """Replace the block by a last line, which says how many jobs are done."""
        self.close()
        done = f"{self.done} of {self.total} jobs are done" if self.total else f"{self.done} done"
        console.message(f"interrupted: {done}; the same command continues")

    def close(self) -> None:
        """Remove the block; what was printed above it stays."""
        if self.live:
            self.live.stop()
            self.live = None


def varying(overrides: Sequence[str], common: Collection[str]) -> list[str]:
    """The overrides that tell jobs apart: those that not all have, without keys that change no
    result, unless these are all."""
    found = [o for o in overrides if o not in common]
    telling = [o for o in found if o.lstrip("+").partition("=")[0] not in SILENT]
    return telling or found


def changed(place: Path) -> int:
    """When the job in a run folder last said how it is, in ns; 0 if it never did."""
    try:
        return (place / "status.json").stat().st_mtime_ns
    except OSError:
        return 0


def clock(seconds: float) -> str:
    """A duration as on a clock: `0:05`, `12:30`, `1:02:03`."""
    minutes, remainder = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{remainder:02}" if hours else f"{minutes}:{remainder:02}"
