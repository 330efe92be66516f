"""Mean teacher for numbers: agree with a running mean of oneself on unlabelled images. Tarvainen & Valpola, arXiv:1703.01780,
section 2, with a squared error in the place of the cross-entropy.

Loss: error of the labels + w(t) |student(u) - teacher(u')|^2 of numbers on the scale of the labels' spread, a mean over the
unlabelled images and numbers; w rises as exp(-5 (1 - t)^2). The teacher, which starts as the student does and is never
trained, is what predicts.
"""

from dataclasses import asdict, dataclass, field, fields
from typing import ClassVar

import torch
import torch.nn.functional as F

from sft_exp.config.schema import AugmentConfig
from sft_exp.models.heads import classifier, regressor, teacher
from sft_exp.tasks.regress import Regress


@dataclass
class MeanTeacherNumbers(teacher.MeanTeacherTask, regressor.Numbers):
    label: ClassVar[str] = "value"

    error: str = "mse"  # mse, or huber, which an outlier moves less
    # where the head starts: probe (ridge regression on the frozen features), random (PyTorch's
    # default)
    head: str = "probe"
    ridge: float = 1e-2  # weight of the squared norm in that fit
    # features to mean 0 and spread 1: common (one scale for all), each, none
    standardise: str = "common"
    # the student sees the views of the group `augment`; else a shifted image, as the teacher does
    augment: bool = False
    views: dict = field(default_factory=lambda: {})  # fields of that group, whose option it takes
    decay: float = 0.99  # of the teacher, a step
    weight: float = 1.0  # of the disagreement at the end
    ramp: float = 0.3  # share of the steps over which that weight rises
    shift: float = 0.07  # of shifted images, as a share of the image's size

    def __post_init__(self):
        regressor.check(self)
        teacher.check(self)
        self.views = self.views if self.augment else {}
        self.how = AugmentConfig(**self.views)
        self.shifted = classifier.weak(self.how, self.shift)
        self.seen = self.how if self.augment else self.shifted

    def supervised(self):
        shared = {f.name: getattr(self, f.name) for f in fields(Regress)}
        return Regress(**{**shared, "augment": True, "views": asdict(self.seen)})

    def networks(self, encoder, spec):
        return teacher.beside(regressor.networks(encoder, spec))

    def prepare(self, nets, data):
        regressor.prepare(self, nets, data)
        nets["teacher"]["units"].load_state_dict(nets["units"].state_dict())
        teacher.teach(nets, decay=0.0)

    def loss(self, nets, x_BCHW, value_BK, weak_NCHW, seen_NCHW, weight):
        with torch.no_grad():
            # by the batch's statistics: docs/decisions/0013
            target_NK = regressor.told(nets["teacher"], weak_NCHW)
        # at once: BatchNorm must see one mixture
        told = regressor.told(nets, torch.cat([x_BCHW, seen_NCHW]))
        told_BK, told_NK = told.split([len(x_BCHW), len(seen_NCHW)])
        true_BK = nets["units"].inverse(value_BK)
        known = regressor.error(self, told_BK, true_BK)
        apart = F.mse_loss(told_NK, target_NK)
        return known + weight * apart, {
            "labels": known,
            "disagreement": apart,
            "mae": (told_BK - true_BK).abs().mean(),
        }

    def predict(self, nets, x_BCHW):
        """-> numbers in their units [B, K], of the teacher, at rest"""
        taught = nets["teacher"].eval()
        return taught["units"](regressor.told(taught, x_BCHW))
