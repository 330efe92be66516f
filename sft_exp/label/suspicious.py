"""Labels that contradict those of an image's nearest neighbours."""

from typing import TYPE_CHECKING

from sft_exp.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor


NEIGHBOURS = 20  # of an image that are asked for their label
TEMPERATURE = 0.07  # neighbours weigh exp(cosine / temperature): arXiv:1805.01978, section 3.4
CHUNK = 1024  # images whose similarities to all others are held at once


def suspicious_rows(run: str) -> list[list[str]]:
    """The rows of suspicious.csv: file, label, neighbours' label, and agreement (`agreement`).

    Args:
        run: the folder of a run, whose encoder and labelled images are used.

    Returns:
        The rows, the smallest agreement first.

    Raises:
        DataError: there are too few labelled images.
    """
    from sft_exp import api
    from sft_exp.label import acquire
    from sft_exp.label.selection import opened, outputs

    _, data, images, _ = opened(run)
    if len(images) < 3:
        raise DataError(
            f"{run}: {len(images)} labelled images are too few to compare neighbours; valid: 3 or more"
        )
    f_ND = acquire.directions(outputs(api.load_pretrained(run), images))
    agreement_N, common_N = agreement(f_ND, images.y, len(data.classes))
    return [
        [
            images.ids[i],
            data.classes[images.y[i]],
            data.classes[common_N[i]],
            f"{agreement_N[i]:.3f}",
        ]
        for i in agreement_N.argsort(stable=True).tolist()
    ]


def agreement(f_ND: "Tensor", y_N: "Tensor", classes: int) -> tuple["Tensor", "Tensor"]:
    """How far each image's neighbours agree with its label.

    Args:
        f_ND: features of length 1.
        y_N: labels.
        classes: number of classes.

    Returns:
        The weight of the neighbours with the image's own label minus that of the most frequent
        other label, in [-1, 1] [N], and the class with the largest weight [N].
    """
    import torch

    neighbours, margins, common = min(NEIGHBOURS, len(f_ND) - 1), [], []
    for first in range(0, len(f_ND), CHUNK):
        rows = torch.arange(first, min(first + CHUNK, len(f_ND)))
        cosine_BN = f_ND[rows] @ f_ND.T
        cosine_BN[torch.arange(len(rows)), rows] = -2  # an image is not its own neighbour
        cosine_BK, neighbours_BK = cosine_BN.topk(neighbours)
        votes_BY = torch.zeros(len(rows), classes).scatter_add_(
            1, y_N[neighbours_BK], (cosine_BK / TEMPERATURE).softmax(1)
        )
        common.append(votes_BY.argmax(1))
        own_B = votes_BY.gather(1, y_N[rows, None])[:, 0]
        margins.append(own_B - votes_BY.scatter(1, y_N[rows, None], 0).max(1).values)
    return torch.cat(margins), torch.cat(common)
