"""`python -m tests.fingerprints --bless vae simclr` rewrites these digests; `--bless-missing` adds those that are missing.

    --check [NAME ...]   compare instead, all or the named ones
    NAME                 an option (vae), a group and an option (pretrainer/vae), or a group (pretrainer/)

Bless a digest only in a commit that says why its numbers change.
"""

import argparse
import json
import re
import sys
import time

from . import cases


def matching(names: list[str]) -> list[tuple[str, str]]:
    found = [(g, o) for g, o in cases.names() if not names or {o, f"{g}/{o}", f"{g}/"} & {*names}]
    known = {n for g, o in found for n in (o, f"{g}/{o}", f"{g}/")}
    if unknown := [n for n in names if n not in known]:
        sys.exit(
            f"no fingerprint is called {', '.join(unknown)}; there are {', '.join(f'{g}/{o}' for g, o in cases.names())}"
        )
    return found


def write(group: str, digests: dict[str, cases.Fingerprint]) -> None:
    """One line for each moment, options in alphabetical order, so that a blessing shows in the diff as what it is."""
    text = json.dumps(dict(sorted(digests.items())), indent=1)
    flat = re.sub(r"\[[^\[\]{}]*\]", lambda m: re.sub(r"\s+", " ", m[0]), text)
    while (
        again := re.sub(
            r"\[(?:[^\[\]{}]|\[[^\[\]{}]*\])*\]", lambda m: re.sub(r"\s+", " ", m[0]), flat
        )
    ) != flat:
        flat = again
    cases.DIGESTS.mkdir(exist_ok=True)
    (cases.DIGESTS / f"{group}.json").write_text(flat + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.fingerprints", description=(__doc__ or "").splitlines()[0]
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--bless", nargs="+", metavar="NAME", help="rewrite these digests")
    what.add_argument(
        "--bless-missing", action="store_true", help="add the digests that are missing, change none"
    )
    what.add_argument("--check", nargs="*", metavar="NAME", help="compare these, or all")
    args = parser.parse_args()
    wanted, failed = matching(args.bless or args.check or []), 0
    for group, option in wanted:
        kept = cases.stored(group)
        if args.bless_missing and option in kept:
            continue
        started = time.process_time()
        found = cases.fingerprint(group, option)
        seconds = f"{time.process_time() - started:.2f} s"
        if args.check is None:
            if found:
                write(group, {**kept, option: found})
            print(
                f"{group}/{option}: {'blessed' if found else 'cannot run here, nothing written'} {seconds}",
                flush=True,
            )
        else:
            fault = cases.difference(kept.get(option, {}), found, cases.tolerance(group, option))
            failed += fault is not None
            print(f"{group}/{option}: {fault or 'equal'} {seconds}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
