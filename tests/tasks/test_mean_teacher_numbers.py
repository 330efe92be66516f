"""Mean teacher for regression: the loss by hand, and complete runs."""

from dataclasses import asdict

import pytest
import torch

from sft_exp.core import arms
from sft_exp.core.rng import stream
from sft_exp.core.tracker import Tracker
from sft_exp.core.types import Spec
from sft_exp.data import splits
from sft_exp.encoders.mlp import MLP
from sft_exp.errors import ConfigError
from sft_exp.jobs import prepare
from sft_exp.models.feature_extractor import FeatureExtractor
from sft_exp.models.heads import regressor
from sft_exp.stages import finetune
from sft_exp.tasks.mean_teacher_numbers import MeanTeacherNumbers
from sft_exp.tasks.regress import Regress
from sft_exp.training.context import Context

SPEC = Spec((1, 8, 8), (), {"value": ("a", "b")})
PAIRS = ["dataset=digit_pairs", "task=mean_teacher_numbers", "encoder=mlp", "encoder.hidden=[16,8]",
         "pretrainer=none", "dataset.train=60",
         "dataset.test=20", "labels_total=20", "draws=1", "val=none", "tracker=none", "finetune.steps=3"]  # fmt: skip


@pytest.fixture
def started():
    torch.manual_seed(0)
    task = MeanTeacherNumbers(weight=2.0, ramp=0.5, decay=0.9)
    nets = task.networks(
        FeatureExtractor(MLP([16, 8]).build(SPEC.image), [-1], "avg", 1, SPEC.image), SPEC
    )
    x_NCHW, value_NK = torch.rand(24, 1, 8, 8), 100 + 10 * torch.randn(24, 2)
    with torch.no_grad():
        f_ND = nets["encoder"](x_NCHW)
        task.prepare(nets, {"f": f_ND, "value": value_NK, "pool": f_ND})
    batch = {"labelled": {"x": x_NCHW[:4], "value": value_NK[:4]}, "unlabelled": {"x": x_NCHW[4:]}}
    return task, nets, batch


def test_the_teacher_starts_as_the_student_and_predicts_in_the_labels_units(started):
    task, nets, batch = started
    x = batch["labelled"]["x"]
    student = nets["units"](regressor.predict_scaled(nets, x))
    assert torch.equal(task.predict(nets, x), student)
    assert 60 < student.mean() < 140


def test_loss_is_the_error_and_the_rising_weight_times_the_disagreement(started):
    task, nets, batch = started
    with torch.no_grad():
        nets["teacher"]["head"].bias += 0.5  # of the labels' spread
    drawn = task.draw(batch, stream(0), 0.25)
    x, value, weak, seen, weight = drawn
    assert weight.item() == pytest.approx(2.0 * torch.tensor(-1.25).exp().item())
    loss, logged = task.loss(nets, *drawn)
    true = (value - nets["units"].mean) / nets["units"].sd
    known = (regressor.predict_scaled(nets, x) - true).square().mean()
    target = (task.predict(nets, weak) - nets["units"].mean) / nets["units"].sd
    apart = (regressor.predict_scaled(nets, seen) - target).square().mean()
    assert loss.item() == pytest.approx((known + weight * apart).item(), rel=1e-5)
    assert logged["disagreement"].item() == pytest.approx(apart.item(), rel=1e-5)


def test_the_teacher_follows_and_no_gradient_reaches_it(started):
    task, nets, batch = started
    drawn = task.draw(batch, stream(0), 1.0)
    task.loss(nets, *drawn)[0].backward()
    assert all(p.grad is None for p in nets["teacher"].parameters())
    before = nets["teacher"]["head"].bias.clone()
    with torch.no_grad():
        nets["head"].bias += 1
        task.on_step_end(nets, *drawn)
    assert torch.allclose(nets["teacher"]["head"].bias, before + 0.1, atol=1e-6)


def test_it_is_given_images_without_their_numbers_and_beside_it_labels_alone(experiment, tmp_path):
    e = experiment(*PAIRS, f"store={tmp_path}")
    job = prepare.prepare(e)
    assert arms.LABELS_ONLY in job.arms
    (alone,) = {type(job.requests["finetune"][i]["task"]) for i in job.arms[arms.LABELS_ONLY]}
    assert alone is Regress
    request = job.requests["finetune"][job.arms[arms.LABELS_ONLY][0]]
    assert request["task"].augment
    assert asdict(request["task"].how) == asdict(e.task.seen), "the same views of labelled images"
    main, ctx = job.requests["finetune"][job.arms[arms.MAIN][0]], Context.on(e.hardware, Tracker())
    draw = splits.make(job.corpus, main["labels"], 0)
    _, data, _, _ = finetune.ready(main, ctx, draw.labelled, draw.pool, "all")
    (batch,) = data["unlabelled"].batches([torch.arange(5)], torch.device("cpu"))
    assert "value" not in batch


@pytest.mark.parametrize("field", ["decay", "ramp", "shift"])
def test_what_cannot_be_is_refused(field):
    with pytest.raises(ConfigError, match=field):
        MeanTeacherNumbers(**{field: 1.5})
