"""Features of a frozen encoder: computed once, shared by all that is fitted on them, and the same numbers as without."""

import json
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from sft_exp.core.deploy import Distillation
from sft_exp.core.tracker import Tracker
from sft_exp.data import splits
from sft_exp.data.images import Images
from sft_exp.data.stored_features import with_features
from sft_exp.encoders.mlp import MLP
from sft_exp.errors import StorageError
from sft_exp.jobs import arms, deployment, prepare
from sft_exp.jobs.stage_requests import Job
from sft_exp.models.feature_extractor import FeatureExtractor
from sft_exp.runs import pipeline
from sft_exp.stages import features
from sft_exp.stages import model as models
from sft_exp.store import collect
from sft_exp.store.requests import plain
from sft_exp.training.context import Context

TINY = (
    "pretrainer=vae", "encoder=conv", "encoder.channels=[4,8]", "pretrain.steps=4",
    "finetune.steps=4", "hardware.device=cpu", "hardware.threads=1", "controls=false", "val=none",
    "draws=2", "seeds=1", "tracker=none",
)  # fmt: skip


@pytest.fixture
def run(experiment, tmp_path):
    """Overrides -> the finished job, with its store in the test's folder."""

    def run_job(*overrides: str, store: str = "store") -> Job:
        made = experiment(*TINY, f"store={tmp_path / store}", *overrides)
        job = prepare.prepare(made)
        pipeline.run(job, Context.on(made.hardware, Tracker()))
        return job

    return run_job


@contextmanager
def counted():
    """Counts the images that pass through encoders, in the first element of the list."""
    images = [0]

    def count(module: nn.Module, inputs: tuple, output: object) -> None:
        if isinstance(module, FeatureExtractor):
            images[0] += len(inputs[0])

    handle = nn.modules.module.register_module_forward_hook(count)
    try:
        yield images
    finally:
        handle.remove()


def outcomes(job: Job) -> list[bytes]:
    """The predictions of all evaluations."""
    return [(r.folder / "predictions.safetensors").read_bytes() for r in job.results["evaluate"]]


def grid(run, *overrides: str) -> list[Job]:
    return [
        run(f"strategy={strategy}", f"labels={labels}", f"seed={seed}", *overrides)
        for strategy in ("linear", "logistic", "svm", "knn", "spread")
        for labels, seed in ((1, 0), (5, 0), (5, 1))
    ]


def test_a_grid_computes_features_once_and_its_repeat_nothing(run, digits):
    pretrained = run("strategy=linear", "labels=1").results["pretrain"][0].folder
    start = ("pretrainer=checkpoint", f"pretrainer.init={pretrained}")
    with counted() as images:
        jobs = grid(run, *start)
    pool = len(splits.everything(digits))
    assert images == [pool + len(digits.test)], "each image once, for all strategies and labels"
    (folder,) = {r.folder for job in jobs for r in job.results["features"]}
    assert np.load(folder / features.FEATURES).shape[0] == pool
    with counted() as images:
        grid(run, *start)
        # Other label counts and draws find the features, too.
        run("strategy=knn", "labels=10", "draws=4", *start)
    assert images == [0]


@pytest.mark.parametrize("strategy", ["linear", "logistic", "svm", "knn", "spread"])
@pytest.mark.sampled(2)
def test_predictions_are_those_on_images(run, strategy, monkeypatch):
    words = (
        f"strategy={strategy}",
        "labels=5",
        "val=holdout" if strategy == "linear" else "val=cv",
    )
    stored = run(*words)
    monkeypatch.setattr(arms, "stores_features", lambda request: False)
    direct = run(*words, store="direct")
    assert stored.requests["features"]
    assert not direct.requests["features"]
    assert outcomes(stored) == outcomes(direct)
    for name in ("labels.json", "training.json", "metrics.jsonl", "validation.json"):
        a, b = (job.results["finetune"][0].folder / name for job in (stored, direct))
        assert a.exists() == b.exists()
        assert not a.exists() or a.read_text() == b.read_text()
    assert [(r.folder / "scores.json").read_text() for r in stored.results["validate"]] == [
        (r.folder / "scores.json").read_text() for r in direct.results["validate"]
    ]


def test_what_is_not_frozen_stores_nothing(experiment):
    for words in (
        ("strategy=full",),
        ("strategy=lora",),
        ("strategy=linear", "task.augment=true"),  # sees other images in each step
        ("strategy=linear", "pretrainer=none"),  # a random encoder is another one in each draw
    ):
        made = experiment(*TINY, *words)
        job = prepare.prepare(made)
        assert not job.requests["features"], words
        assert not any(features.STORED in r for r in job.requests["finetune"])


def test_a_student_of_a_frozen_model_learns_from_images(experiment):
    job = prepare.prepare(experiment(*TINY, "strategy=linear"))
    main = job.requests["finetune"][0]
    assert features.STORED in main
    distillation = Distillation(MLP([16]), 1.0, 0.5, steps=4, lr=1e-3, batch_size=8)
    student = deployment.student_request(job, main, distillation, Path("teacher"))
    assert student["start"] is None
    assert features.STORED not in student


def test_a_killed_computation_goes_on_and_gives_the_same_bits(run, monkeypatch, tmp_path):
    monkeypatch.setattr(models, "BATCH", 16)
    whole = run("strategy=knn", "labels=1").results["features"][0].folder
    encode, left = FeatureExtractor.forward, [20]

    def failing(self, x_BCHW):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return encode(self, x_BCHW)

    monkeypatch.setattr(FeatureExtractor, "forward", failing)
    with pytest.raises(KeyboardInterrupt):
        run("strategy=knn", "labels=1", store="killed")
    monkeypatch.setattr(FeatureExtractor, "forward", encode)
    (progress,) = (tmp_path / "killed").glob(f"work/*/features-*/{features.PROGRESS}")
    assert json.loads(progress.read_text()) == 16 * 16, "of 20 batches two chunks of 8 are kept"
    with counted() as images:
        job = run("strategy=knn", "labels=1", store="killed")
    again, n = job.results["features"][0].folder, len(splits.everything(job.corpus))
    assert images == [n - 16 * 16 + len(job.corpus.test)]
    assert (again / features.FEATURES).read_bytes() == (whole / features.FEATURES).read_bytes()
    assert sorted(f.name for f in again.iterdir()) == sorted(f.name for f in whole.iterdir())


def test_a_resumed_run_starts_inside_any_split(digits):
    """Batches are those of an uninterrupted run, whatever split the finished rows end in."""
    a, b = digits.train.at(torch.arange(7)), digits.train.at(torch.arange(7, 12))
    context = Context.__new__(Context)
    context.device, context.group = torch.device("cpu"), None
    sizes = {}
    for done in (0, 4, 7, 11):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(models, "BATCH", 4)
            parts = features.batches(nn.Flatten(), [a, b], done, context)
            sizes[done] = [len(f) for f in parts]
    assert sizes == {0: [4, 3, 4, 1], 4: [3, 4, 1], 7: [4, 1], 11: [1]}


def test_the_model_of_a_frozen_fine_tuning_is_whole_and_shares_its_encoder(run, tmp_path):
    job = run("strategy=logistic", "labels=5")
    folder = job.results["finetune"][0].folder
    start = job.requests["finetune"][0]["start"]
    assert (folder / models.ENCODER).samefile(start / models.ENCODER), "no second copy on disk"
    saved = models.transfer.read_own(folder / "model.safetensors")
    assert not any(name.startswith("encoder.") for name in saved)
    model, draw = models.load(folder), splits.make(job.corpus, job.labels, 0)
    x_BCHW = draw.test.floats(torch.arange(len(draw.test)), torch.device("cpu"))
    recorded = models.transfer.read_own(
        job.results["evaluate"][0].folder / "predictions.safetensors"
    )
    assert torch.equal(model.predict(x_BCHW).argmax(1).to(torch.int16), recorded["predicted"])
    # A run that names the fine-tuning alone keeps everything that it was made from.
    needed = collect.reachable(tmp_path / "store", {folder.name})
    assert {r.folder.name for r in job.results["features"]} | {start.name} <= needed


def test_folds_and_unlabelled_images_have_features(digits, tmp_path):
    train, extra = digits.train.at(torch.arange(40)), digits.train.at(torch.arange(40, 60))
    corpus = replace(digits, train=train, extra=extra, test=None)
    f_ND = np.arange(120, dtype=np.float32).reshape(60, 2)
    np.save(tmp_path / features.FEATURES, f_ND)
    (tmp_path / features.IDS).write_text(json.dumps([*train.ids, *extra.ids]))
    of = with_features(corpus, tmp_path)
    joined = splits.join(of.train, of.extra)
    assert joined.x is of.train.x, "joining copies nothing"
    for images, first in ((of.train, 0), (of.extra, 40), (joined, 0)):
        rows = torch.arange(len(images))
        values = images.floats(rows, torch.device("cpu"))
        assert torch.equal(values, torch.from_numpy(f_ND[first : first + len(images)]))
    _, tested = splits.fold(train, digits.classes, 0)
    assert torch.equal(of.train.at(tested).raw(0), torch.from_numpy(f_ND[int(tested[0])]))


@pytest.mark.parametrize("change", ["order", "missing", "other"])
def test_features_of_other_images_are_refused(digits, tmp_path, change):
    np.save(tmp_path / features.FEATURES, np.zeros((len(digits.train), 2), dtype=np.float32))
    ids = list(digits.train.ids)
    changed = {"order": ids[::-1], "missing": ids[1:], "other": ["x", *ids[1:]]}[change]
    (tmp_path / features.IDS).write_text(json.dumps(changed))
    with pytest.raises(StorageError, match="of other images"):
        with_features(digits, tmp_path)


def test_targets_stay_with_their_images(digits, tmp_path):
    value_NK = torch.arange(20.0)[:, None]
    rows = torch.arange(10, 20)
    train = Images(digits.train.x, digits.train.y, digits.train.ids, targets={"value": value_NK})
    train = train.at(rows)
    np.save(tmp_path / features.FEATURES, np.arange(10, dtype=np.float32)[:, None])
    (tmp_path / features.IDS).write_text(json.dumps(train.ids))
    of = with_features(replace(digits, train=train, extra=None), tmp_path).train.at(
        torch.tensor([3])
    )
    (batch,) = of.batches([torch.tensor([0])], torch.device("cpu"))
    assert (batch["x"].item(), batch["value"].item()) == (3.0, 13.0)


def test_the_key_is_weights_preparation_maps_and_images(experiment):
    def key(*words: str) -> list[object]:
        job = prepare.prepare(experiment(*TINY, "strategy=knn", *words))
        (request,) = job.requests["features"]
        return [plain(request)]

    first = key()
    for same in (("strategy=svm",), ("labels=7",), ("draws=5",), ("task.ridge=0.5",)):
        assert key(*same) == first, same
    for other in (
        ("pretrain.steps=5",),
        ("encoder.size=12",),
        ("encoder.mean=[0.5]", "encoder.std=[0.5]"),
        ("features.maps=[0]",),
        ("seed=1",),  # of the pretraining
    ):
        assert key(*other) != first, other
