"""Mean teacher for numbers: agree with a running mean of oneself on unlabelled images. Tarvainen & Valpola, arXiv:1703.01780,
section 2, with a squared error in the place of the cross-entropy.

Loss: error of the labels + w(t) |student(u) - teacher(u')|^2 of numbers on the scale of the labels' spread, a mean over the
unlabelled images and numbers; w rises as exp(-5 (1 - t)^2). The teacher, which starts as the student does and is never
trained, is what predicts.
"""

from dataclasses import dataclass, field
from math import exp
from typing import ClassVar

import torch
import torch.nn.functional as F

from sft_exp.augment import view
from sft_exp.errors import require
from sft_exp.experiment import Views
from sft_exp.heads import classifier, regressor
from sft_exp.nets import follow_all, teacher_of


@dataclass
class MeanTeacherNumbers(regressor.Numbers):
    pools: ClassVar[dict[str, int]] = {"labelled": 1, "unlabelled": 5}
    per_row: ClassVar[bool] = False  # rows of two pools

    error: str = "mse"  # mse, or huber, which an outlier moves less
    head: str = "probe"  # where the head starts: probe (ridge regression on the frozen features), random (PyTorch's default)
    ridge: float = 1e-2  # weight of the squared norm in that fit
    standardise: str = "common"  # features to mean 0 and spread 1: common (one scale for all), each, none
    augment: bool = False  # the student sees the views of the group `augment`; else a shifted image, as the teacher does
    views: dict = field(default_factory=lambda: {})  # fields of that group, whose option it takes
    decay: float = 0.99  # of the teacher, a step
    weight: float = 1.0  # of the disagreement at the end
    ramp: float = 0.3  # share of the steps over which that weight rises
    shift: float = 0.07  # of shifted images, as a share of the image's size

    def __post_init__(self):
        regressor.check(self)
        require(0 <= self.decay < 1, "decay", self.decay, "from 0 to below 1")
        require(self.weight >= 0, "weight", self.weight, "0 or more")
        require(0 <= self.ramp <= 1, "ramp", self.ramp, "from 0 to 1")
        require(0 <= self.shift <= 1, "shift", self.shift, "from 0 to 1")
        self.views = self.views if self.augment else {}
        self.how = Views(**self.views)
        self.shifted = classifier.weak(self.how, self.shift)
        self.seen = self.how if self.augment else self.shifted

    def alters(self):
        return True

    def networks(self, encoder, spec):
        nets = regressor.networks(encoder, spec)
        nets["teacher"] = teacher_of(nets)
        return nets

    def prepare(self, nets, data):
        regressor.prepare(self, nets, data)
        nets["teacher"]["units"].load_state_dict(nets["units"].state_dict())
        self.teach(nets, decay=0.0)

    def draw(self, batch, rng, progress):
        x_BCHW, u_NCHW = batch["labelled"]["x"], batch["unlabelled"]["x"]
        rise = 1.0 if progress >= self.ramp else exp(-5 * (1 - progress / self.ramp) ** 2)
        weight = torch.tensor(self.weight * rise, device=x_BCHW.device)
        views = view(x_BCHW, self.seen, rng), view(u_NCHW, self.shifted, rng), view(u_NCHW, self.seen, rng)
        return views[0], batch["labelled"]["value"], *views[1:], weight

    def loss(self, nets, x_BCHW, value_BK, weak_NCHW, seen_NCHW, weight):
        with torch.no_grad():
            target_NK = regressor.told(nets["teacher"], weak_NCHW)  # by the batch's statistics: docs/decisions/0013
        told = regressor.told(nets, torch.cat([x_BCHW, seen_NCHW]))  # at once: BatchNorm must see one mixture
        told_BK, told_NK = told.split([len(x_BCHW), len(seen_NCHW)])
        true_BK = nets["units"].inverse(value_BK)
        known = regressor.error(self, told_BK, true_BK)
        apart = F.mse_loss(told_NK, target_NK)
        return known + weight * apart, {"labels": known, "disagreement": apart, "mae": (told_BK - true_BK).abs().mean()}

    def after(self, nets, *drawn):
        self.teach(nets, self.decay)

    def teach(self, nets, decay):
        for part in ("encoder", "scale", "head"):
            follow_all(nets["teacher"][part], nets[part], decay)

    def predict(self, nets, x_BCHW):
        """-> numbers in their units [B, K], of the teacher, at rest"""
        teacher = nets["teacher"].eval()
        return teacher["units"](regressor.told(teacher, x_BCHW))
