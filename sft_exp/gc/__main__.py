"""Remove the store's folders that no run refers to.

sft_exp gc dry_run=true
sft_exp gc max_gb=20      only the oldest of them, until the store is no larger than that
"""

import sys
from dataclasses import dataclass
from math import inf
from pathlib import Path

from sft_exp.config import args
from sft_exp.errors import ConfigError, require
from sft_exp.store.collect import collect, rubbish, thinned
from sft_exp.store.listing import asked, bytes_, measure, read


@dataclass
class Arguments:
    store: Path = Path("outputs/store")  # the store's folder
    runs: Path = Path("outputs")  # where runs are looked for, beside those that the store notes
    # remove only the oldest, until the store has at most so many GB; null: all that no run refers to
    max_gb: float | None = None
    dry_run: bool = False  # only list what would go
    yes: bool = False  # remove without asking

    def __post_init__(self):
        valid = self.max_gb is None or 0 <= self.max_gb < inf
        require(valid, "max_gb", self.max_gb, "null, or 0 or more")


def main(arguments: list[str] | None = None) -> int:
    return args.run("gc", __doc__ or "", Arguments, work, arguments)


def work(given: Arguments) -> int:
    return clean(given.store, given.runs, given.dry_run, given.yes, given.max_gb)


def clean(
    store: Path, runs_root: Path, dry_run: bool, yes: bool, max_gb: float | None = None
) -> int:
    """List what can go, ask, remove it; the exit code."""
    removable = rubbish(store, runs_root)
    if max_gb is not None:
        removable = thinned(removable, measure(store)[0] - round(max_gb * 1e9))
    sizes = {path: measure(path)[0] for path in removable}
    folders = {p: None for p in sizes if p.parent.name not in ("locks", "roots")}
    for path in folders:
        print(
            f"{bytes_(sizes[path]):>8}  {path}  {asked(read(path / 'request.json'), store)}".rstrip()
        )
    rest = (
        f", and {n} locks and notes of runs that are gone"
        if (n := len(sizes) - len(folders))
        else ""
    )
    print(f"{len(folders)} folder{'s' * (len(folders) != 1)}, {bytes_(sum(sizes.values()))}{rest}")
    if not sizes or dry_run:
        return 0
    if not yes:
        if not sys.stdin.isatty():
            print(
                "sft_exp.gc: there is no terminal to ask on; yes=true removes without asking",
                file=sys.stderr,
            )
            return ConfigError.code
        if input("Remove them? [y/N] ").strip().lower() not in ("y", "yes"):
            return 0
    going = collect(store, runs_root, sizes)
    print(f"{sum(p in folders for p in going)} removed, {bytes_(sum(sizes[p] for p in going))}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
