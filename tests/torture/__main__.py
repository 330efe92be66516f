"""`python -m tests.torture [KIND ...] [LAUNCHER ...]`; the environment's SHARE and SEED say how much and which."""

import os
import random
import sys
import time
from importlib import import_module
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from faults import memory

KINDS = ("kills", "flips", "fuzz", "combinations")


def main(words: list[str]) -> int:
    """Run what is asked for; 1 if anything was found."""
    share = float(os.environ.get("SHARE", "1"))
    seed = int(os.environ.get("SEED", time.time_ns() % 1_000_000))
    kinds = [w for w in words if w in KINDS] or list(KINDS)
    others, number = [w for w in words if w not in KINDS], 0
    print(f"SEED={seed} SHARE={share} repeats this", flush=True)
    for kind in kinds:
        with memory() as folder:
            os.chdir(folder)
            tried, faults = import_module(f"torture.{kind}").work(
                random.Random(f"{seed} {kind}"),
                share,
                others,
            )
            os.chdir("/")
        print(f"{kind}: {tried}: {len(faults)} faults", *faults, sep="\n  ", flush=True)
        number += len(faults)
    return 1 if number else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
