"""Monitors of the features during pretraining: probe accuracy, effective rank and clustering.

They do not change a bit of the training. Probes use only labels inside the budget and
cross-validate. Every number has two baselines: raw pixels, and the encoder before its first step.
"""

import json
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sft_exp.core.rng import stream
from sft_exp.core.types import LABEL_SET
from sft_exp.data import splits
from sft_exp.data.images import Images
from sft_exp.models.heads.fitted import fit_linear
from sft_exp.store import atomic_io
from sft_exp.store.store import Request
from sft_exp.training.context import Context
from sft_exp.training.metrics_log import MONITORS

LOOKS = 4  # evaluations during pretraining, after one at the start
ROWS = 1_000  # images of the pool whose features are evaluated
PROBED = 500  # maximum number of labelled images
NEIGHBOURS = 5
RIDGE = 1e-2


class Monitor:
    """Writes monitors.jsonl: the baseline of raw pixels, then a row per evaluation.

    `seconds` is the time that all evaluations took.
    """

    def __init__(
        self,
        folder: Path,
        request: Request,
        encoder: nn.Module,
        nets: nn.Module,
        pool: Images,
        ctx: Context,
        notes: dict[str, Any],
    ):
        """`request` holds the data set, the labels and their draw; `notes` are those of `fit`, which
        keep the rows, since a checkpoint shows whether it is damaged and the file does not."""
        draw = splits.make(ctx.corpus(request["dataset"]), request["labels"], request["draw"])
        few = torch.randperm(len(draw.labelled), generator=stream("monitor"))[:PROBED]
        some = torch.randperm(len(pool), generator=stream("monitor"))[:ROWS]
        self.file, self.encoder, self.nets = folder / MONITORS, encoder, nets
        self.device = ctx.device
        self.labelled, self.pool = in_memory(draw.labelled.at(few)), in_memory(pool.at(some))
        self.labels = str(request["labels"])
        # probes and clusters need classes
        corpus = ctx.corpus(request["dataset"])
        self.classed = len(corpus.strata) > 1 and LABEL_SET not in corpus.train.targets
        self.notes = notes
        self.seconds = 0.0

    def look(self, step: int) -> dict[str, Any]:
        """Evaluate the features after `step` steps; a row from before a resumption is reused."""
        started = time.perf_counter()
        rows = self.notes.setdefault(MONITORS, [])
        if not rows:
            rows.append({"step": None, "labels": self.labels, **self.measured(nn.Flatten())})
        if all(row["step"] != step for row in rows):
            modes = {module: module.training for module in self.nets.modules()}
            rows.append({"step": step, **self.measured(self.encoder.eval())})
            for module, mode in modes.items():
                module.training = mode
            self.write()
        self.seconds += time.perf_counter() - started
        return next(row for row in rows if row["step"] == step)

    def write(self) -> None:
        """Write all rows, those of before a resumption too."""
        rows = self.notes[MONITORS]
        atomic_io.write(self.file, "".join(json.dumps(row) + "\n" for row in rows))

    @torch.no_grad()
    def measured(self, encoder: nn.Module) -> dict[str, float]:
        values = {"rank": effective_rank(self.features(encoder, self.pool))}
        if self.classed:
            f_LD = self.features(encoder, self.labelled)
            # Distances and penalised heads are the same in the span of fewer images than features.
            f_LD = f_LD @ torch.linalg.qr(f_LD.T).Q if len(f_LD) < f_LD.shape[1] else f_LD
            values |= {**probes(f_LD, self.labelled), **clusters(f_LD, self.labelled.y)}
        return {name: round(value, 4) for name, value in values.items()}

    def features(self, encoder: nn.Module, images: Images) -> Tensor:
        rows = torch.arange(len(images)).split(250)
        return torch.cat(
            [encoder(b["x"]).flatten(1).float() for b in images.batches(rows, self.device)]
        )


def in_memory(images: Images) -> Images:
    """The same images decoded into memory, because they are read many times."""
    x = torch.stack([images.raw(row) for row in range(len(images))])
    return Images(x, images.y, images.ids, images.groups)


def effective_rank(f_ND: Tensor) -> float:
    """RankMe, Garrido et al., arXiv:2210.02885, equation 1: exp of the singular values' entropy."""
    f_ND = f_ND.double()
    gram = f_ND @ f_ND.T if len(f_ND) < f_ND.shape[1] else f_ND.T @ f_ND
    singular = torch.linalg.eigvalsh(gram).clamp_min(0).sqrt()
    share = singular / singular.sum().clamp_min(1e-12) + 1e-7
    return float((-(share * share.log()).sum()).exp())


def probes(f_LD: Tensor, labelled: Images) -> dict[str, float]:
    """Cross-validated accuracy of a linear probe and of nearest neighbours.

    Empty if a class has a single label, so that none can be held out.
    """
    y_L, classes = labelled.y.to(f_LD.device), int(labelled.y.max()) + 1
    fewest, _ = splits.scarcest(labelled)
    if fewest < 2:
        return {}
    f_LD = (f_LD - f_LD.mean(0)) / f_LD.std().clamp_min(1e-8)
    correct = {"probe": 0, "knn": 0}
    for k in range(folds := min(5, fewest)):
        train, test = splits.fold(labelled, tuple(map(str, range(classes))), k, folds)
        head = nn.Linear(f_LD.shape[1], classes).to(f_LD.device)
        fit_linear(head, f_LD[train], y_L[train], RIDGE)
        correct["probe"] += int((head(f_LD[test]).argmax(1) == y_L[test]).sum())
        distances = torch.cdist(f_LD[test], f_LD[train])
        nearest = distances.topk(min(NEIGHBOURS, len(train)), largest=False).indices
        correct["knn"] += int((y_L[train][nearest].mode(1).values == y_L[test]).sum())
    return {name: count / len(y_L) for name, count in correct.items()}


def clusters(f_LD: Tensor, y_L: Tensor) -> dict[str, float]:
    """Agreement of k-means clusters of the features with the classes.

    Normalised mutual information and adjusted Rand index (1 for the classes themselves), and the
    accuracy of the best assignment of clusters to classes.
    """
    from scipy.optimize import linear_sum_assignment
    from sklearn.cluster import KMeans
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
    from sklearn.metrics.cluster import contingency_matrix

    y, classes = y_L.numpy(), len(y_L.unique())
    if len(y) < 2 * classes:
        return {}
    cluster = KMeans(classes, n_init=1, random_state=0).fit_predict(f_LD.cpu().numpy())
    table = contingency_matrix(y, cluster)
    rows, columns = linear_sum_assignment(-table)
    return {
        "nmi": float(normalized_mutual_info_score(y, cluster)),
        "ari": float(adjusted_rand_score(y, cluster)),
        "cluster_accuracy": float(table[rows, columns].sum() / len(y)),
    }
