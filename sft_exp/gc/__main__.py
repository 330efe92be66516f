"""Remove the store's folders that no run refers to: `python -m sft_exp.gc`."""

import argparse
import sys
from pathlib import Path

from sft_exp.errors import Failure
from sft_exp.store.collect import collect, rubbish
from sft_exp.store.listing import asked, bytes_, measure, read


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m sft_exp.gc", description=__doc__)
    parser.add_argument("--store", type=Path, default=Path("outputs/store"))
    parser.add_argument(
        "--runs",
        type=Path,
        default=Path("outputs"),
        help="where runs are looked for, beside those noted",
    )
    parser.add_argument("--dry-run", action="store_true", help="only list what would go")
    parser.add_argument("--yes", action="store_true", help="remove without asking")
    args = parser.parse_args()
    try:
        return clean(args.store, args.runs, args.dry_run, args.yes)
    except Failure as error:
        print(f"sft_exp: {error}", file=sys.stderr)
        return error.code


def clean(store: Path, runs_root: Path, dry_run: bool, yes: bool) -> int:
    """List what can go, ask, remove it; the exit code."""
    sizes = {path: measure(path)[0] for path in rubbish(store, runs_root)}
    folders = [p for p in sizes if p.parent.name not in ("locks", "roots")]
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
                "sft_exp: there is no terminal to ask on; --yes removes without asking",
                file=sys.stderr,
            )
            return 2
        if input("Remove them? [y/N] ").strip().lower() not in ("y", "yes"):
            return 0
    going = collect(store, runs_root, sizes)
    print(f"{sum(p in folders for p in going)} removed, {bytes_(sum(sizes[p] for p in going))}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
