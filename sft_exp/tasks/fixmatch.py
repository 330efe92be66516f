"""FixMatch: confident predictions for weak views are the labels of strong views.

Sohn et al., arXiv:2001.07685, equations 3 and 4. Loss:
    H(y, p(weak x)) + weight * mean[max q(u) >= threshold] H(argmax q(u), p(strong u)),
where q(u) = p(weak u). With align=true q(u) ~ p(weak u) * (share of the class among the labels /
its running share among p(weak u)): distribution alignment, Berthelot et al., arXiv:1911.09785,
section 3.1.
"""

from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch.nn.functional import normalize

from sft_exp.config.schema import AugmentConfig
from sft_exp.core.comm import gather
from sft_exp.core.task import Task
from sft_exp.data.augment import view
from sft_exp.errors import require
from sft_exp.models.batchnorm import statistics_kept
from sft_exp.models.ema import StateBuffer
from sft_exp.models.heads import classifier
from sft_exp.tasks.classify import of_labels_alone

SHARE_MOMENTUM = 0.99  # of the EMA of the pseudo-labels' class shares


@dataclass
class FixMatch(Task):
    pools: ClassVar[dict[str, int]] = {"labelled": 1, "unlabelled": 5}
    per_row: ClassVar[bool] = False  # the loss mixes examples of two pools

    # start of the head: probe (fitted on labelled frozen features) or random (PyTorch's default)
    head: str = "probe"
    ridge: float = 1e-2  # L2 weight of the probe
    # features to mean 0, sd 1: common (one scale for all), each or none
    standardise: str = "common"
    threshold: float = 0.95  # probability from which a prediction becomes a pseudo-label
    weight: float = 1.0  # of the pseudo-labels' loss
    # align pseudo-labels with the labels' class shares: right if labels are drawn as images are
    align: bool = False
    # views of labelled images: weak (the paper's) or strong (better with very few labels)
    labelled: str = "weak"
    shift: float = 0.07  # of weak views, as a share of the image's size
    cutout: float = 1.0  # probability of a cutout in strong views
    # strong views: fields of the group `augment`
    views: dict = field(default_factory=lambda: {})

    def __post_init__(self):
        classifier.check(self)
        require(0 <= self.threshold < 1, "threshold", self.threshold, "from 0 to below 1")
        require(self.weight >= 0, "weight", self.weight, "0 or more")
        require(self.labelled in ("weak", "strong"), "labelled", self.labelled, "weak or strong")
        require(0 <= self.shift <= 1, "shift", self.shift, "from 0 to 1")
        require(0 <= self.cutout <= 1, "cutout", self.cutout, "a chance from 0 to 1")
        self.strong = replace(AugmentConfig.of(self.views), cutout=self.cutout)
        self.weak = classifier.weak(self.strong, self.shift)
        self.labelled_views = self.weak if self.labelled == "weak" else self.strong

    def alters(self):
        return True

    def networks(self, encoder, spec):
        nets = classifier.networks(encoder, spec)
        if self.align:
            even_Y = torch.full((len(spec.classes),), 1 / len(spec.classes))
            nets.update({"known": StateBuffer(even_Y), "guessed": StateBuffer(even_Y.clone())})
        return nets

    def prepare(self, nets, data):
        classifier.prepare(self, nets, data)
        if self.align:
            share_Y = data["y"].bincount(minlength=len(nets["known"].value)) / len(data["y"])
            nets["known"].value.copy_(share_Y)
            nets["guessed"].value.copy_(share_Y)

    def draw(self, batch, rng, progress):
        x_BCHW, u_MCHW = batch["labelled"]["x"], batch["unlabelled"]["x"]
        return (
            view(x_BCHW, self.labelled_views, rng),
            batch["labelled"]["y"],
            view(u_MCHW, self.weak, rng),
            view(u_MCHW, self.strong, rng),
        )

    def loss(self, nets, x_BCHW, y_B, weak_MCHW, strong_MCHW):
        sizes = [len(x_BCHW), len(weak_MCHW), len(strong_MCHW)]
        # in one batch, because BatchNorm must see one mixture
        logits_NY = self.predict(nets, torch.cat([x_BCHW, weak_MCHW, strong_MCHW]))
        logits_BY, weak_MY, strong_MY = logits_NY.split(sizes)
        q_MY = weak_MY.detach().softmax(1)
        if self.align:
            q_MY = normalize(q_MY * nets["known"].value / nets["guessed"].value, p=1, dim=1)
        confidence_M, pseudo_M = q_MY.max(1)
        mask_M = (confidence_M >= self.threshold).float()
        labelled_loss = F.cross_entropy(logits_BY, y_B)
        pseudo_loss = (F.cross_entropy(strong_MY, pseudo_M, reduction="none") * mask_M).mean()
        return labelled_loss + self.weight * pseudo_loss, {
            "labels": labelled_loss,
            "guesses": pseudo_loss,
            "kept": mask_M.mean(),
            "accuracy": classifier.accuracy(logits_BY, y_B),
        }

    def on_step_end(self, nets, x_BCHW, y_B, weak_MCHW, strong_MCHW):
        if self.align:
            with statistics_kept(nets):
                share_Y = gather(self.predict(nets, weak_MCHW).softmax(1)).mean(0)
            nets["guessed"].value.lerp_(share_Y, 1 - SHARE_MOMENTUM)

    def predict(self, nets, x_BCHW):
        """-> logits [B, Y]"""
        return classifier.logits(nets, x_BCHW)

    def supervised(self):
        return of_labels_alone(self)

    def metrics(self, spec):
        return classifier.metrics(spec)
