"""What is in the store, and what it cost: `python -m sft_exp.ls`."""

import argparse
import sys
import time
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from sft_exp.store.listing import RUN, ago, bytes_, folders, run, runs, totals, words


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m sft_exp.ls", description=__doc__)
    parser.add_argument("--store", type=Path, default=Path("outputs/store"))
    parser.add_argument(
        "--runs", type=Path, default=Path("outputs"), help="where runs are looked for"
    )
    parser.add_argument("--stage", help=f"only folders of this stage, or `{RUN}`")
    parser.add_argument("--limit", type=int, default=50, help="how many are listed; 0: all")
    args = parser.parse_args()
    entries = [*folders(args.store), *map(run, runs(args.runs, args.store))]
    entries = [e for e in entries if args.stage in (None, e.stage)]
    entries.sort(key=lambda e: (-e.changed, e.name))
    shown = entries[: args.limit or None]
    table, now = Table(box=SIMPLE_HEAD), time.time()
    for name in ("state", "age", "size", "name", "what"):
        table.add_column(
            name, justify="right" if name in ("age", "size") else "left", no_wrap=name != "what"
        )
    for e in shown:
        table.add_row(e.state, ago(now - e.changed), bytes_(e.size), e.name, words(e, args.store))
    screen = Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else 1000)
    if shown:
        screen.print(table)
    if len(shown) < len(entries):
        screen.print(f"... and {len(entries) - len(shown)} older (--limit 0 lists all)")
    screen.print(totals(entries), soft_wrap=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
