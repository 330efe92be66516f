"""What pretraining makes of the features, looked at while it works: how much a probe could read off, how many dimensions
are used, how the images cluster. Looking changes no bit of what is trained.

Probes use labels inside the budget alone, and hold some of them out in turn. Every number has its floor: the same of the
raw pixels, and of the encoder before its first step.
"""

import json
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sft_exp.core.rng import stream
from sft_exp.data import splits
from sft_exp.data.images import Images
from sft_exp.models.heads.fitted import fit_linear
from sft_exp.store import atomic_io
from sft_exp.store.store import Request
from sft_exp.training.context import Context
from sft_exp.training.metrics_log import MONITORS

LOOKS = 4  # times while pretraining, after a first one at the start
ROWS = 1_000  # images of the pool whose features are looked at
PROBED = 500  # labelled images at most
NEIGHBOURS = 5
RIDGE = 1e-2


class Monitor:
    """monitors.jsonl: one row a look, the floors of the pixels first. `seconds` is what all looks cost."""

    def __init__(
        self,
        folder: Path,
        request: Request,
        encoder: nn.Module,
        nets: nn.Module,
        pool: Images,
        ctx: Context,
        previous: Path | None,
    ):
        """`request` names the data set, the labels inside the budget and their draw; `previous` as for `fit`."""
        draw = splits.make(ctx.corpus(request["dataset"]), request["labels"], request["draw"])
        few = torch.randperm(len(draw.labelled), generator=stream("monitor"))[:PROBED]
        some = torch.randperm(len(pool), generator=stream("monitor"))[:ROWS]
        self.file, self.encoder, self.nets, self.device = (
            folder / MONITORS,
            encoder,
            nets,
            ctx.device,
        )
        self.labelled, self.pool, self.labels = (
            held(draw.labelled.at(few)),
            held(pool.at(some)),
            str(request["labels"]),
        )
        # else there is nothing to read off
        self.classed = len(ctx.corpus(request["dataset"]).strata) > 1
        earlier = next(
            (f for f in (self.file, previous and previous / MONITORS) if f and f.exists()), None
        )
        rows = [json.loads(line) for line in earlier.read_text().splitlines()] if earlier else []
        self.rows: dict[int | None, dict[str, Any]] = {row["step"]: row for row in rows}
        self.seconds = 0.0

    def look(self, step: int) -> dict[str, Any]:
        """The row of the features after `step` steps; one that was looked at before a training was killed stands."""
        started = time.perf_counter()
        if None not in self.rows:
            self.rows[None] = {"step": None, "labels": self.labels, **self.measured(nn.Flatten())}
        if step not in self.rows:
            modes = {module: module.training for module in self.nets.modules()}
            self.rows[step] = {"step": step, **self.measured(self.encoder.eval())}
            for module, mode in modes.items():
                module.training = mode
            atomic_io.write(
                self.file, "".join(json.dumps(row) + "\n" for row in self.rows.values())
            )
        self.seconds += time.perf_counter() - started
        return self.rows[step]

    @torch.no_grad()
    def measured(self, encoder: nn.Module) -> dict[str, float]:
        found = {"rank": effective_rank(self.features(encoder, self.pool))}
        if self.classed:
            f_LD = self.features(encoder, self.labelled)
            found |= {**probes(f_LD, self.labelled), **clusters(f_LD, self.labelled.y)}
        return {k: round(v, 4) for k, v in found.items()}

    def features(self, encoder: nn.Module, images: Images) -> Tensor:
        rows = torch.arange(len(images)).split(250)
        return torch.cat(
            [encoder(b["x"]).flatten(1).float() for b in images.batches(rows, self.device)]
        )


def held(images: Images) -> Images:
    """The same, in memory: what is looked at again and again is decoded once."""
    x = torch.stack([images.raw(row) for row in range(len(images))])
    return Images(x, images.y, images.ids, images.groups)


def effective_rank(f_ND: Tensor) -> float:
    """RankMe, Garrido et al., arXiv:2210.02885, equation 1: exp of the entropy of the singular values' shares."""
    f_ND = f_ND.double()
    gram = f_ND @ f_ND.T if len(f_ND) < f_ND.shape[1] else f_ND.T @ f_ND
    singular = torch.linalg.eigvalsh(gram).clamp_min(0).sqrt()
    share = singular / singular.sum().clamp_min(1e-12) + 1e-7
    return float((-(share * share.log()).sum()).exp())


def probes(f_LD: Tensor, labelled: Images) -> dict[str, float]:
    """Accuracy of a linear probe and of the nearest neighbours, each label held out once; nothing where none can be."""
    y_L, classes = labelled.y.to(f_LD.device), int(labelled.y.max()) + 1
    fewest, _ = splits.scarcest(labelled)
    if fewest < 2:
        return {}
    f_LD = (f_LD - f_LD.mean(0)) / f_LD.std().clamp_min(1e-8)
    right = {"probe": 0, "knn": 0}
    for k in range(folds := min(5, fewest)):
        known, held = splits.fold(labelled, tuple(map(str, range(classes))), k, folds)
        head = nn.Linear(f_LD.shape[1], classes).to(f_LD.device)
        fit_linear(head, f_LD[known], y_L[known], RIDGE)
        right["probe"] += int((head(f_LD[held]).argmax(1) == y_L[held]).sum())
        near = (
            torch.cdist(f_LD[held], f_LD[known])
            .topk(min(NEIGHBOURS, len(known)), largest=False)
            .indices
        )
        right["knn"] += int((y_L[known][near].mode(1).values == y_L[held]).sum())
    return {name: count / len(y_L) for name, count in right.items()}


def clusters(f_LD: Tensor, y_L: Tensor) -> dict[str, float]:
    """How well k-means of the features, told of no label, falls together with the classes: mutual information and Rand
    index (both 0 for chance, 1 for the classes themselves), and the accuracy of the best naming of the clusters."""
    from scipy.optimize import linear_sum_assignment
    from sklearn.cluster import KMeans
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
    from sklearn.metrics.cluster import contingency_matrix

    y, classes = y_L.numpy(), len(y_L.unique())
    if len(y) < 2 * classes:
        return {}
    found = KMeans(classes, n_init=1, random_state=0).fit_predict(f_LD.cpu().numpy())
    table = contingency_matrix(y, found)
    rows, columns = linear_sum_assignment(-table)
    return {
        "nmi": float(normalized_mutual_info_score(y, found)),
        "ari": float(adjusted_rand_score(y, found)),
        "cluster_accuracy": float(table[rows, columns].sum() / len(y)),
    }
