"""Labels to look at again: `python -m sft_exp.suspicious run=outputs/latest > suspicious.csv`

Ranks the run's labelled images by how much their neighbours, in the features that the run's pretraining learned, contradict
their label: `file,label,neighbours,agreement`, the most doubtful first. `neighbours` is the label that most of them have,
`agreement` the weight of those that have the image's own less the weight of those: 1 all agree, -1 none does.

    run=RUN      folder of a finished run
    n=0          how many are listed; 0 = all
"""

import csv
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sft_exp.config import args
from sft_exp.errors import Failure, require
from sft_exp.label.suspicious import ranked

if TYPE_CHECKING:
    pass


@dataclass
class Ask:
    run: str
    n: int = 0

    def __post_init__(self):
        require(self.n >= 0, "n", self.n, "0 or more")


def main(arguments: list[str] | None = None) -> int:
    try:
        ask = args.parse(Ask, __doc__ or "", "suspicious", arguments)
        rows = ranked(ask.run)
    except Failure as error:
        print(f"sft_exp.suspicious: {error}", file=sys.stderr)
        return error.code
    out = csv.writer(sys.stdout, lineterminator="\n")
    out.writerow(["file", "label", "neighbours", "agreement"])
    out.writerows(rows[: ask.n or None])
    return 0


if __name__ == "__main__":
    sys.exit(main())
