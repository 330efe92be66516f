"""Mean teacher for regression: consistency with an EMA of the student on unlabelled images.

Tarvainen & Valpola, arXiv:1703.01780, section 2, with a regression error for the cross-entropy.
Loss: error of the labels + w(t) |student(u) - teacher(u')|^2 of standardised numbers, a mean over
the unlabelled images and numbers, with w rising as exp(-5 (1 - t)^2). The teacher starts as a copy
of the student, receives no gradient, and is the model that predicts.
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

    error: str = "mse"  # mse, or huber, which is less sensitive to outliers
    # start of the head: probe (ridge regression on frozen features) or random (PyTorch's default)
    head: str = "probe"
    ridge: float = 1e-2  # L2 weight of the probe
    # features to mean 0, sd 1: common (one scale for all), each or none
    standardise: str = "common"
    # give the student views of the group `augment`; else shifted images, as the teacher gets
    augment: bool = False
    views: dict = field(default_factory=lambda: {})  # fields of the group `augment`
    decay: float = 0.99  # of the teacher's EMA, per step
    weight: float = 1.0  # final weight of the consistency loss
    ramp: float = 0.3  # share of the steps over which that weight rises
    shift: float = 0.07  # of shifted images, as a share of the image's size

    def __post_init__(self):
        regressor.check(self)
        teacher.check(self)
        self.views = self.views if self.augment else {}
        self.how = AugmentConfig.of(self.views)
        self.shifted = classifier.weak(self.how, self.shift)
        self.seen = self.how if self.augment else self.shifted

    def supervised(self):
        shared = {f.name: getattr(self, f.name) for f in fields(Regress)}
        return Regress(**{**shared, "augment": True, "views": asdict(self.seen)})

    def networks(self, encoder, spec):
        return teacher.with_teacher(regressor.networks(encoder, spec))

    def prepare(self, nets, data):
        regressor.prepare(self, nets, data)
        nets["teacher"]["units"].load_state_dict(nets["units"].state_dict())
        teacher.teach(nets, decay=0.0)

    def loss(self, nets, x_BCHW, value_BK, weak_NCHW, seen_NCHW, weight):
        with torch.no_grad():
            # with the batch's statistics: docs/decisions/0013
            target_NK = regressor.predict_scaled(nets["teacher"], weak_NCHW)
        # in one batch, because BatchNorm must see one mixture
        student = regressor.predict_scaled(nets, torch.cat([x_BCHW, seen_NCHW]))
        student_BK, student_NK = student.split([len(x_BCHW), len(seen_NCHW)])
        true_BK = nets["units"].inverse(value_BK)
        labelled_loss = regressor.error(self, student_BK, true_BK)
        consistency = F.mse_loss(student_NK, target_NK)
        return labelled_loss + weight * consistency, {
            "labels": labelled_loss,
            "disagreement": consistency,
            "mae": (student_BK - true_BK).abs().mean(),
        }

    def predict(self, nets, x_BCHW):
        """-> the teacher's numbers in their units [B, K], in eval mode"""
        mean_teacher = nets["teacher"].eval()
        return mean_teacher["units"](regressor.predict_scaled(mean_teacher, x_BCHW))
