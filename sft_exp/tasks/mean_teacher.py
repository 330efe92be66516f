"""Mean teacher: agree with a running mean of oneself on unlabelled images. Tarvainen & Valpola, arXiv:1703.01780, section 2.

Loss: cross-entropy of the labels + w(t) |softmax(student(u)) - softmax(teacher(u'))|^2 over all images, w rising as
exp(-5 (1 - t)^2). The teacher, which starts as the student does and is never trained, is what predicts.
"""

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F

from sft_exp.config.schema import AugmentConfig
from sft_exp.models.heads import classifier, teacher
from sft_exp.tasks.classify import of_labels_alone


@dataclass
class MeanTeacher(teacher.MeanTeacherTask):
    # where the head starts: probe (fitted on the labels' frozen features), random (PyTorch's
    # default)
    head: str = "probe"
    ridge: float = 1e-2  # weight of the squared norm in that fit
    # features to mean 0 and spread 1: common (one scale for all), each, none
    standardise: str = "common"
    decay: float = 0.99  # of the teacher, a step
    weight: float = 10.0  # of the disagreement at the end
    ramp: float = 0.3  # share of the steps over which that weight rises
    # the student sees the views of the group `augment`; else a shifted image, as the teacher does
    strong: bool = False
    shift: float = 0.07  # of that, as a share of the image's size
    # fields of the group `augment`, whose option it takes
    views: dict = field(default_factory=lambda: {})

    def __post_init__(self):
        classifier.check(self)
        teacher.check(self)
        how = AugmentConfig(**self.views)
        self.shifted = classifier.weak(how, self.shift)
        self.seen = how if self.strong else self.shifted

    def networks(self, encoder, spec):
        return teacher.beside(classifier.networks(encoder, spec))

    def prepare(self, nets, data):
        classifier.prepare(self, nets, data)
        teacher.teach(nets, decay=0.0)

    def loss(self, nets, x_BCHW, y_B, weak_MCHW, seen_MCHW, weight):
        with torch.no_grad():
            target_MY = self.predict(nets, weak_MCHW).softmax(1)
        student_BY, student_MY = classifier.logits(nets, torch.cat([x_BCHW, seen_MCHW])).split(
            [len(x_BCHW), len(seen_MCHW)]
        )
        known = F.cross_entropy(student_BY, y_B)
        apart = (student_MY.softmax(1) - target_MY).square().sum(1).mean()
        shown = {
            "labels": known,
            "disagreement": apart,
            "accuracy": classifier.accuracy(student_BY, y_B),
        }
        return known + weight * apart, shown

    def predict(self, nets, x_BCHW):
        """-> logits [B, Y] of the teacher, at rest"""
        return classifier.logits(nets["teacher"].eval(), x_BCHW)

    def supervised(self):
        return of_labels_alone(self)

    def metrics(self, spec):
        return classifier.metrics(spec)
