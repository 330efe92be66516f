"""`make bench`: every measurement beside what it is compared with, in one run.

    python -m benchmarks                  what needs MNIST alone (SFT_EXP_DATA, or ../shared/data)
    python -m benchmarks textbook heads   some of it, scale too
    python -m benchmarks choose FOLDER    one with words of its own: choose, decoding, defaults, dense,
                                          estimates, gpu, growth, picks, regret, useless_until

Medians of rounds by turns; docs/speed.md quotes them.
"""

import os
import sys
from pathlib import Path

from benchmarks import (
    choose,
    decoding,
    defaults,
    dense,
    estimates,
    gpu,
    growth,
    heads,
    picks,
    probe,
    regret,
    scale,
    sweep,
    textbook,
    useless,
    views,
)

ROOT = Path(__file__).parent.parent
USUAL = {  # beside what each is compared with; of MNIST
    "textbook": textbook,
    "heads": heads,
    "probe": probe,
    "sweep": sweep,
    "views": views,
    "useless": useless,
    "scale": scale,  # only by its name
}
ALONE = {  # name -> what it does with the words behind its name and the folder of data
    "choose": choose.main,
    "decoding": decoding.main,
    "defaults": defaults.main,
    "dense": dense.main,
    "estimates": estimates.main,
    "growth": lambda words, _: growth.main(words),
    "gpu": gpu.main,
    "picks": lambda words, _: picks.main(words),
    "regret": lambda words, _: regret.main(words),
    "useless_until": lambda _, data: useless.until_decided(data),
}


def main() -> None:
    data = Path(os.environ.get("SFT_EXP_DATA", ROOT.parent / "shared" / "data"))
    name, *words = sys.argv[1:] or [""]
    if name in ALONE:
        ALONE[name](words, data)
        return
    if not (data / "mnist").is_dir():
        sys.exit(f"no MNIST below {data}; set SFT_EXP_DATA to a folder that holds mnist/MNIST/raw")
    wanted = sys.argv[1:] or [name for name in USUAL if name != "scale"]
    for name, part in USUAL.items():
        if name in wanted:
            print(f"\n{name}: {(part.__doc__ or '').splitlines()[0]}")
            part.main(data / "mnist")


main()
