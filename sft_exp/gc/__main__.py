"""Remove the store's folders that no run refers to.

With max_gb it removes only the oldest of them, until the store is no larger than that.

    sft_exp gc dry_run=true
    sft_exp gc max_gb=20
"""

import sys
from dataclasses import dataclass
from math import inf
from pathlib import Path

from sft_exp.config import args
from sft_exp.errors import ConfigError, require
from sft_exp.store.collect import collect, oldest, unreferenced
from sft_exp.store.listing import bytes_, measure, of_folder


@dataclass
class Arguments:
    store: Path = Path("outputs/store")  # the store's folder
    runs: Path = Path("outputs")  # searched for runs, in addition to those that the store records
    max_gb: float | None = None  # size to which the store is reduced; null: remove all
    dry_run: bool = False  # list what would be removed, and remove nothing
    yes: bool = False  # remove without asking

    def __post_init__(self):
        valid = self.max_gb is None or 0 <= self.max_gb < inf
        require(valid, "max_gb", self.max_gb, "null, or 0 or more")


def main(arguments: list[str] | None = None) -> int:
    return args.run("gc", __doc__ or "", Arguments, work, arguments)


def work(arguments: Arguments) -> int:
    return clean(
        arguments.store, arguments.runs, arguments.dry_run, arguments.yes, arguments.max_gb
    )


def clean(
    store: Path, runs_root: Path, dry_run: bool, yes: bool, max_gb: float | None = None
) -> int:
    """List the unreferenced folders, ask, and remove them; returns the exit code."""
    removable = unreferenced(store, runs_root)
    if max_gb is not None:
        removable = oldest(removable, measure(store)[0] - round(max_gb * 1e9))
    sizes = {path: measure(path)[0] for path in removable}
    folders = {p: None for p in sizes if p.parent.name not in ("locks", "roots")}
    for path in folders:
        about = of_folder(path, store)
        print(f"{bytes_(sizes[path]):>8}  {path}  {about}".rstrip())
    others = len(sizes) - len(folders)
    rest = f", and {others} locks and notes of runs that are gone" if others else ""
    print(f"{len(folders)} folder{'s' * (len(folders) != 1)}, {bytes_(sum(sizes.values()))}{rest}")
    if not sizes or dry_run:
        return 0
    if not yes:
        if not sys.stdin.isatty():
            print(
                "sft_exp gc: there is no terminal to ask on; yes=true removes without asking",
                file=sys.stderr,
            )
            return ConfigError.code
        if input("Remove them? [y/N] ").strip().lower() not in ("y", "yes"):
            return 0
    removed = collect(store, runs_root, sizes)
    print(f"{sum(p in folders for p in removed)} removed, {bytes_(sum(sizes[p] for p in removed))}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
