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

from sft_exp import keys
from sft_exp.errors import DataError, Failure, require

if TYPE_CHECKING:
    from torch import Tensor

NEIGHBOURS = 20
TEMPERATURE = 0.07  # of their weights exp(cosine / temperature) (Wu et al., arXiv:1805.01978, section 3.4)
CHUNK = 1024  # images whose similarities to all others are held at once


@dataclass
class Ask:
    run: str
    n: int = 0

    def __post_init__(self):
        require(self.n >= 0, "n", self.n, "0 or more")


def main(arguments: list[str] | None = None) -> int:
    try:
        ask = keys.parse(Ask, __doc__ or "", "suspicious", arguments)
        rows = ranked(ask.run)
    except Failure as error:
        print(f"sft_exp.suspicious: {error}", file=sys.stderr)
        return error.code
    out = csv.writer(sys.stdout, lineterminator="\n")
    out.writerow(["file", "label", "neighbours", "agreement"])
    out.writerows(rows[: ask.n or None])
    return 0


def ranked(run: str) -> list[list[str]]:
    """The CSV's rows."""
    from sft_exp import api
    from sft_exp.label import opened, outputs
    from sft_exp.labelling import acquire

    _, data, known, _ = opened(run)
    if len(known) < 3:
        raise DataError(f"{run}: {len(known)} labelled images have no neighbours to ask")
    f_ND = acquire.directions(outputs(api.load_pretrained(run), known))
    agreement_N, other_N = agreement(f_ND, known.y, len(data.classes))
    return [
        [known.ids[r], data.classes[known.y[r]], data.classes[other_N[r]], f"{agreement_N[r]:.3f}"]
        for r in agreement_N.argsort(stable=True).tolist()
    ]


def agreement(f_ND: "Tensor", y_N: "Tensor", classes: int) -> tuple["Tensor", "Tensor"]:
    """(weight of an image's neighbours with its own label less that of the most frequent other label, in [-1, 1] [N]; the class
    that most neighbours have [N]). `f_ND`: rows of length 1."""
    import torch

    near, found, most = min(NEIGHBOURS, len(f_ND) - 1), [], []
    for first in range(0, len(f_ND), CHUNK):
        rows = torch.arange(first, min(first + CHUNK, len(f_ND)))
        cosine_BN = f_ND[rows] @ f_ND.T
        cosine_BN[torch.arange(len(rows)), rows] = -2  # nobody is asked about its own label
        cosine_BK, who_BK = cosine_BN.topk(near)
        votes_BY = torch.zeros(len(rows), classes).scatter_add_(1, y_N[who_BK], (cosine_BK / TEMPERATURE).softmax(1))
        most.append(votes_BY.argmax(1))
        own_B = votes_BY.gather(1, y_N[rows, None])[:, 0]
        found.append(own_B - votes_BY.scatter(1, y_N[rows, None], 0).max(1).values)
    return torch.cat(found), torch.cat(most)


if __name__ == "__main__":
    sys.exit(main())
