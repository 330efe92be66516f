"""List the labels to look at again.

Ranks the run's labelled images by how much their neighbours, in the features that the run's
pretraining learned, contradict their label: `file,label,neighbours,agreement`, the most doubtful
first. `neighbours` is their most frequent label; `agreement` is the weight of those with the
image's own label minus the weight of the most frequent other label: 1 if all agree, -1 if none
does.

    sft_exp suspicious outputs/latest > suspicious.csv
"""

import sys
from dataclasses import dataclass
from typing import ClassVar

from sft_exp.config import args
from sft_exp.data import tables
from sft_exp.errors import require
from sft_exp.label.suspicious import suspicious_rows


@dataclass
class Arguments:
    positional: ClassVar[tuple[str, ...]] = ("run",)

    run: str  # folder of a finished run
    n: int = 0  # how many are listed; 0 = all

    def __post_init__(self):
        require(self.n >= 0, "n", self.n, "0 or more")


def main(arguments: list[str] | None = None) -> int:
    return args.run("suspicious", __doc__ or "", Arguments, work, arguments)


def work(arguments: Arguments) -> None:
    rows = suspicious_rows(arguments.run)
    out = tables.Writer(sys.stdout)
    out.writerow(["file", "label", "neighbours", "agreement"])
    out.writerows(rows[: arguments.n or None])


if __name__ == "__main__":
    sys.exit(main())
