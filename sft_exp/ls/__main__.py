"""List the store's folders and the runs, with state, age and size.

sft_exp ls stage=pretrain limit=10
"""

import sys
import time
from dataclasses import dataclass
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.table import Table

from sft_exp.config import args
from sft_exp.errors import ConfigError, require
from sft_exp.progress import Screen
from sft_exp.store.listing import ago, bytes_, folders, run, runs, totals, words


@dataclass
class Arguments:
    store: Path = Path("outputs/store")  # the store's folder
    runs: Path = Path("outputs")  # searched for runs
    stage: str | None = None  # only folders of this stage, or `run`
    limit: int = 50  # how many are listed; 0 = all

    def __post_init__(self):
        require(self.limit >= 0, "limit", self.limit, "0 or more")


def main(arguments: list[str] | None = None) -> int:
    return args.run("ls", __doc__ or "", Arguments, work, arguments)


def work(arguments: Arguments) -> None:
    store = arguments.store
    entries = [*folders(store), *map(run, runs(arguments.runs, store))]
    stages = sorted({e.stage for e in entries})
    if arguments.stage and entries and arguments.stage not in stages:
        raise ConfigError("stage", arguments.stage, f"is none of those here: {', '.join(stages)}")
    entries = [e for e in entries if arguments.stage in (None, e.stage)]
    entries.sort(key=lambda e: (-e.changed, e.name))
    shown = entries[: arguments.limit or None]
    table, now = Table(box=SIMPLE_HEAD), time.time()
    for name in ("state", "age", "size", "name", "what"):
        right = name in ("age", "size")
        table.add_column(name, justify="right" if right else "left", no_wrap=name != "what")
    for e in shown:
        table.add_row(e.state, ago(now - e.changed), bytes_(e.size), e.name, words(e, store))
    screen = Screen(highlight=False, markup=False, width=None if sys.stdout.isatty() else 1000)
    if shown:
        screen.print(table)
    if len(shown) < len(entries):
        screen.print(f"... and {len(entries) - len(shown)} older (limit=0 lists all)")
    searched = "" if entries else f" in {store} and {arguments.runs}"
    screen.print(f"{totals(entries)}{searched}", soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
