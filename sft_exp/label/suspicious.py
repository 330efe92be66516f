"""Labels that the neighbours of an image contradict."""

from typing import TYPE_CHECKING

from sft_exp.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor


NEIGHBOURS = 20
# of their weights exp(cosine / temperature) (Wu et al., arXiv:1805.01978, section 3.4)
TEMPERATURE = 0.07
CHUNK = 1024  # images whose similarities to all others are held at once


def ranked(run: str) -> list[list[str]]:
    """The CSV's rows."""
    from sft_exp import api
    from sft_exp.label import acquire
    from sft_exp.label.selection import opened, outputs

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
        votes_BY = torch.zeros(len(rows), classes).scatter_add_(
            1, y_N[who_BK], (cosine_BK / TEMPERATURE).softmax(1)
        )
        most.append(votes_BY.argmax(1))
        own_B = votes_BY.gather(1, y_N[rows, None])[:, 0]
        found.append(own_B - votes_BY.scatter(1, y_N[rows, None], 0).max(1).values)
    return torch.cat(found), torch.cat(most)
