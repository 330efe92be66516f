"""Test images reach evaluations only: changing them changes no other byte of the store."""

import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch

from sft_exp.config.build import experiment
from sft_exp.config.compose import compose
from sft_exp.core.rng import stream
from sft_exp.data.corpus import fingerprint
from sft_exp.datasets.digits import Digits
from sft_exp.jobs import prepare
from sft_exp.runs import pipeline
from sft_exp.store import atomic_io
from sft_exp.training import context
from sft_exp.training.context import Context

TINY = (
    "tracker=none", "encoder.hidden=[16]", "pretrain.steps=4", "finetune.steps=4", "draws=2",
    "seeds=1", "labels=3", "hardware.threads=1",
)  # fmt: skip
# the manifest of the test images, their features, and what is made of them
MAY_CHANGE = ("test-", "test_features-", "evaluate-", "likelihood-")


def contents(store: Path) -> dict[str, bytes]:
    """Every file of the finished folders; of seals the checksums alone, because a seal also holds the seconds it took."""
    found = {
        str(f.relative_to(store)): f.read_bytes()
        for f in sorted(store.glob("*-*/**/*"))
        if f.is_file()
    }
    return {
        n: json.dumps(json.loads(b)["sha256"]).encode() if n.endswith(atomic_io.SEAL) else b
        for n, b in found.items()
    }


def line(folder: Path, *overrides: str) -> dict[str, bytes]:
    values, choices = compose([*TINY, *overrides, f"store={folder}"])
    e = experiment(values, choices)
    pipeline.run(prepare.prepare(e), Context.on(e.hardware, e.tracker))
    return contents(folder)


def shuffled(n, name):
    return torch.randperm(n, generator=stream(name))


def labels_permuted(test):
    return replace(test, y=test.y[shuffled(len(test), "y")])


def pixels_permuted(test):
    return replace(test, x=test.x[shuffled(len(test), "x")])


def noise(test):
    return replace(
        test, x=torch.randint(256, test.x.shape, generator=stream("noise"), dtype=torch.uint8)
    )


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return cache(
        lambda val: line(tmp_path_factory.mktemp("blind") / val, f"val={val}", *SETTINGS[val])
    )


SETTINGS = {
    "cv": ("controls=[scratch,random_frozen,pca_svm]", "nll_samples=2"),
    "holdout": ("controls=[scratch]", "optim.lr=search", "optim.hints.search.lr=[1e-3,1e-2]"),
}


@pytest.mark.parametrize("val", ["cv", pytest.param("holdout", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "change",
    [labels_permuted, pixels_permuted, pytest.param(noise, marks=pytest.mark.slow)],
    ids=lambda f: f.__name__,
)
def test_no_byte_outside_of_evaluations_depends_on_the_test_images(
    val, change, undisturbed, monkeypatch, tmp_path, digits
):
    before, test = undisturbed(val), change(digits.test)
    other = replace(digits, test=test, test_fingerprint=fingerprint(test))
    monkeypatch.setattr(Digits, "load", lambda self: other)
    monkeypatch.setattr(context, "_corpora", {})
    after = line(tmp_path / "store", f"val={val}", *SETTINGS[val])
    kept = {name for name in before if not name.startswith(MAY_CHANGE)}
    assert {name.partition("-")[0] for name in kept} >= {"data", "pretrain", "finetune"}
    assert kept == {name for name in after if not name.startswith(MAY_CHANGE)}
    assert not [name for name in kept if before[name] != after[name]]
    changed = {name.partition("-")[0] for name in after if name not in before}
    assert {"test", "evaluate"} <= changed, "and these did change, so the test can fail"
    assert ("likelihood" in changed) == (val == "cv")


def test_a_change_of_the_training_images_is_seen(undisturbed, monkeypatch, tmp_path, digits):
    before, train = undisturbed("cv"), replace(digits.train, x=digits.train.x.flip(0))
    monkeypatch.setattr(
        Digits, "load", lambda self: replace(digits, train=train, fingerprint=fingerprint(train))
    )
    monkeypatch.setattr(context, "_corpora", {})
    after = line(tmp_path / "store", "val=cv", *SETTINGS["cv"])
    assert not [name for name in after if name in before], "every folder has another name"
