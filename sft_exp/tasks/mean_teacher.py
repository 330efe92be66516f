"""Mean teacher: consistency with an EMA of the student. Tarvainen & Valpola, arXiv:1703.01780.

Loss (section 2): cross-entropy of the labels + w(t) |softmax(student(u)) - softmax(teacher(u'))|^2
over all images, with w rising as exp(-5 (1 - t)^2). The teacher starts as a copy of the student,
receives no gradient, and is the model that predicts.
"""

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F

from sft_exp.config.schema import AugmentConfig
from sft_exp.models.heads import classifier, teacher
from sft_exp.tasks.classify import of_labels_alone


@dataclass
class MeanTeacher(teacher.MeanTeacherTask):
    # start of the head: probe (fitted on labelled frozen features) or random (PyTorch's default)
    head: str = "probe"
    ridge: float = 1e-2  # L2 weight of the probe
    # features to mean 0, sd 1: common (one scale for all), each or none
    standardise: str = "common"
    decay: float = 0.99  # of the teacher's EMA, per step
    weight: float = 10.0  # final weight of the consistency loss
    ramp: float = 0.3  # share of the steps over which that weight rises
    # give the student views of the group `augment`; else shifted images, as the teacher gets
    strong: bool = False
    shift: float = 0.07  # of shifted images, as a share of the image's size
    # fields of the group `augment`
    views: dict = field(default_factory=lambda: {})

    def __post_init__(self):
        classifier.check(self)
        teacher.check(self)
        how = AugmentConfig.of(self.views)
        self.shifted = classifier.weak(how, self.shift)
        self.seen = how if self.strong else self.shifted

    def networks(self, encoder, spec):
        return teacher.with_teacher(classifier.networks(encoder, spec))

    def prepare(self, nets, data):
        classifier.prepare(self, nets, data)
        teacher.teach(nets, decay=0.0)

    def loss(self, nets, x_BCHW, y_B, weak_MCHW, seen_MCHW, weight):
        with torch.no_grad():
            target_MY = self.predict(nets, weak_MCHW).softmax(1)
        student_BY, student_MY = classifier.logits(nets, torch.cat([x_BCHW, seen_MCHW])).split(
            [len(x_BCHW), len(seen_MCHW)]
        )
        labelled_loss = F.cross_entropy(student_BY, y_B)
        consistency = (student_MY.softmax(1) - target_MY).square().sum(1).mean()
        return labelled_loss + weight * consistency, {
            "labels": labelled_loss,
            "disagreement": consistency,
            "accuracy": classifier.accuracy(student_BY, y_B),
        }

    def predict(self, nets, x_BCHW):
        """-> logits [B, Y] of the teacher in eval mode"""
        return classifier.logits(nets["teacher"].eval(), x_BCHW)

    def supervised(self):
        return of_labels_alone(self)

    def metrics(self, spec):
        return classifier.metrics(spec)
