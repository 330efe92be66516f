"""`make bench`: every measurement beside what it is compared with, in one run.

All but `gpu` and `dense` need MNIST (SFT_EXP_DATA, or ../shared/data).
"""

import os
import sys
from pathlib import Path

from benchmarks import (
    choose,
    defaults,
    dense,
    estimates,
    gpu,
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


def main() -> None:
    data = Path(os.environ.get("SFT_EXP_DATA", ROOT.parent / "shared" / "data"))
    if sys.argv[1:2] == ["gpu"]:  # has images of its own, and needs no data
        gpu.main(sys.argv[2:], data)
        return
    if sys.argv[1:2] == ["regret"]:  # of a finished study
        regret.main(sys.argv[2:])
        return
    if sys.argv[1:2] == ["choose"]:  # all sets but the digits lie there
        choose.main(sys.argv[2:], data)
        return
    if sys.argv[1:2] == ["picks"]:  # digits alone
        picks.main(sys.argv[2:])
        return
    if sys.argv[1:2] == ["estimates"]:  # runs of any data set
        estimates.main(sys.argv[2:], data)
        return
    if sys.argv[1:2] == ["defaults"]:
        defaults.main(sys.argv[2:], data)
        return
    if sys.argv[1:2] == ["dense"]:  # needs dsb2018 and bccd
        dense.main(data, sys.argv[2:])
        return
    if sys.argv[1:2] == ["useless_until"]:  # digits alone
        useless.until_decided(data)
        return
    if not (data / "mnist").is_dir():
        sys.exit(f"no MNIST below {data}; set SFT_EXP_DATA to a folder that holds mnist/MNIST/raw")
    wanted = sys.argv[1:] or ["textbook", "heads", "probe", "sweep", "views", "useless"]
    for name, part in (
        ("textbook", textbook),
        ("heads", heads),
        ("probe", probe),
        ("sweep", sweep),
        ("views", views),
        ("useless", useless),
        ("scale", scale),
    ):
        if name in wanted:
            print(f"\n{name}: {(part.__doc__ or '').splitlines()[0]}")
            part.main(data / "mnist")


main()
