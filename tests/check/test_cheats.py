"""Frauds, planted on real images. Each is refused by the run, caught by `check`, or priced in points.

The images are scikit-learn's digits. Where a fraud is a change of the code it is planted there and really run; where it is a
change of results, they are forged and sealed again.
"""

import json
import shutil
from dataclasses import replace
from io import BytesIO
from math import comb
from statistics import fmean

import numpy as np
import pytest
import torch
from forge import Forged, failed, points, run
from PIL import Image
from safetensors.torch import load_file

from sft_exp.data.images import Images
from sft_exp.datasets.digits import Digits
from sft_exp.encoders.mlp import MLP
from sft_exp.errors import DataError
from sft_exp.jobs import prepare
from sft_exp.jobs.arms import with_rate
from sft_exp.stages import finetune
from sft_exp.studies.label_efficiency import LabelEfficiency
from sft_exp.sweep import study as studies
from sft_exp.training import context

FEW = "controls=[scratch]"


@pytest.fixture(scope="module")
def honest(tmp_path_factory):
    """A run by the book. It is far too short to beat its floors, which is a point too."""
    return run(tmp_path_factory.mktemp("honest") / "line")


@pytest.fixture
def forged(honest, tmp_path):
    return Forged(honest, tmp_path / "forged")


@pytest.fixture
def planted(monkeypatch, digits):
    """Corpus -> the data set that runs read from now on."""

    def plant(corpus):
        monkeypatch.setattr(Digits, "load", lambda self: corpus)
        monkeypatch.setattr(context, "_corpora", {})

    return plant


def jpeg(x_CHW, quality=90):
    file = BytesIO()
    Image.fromarray(x_CHW[0].numpy()).save(file, "JPEG", quality=quality)
    return torch.from_numpy(np.array(Image.open(file))).unsqueeze(0)


def pool(images, x=None):
    return Images(
        images.x if x is None else x,
        torch.full_like(images.y, -1),
        [f"pool/{name}" for name in images.ids],
    )


def test_an_honest_run_fails_no_point_but_its_floors(honest):
    found = points(honest, again=True)
    assert {p for p, g in found.items() if not g.passed} <= {"4.5"}, found
    assert "failed to learn: " in found["4.5"].reason or found["4.5"].passed


# Refused by the run


def test_test_images_in_the_pool(planted, digits, tmp_path):
    planted(replace(digits, extra=pool(digits.test.at(torch.arange(7)))))
    with pytest.raises(DataError, match="Test images must not be pretrained on, but 7") as caught:
        run(tmp_path / "line", FEW)
    assert "pool/1297 is 1297" in str(caught.value)
    assert "protocol.transductive=true" in str(caught.value)
    assert not (tmp_path / "line" / "outputs").exists()


def test_the_test_set_for_training_set(planted, digits, tmp_path):
    planted(
        replace(
            digits, train=replace(digits.test, ids=[f"train/{name}" for name in digits.test.ids])
        )
    )
    with pytest.raises(
        DataError, match="Test images must not be trained on, but 500 are in the training split"
    ):
        run(tmp_path / "line", FEW)


# Priced in points


@pytest.mark.slow
def test_jpeg_copies_of_test_images_in_the_pool(planted, digits, tmp_path):
    """No content hash finds them. Both accuracies are told; saying nothing of them is caught."""
    first = digits.test.at(torch.arange(250))
    planted(
        replace(digits, extra=pool(first, torch.stack([jpeg(first.raw(n)) for n in range(250)])))
    )
    folder = run(tmp_path / "line", FEW)
    copy = Forged(folder, tmp_path / "forged")
    result = copy.result
    assert result["data"]["copies"] == 250
    everything, apart = result["test"]["accuracy"], result["test"]["accuracy_apart"]
    assert 0 < abs(everything - apart) < 0.2, "of the 250 others"
    assert "2.5" not in failed(folder)
    copy.state(data__copies=0)
    assert "250 copies were found, 0 are stated" in failed(copy.run)["2.5"]


def test_mcnemar_as_evidence_for_a_method(honest, digits):
    """Two draws of one and the same method differ significantly by a test over images: here the null is true every time."""
    pairs = []
    right = digits.test.y
    for evaluations in json.loads((honest / "results.json").read_text())["folders"][
        "arms"
    ].values():
        a, b = (
            load_file(honest.parent / "outputs/store" / name / "predictions.safetensors")[
                "predicted"
            ]
            for name in evaluations
        )
        pairs.append(
            mcnemar(
                ((a == right) & (b != right)).sum().item(),
                ((a != right) & (b == right)).sum().item(),
            )
        )
    assert fmean(p < 0.05 for p in pairs) > 0.15, pairs  # three times what the test promises


def mcnemar(b, c):
    """Two-sided exact p."""
    n = b + c
    return min(1.0, 2 * sum(comb(n, k) for k in range(min(b, c) + 1)) / 2**n)


# Caught by `check`: planted in the code and run


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda r: {"steps": 10, "stop": 10}, "stop: 40 against 10"),  # under-trained
        (lambda r: {"encoder": MLP(hidden=[4])}, "encoder.hidden: [16] against [4]"),
        (lambda r: {"optim": with_rate(r["optim"], 0.5)}, "optim.options.lr: 1e-05 against 0.5"),
        (lambda r: {"task": replace(r["task"], head="random")}, "task.head: probe against random"),
        (lambda r: {"augment": "shift"}, "augment: None against shift"),
    ],
    ids=[
        "fewer steps",
        "a smaller network",
        "a bad learning rate",
        "another head",
        "augmentation in one arm",
    ],
)
@pytest.mark.slow
def test_scratch_is_another_model(change, said, monkeypatch, tmp_path):
    real = prepare.finetuning

    def finetuning(job, shared, arm, *rest):
        request = real(job, shared, arm, *rest)
        return request | (change(request) if arm == "scratch" else {})

    monkeypatch.setattr(prepare, "finetuning", finetuning)
    assert said in failed(run(tmp_path / "line", FEW))["4.1"]


@pytest.mark.slow
def test_the_epoch_is_chosen_on_the_test_images(monkeypatch, tmp_path):
    monkeypatch.setattr(finetune, "hold_out", lambda request, draw, ctx: (draw.labelled, draw.test))
    found = failed(run(tmp_path / "line", FEW, "val=holdout"))
    assert "is learnt from and tested" in found["2.1"]
    assert "50 labels and 500 more to choose by, for a budget of 50" in found["1.2"]


def test_validation_labels_are_not_counted(tmp_path):
    assert (
        "more to choose by, for a budget of 50"
        in failed(run(tmp_path / "line", FEW, "val=full"))["1.2"]
    )


def test_more_labels_than_the_budget(monkeypatch, tmp_path):
    real = finetune.splits.make
    monkeypatch.setattr(
        finetune.splits, "make", lambda c, labels, d: real(c, replace(labels, count="10"), d)
    )
    found = failed(run(tmp_path / "line", FEW), again=False)
    assert "100 labels for a budget of 50" in found["1.1"]


def test_one_writer_on_both_sides(planted, digits, tmp_path):
    writers = [f"writer {n // 130}" for n in range(1797)]
    first = len(digits.train)
    planted(
        replace(
            digits,
            train=replace(digits.train, groups=writers[:first]),
            test=replace(digits.test, groups=writers[first:]),
        )
    )
    assert "group writer 9 is learnt from and tested" in failed(run(tmp_path / "line", FEW))["2.3"]


@pytest.mark.slow
def test_a_frozen_encoder_whose_batchnorm_moves(monkeypatch, tmp_path):
    # of images that are altered no features are stored: the encoder runs in the fine-tuning itself
    frozen = ("strategy=linear", "task.augment=true", "draws=1", FEW)
    conv = ("encoder=conv", "encoder.channels=[4,8]")
    assert "4.2" not in failed(run(tmp_path / "honest", *frozen, encoder=conv))

    def features(encoder, images, ctx):
        return encoder.train()(images.floats(torch.arange(len(images)), ctx.device)).detach()

    monkeypatch.setattr(finetune, "features", features)
    assert "running_mean" in failed(run(tmp_path / "line", *frozen, encoder=conv))["4.2"]


@pytest.mark.slow
def test_the_best_of_three_seeds(tmp_path):
    """Graded together they are all there."""
    runs = [
        run(tmp_path / "line", FEW, "finetune.steps=10", f"seed={seed}", name=f"run-{seed}")
        for seed in range(3)
    ]
    best = max(runs, key=lambda r: json.loads((r / "results.json").read_text())["test"]["accuracy"])
    assert "was run too" in failed(best)["6.4"]
    assert "6.4" not in failed(*runs)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Two seeds, concluded."""
    line = tmp_path_factory.mktemp("study") / "line"
    for seed in range(2):
        run(line, FEW, "finetune.steps=10", f"seed={seed}", "seeds=1", name=f"sweep/{seed}")
    studies.finish(LabelEfficiency(labels=[5], primary=5, seeds=2), line / "sweep", "a command")
    return line / "sweep"


@pytest.mark.slow
def test_what_a_study_says_is_made_again(study, tmp_path):
    assert not {"6.4", "7.1", "7.2"} & failed(study).keys()
    shutil.copytree(study.parent, tmp_path / "line")
    copy = tmp_path / "line" / "sweep"
    about = json.loads((copy / "study.json").read_text())
    (cell,) = about["cells"]
    said = "helped" if cell["word"] != "helped" else "hurt"
    forged = {**cell, "word": said, "low": cell["low"] + 0.01}
    (copy / "study.json").write_text(json.dumps({**about, "cells": [forged]}))
    found = failed(copy)
    assert "vae, labels=5: low" in found["7.1"]
    assert f"vae, labels=5: `{said}` stated" in found["7.2"]
    (copy / "1" / "results.json").unlink()
    assert failed(copy)["6.4"].startswith("job 1 has no result; seed 1, draw 0 was run too")


@pytest.mark.slow
def test_the_choice_lies_at_the_edge_of_the_grid(tmp_path):
    search = (
        "optim.lr=search",
        "optim.hints.search.lr=[1e-6,1e-5]",
        "finetune.steps=10",
        "draws=1",
    )
    assert "is the edge of [1e-06, 1e-05]" in failed(run(tmp_path / "line", FEW, *search))["3.2"]


def test_test_images_pretrained_on_are_told(planted, digits, tmp_path):
    planted(replace(digits, extra=pool(digits.test)))
    folder = run(tmp_path / "line", FEW, "protocol.transductive=true")
    assert "declared: protocol.transductive=true" in failed(folder)["2.4"]
    copy = Forged(folder, tmp_path / "forged")
    copy.state(config__protocol__transductive=False)
    found = failed(copy.run)
    assert "500 test images were pretrained on" in found["2.4"]
    assert "transductive is not stated" in found["8.2"]


# Caught by `check`: forged


def test_predictions_are_edited(forged, digits):
    name = forged.evaluation("pretrained", 0)
    forged.edit(name, "predictions.safetensors", predicted=digits.test.y.to(torch.int16))
    assert "predictions give 100.00 %" in failed(forged.run)["6.2"]
    forged.edit(name, "scores.json", accuracy=1.0)
    draws = [1.0, forged.result["draws"]["pretrained"][1]]
    forged.state(draws__pretrained=draws, test__accuracy=fmean(draws))
    found = failed(forged.run, again=True)
    assert not {"6.1", "6.2"} & found.keys(), "it fits together"
    assert "the model predicts" in found["6.5"]


def test_files_are_edited_and_not_sealed(forged):
    file = forged.store / forged.evaluation("scratch", 0) / "scores.json"
    file.write_text(file.read_text().replace("0.", "0.1", 1))
    assert "scores.json: changed" in failed(forged.run)["6.1"]


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("model.json", b'"views"', b'"vimws"'),
        ("model.json", b"{", b"["),
        ("metrics.jsonl", b'"loss"', b'"lo\xf3s"'),
        ("model.safetensors", b'{"', b"{\xf3"),
    ],
)
def test_a_file_is_damaged_so_that_its_reader_fails(forged, file, old, new):
    path = forged.store / forged.model("pretrained", 0) / file
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new, 1))
    assert f"{file}: changed" in failed(forged.run)["6.1"]


def test_a_request_is_edited(forged):
    forged.edit(forged.model("scratch", 0), "request.json", steps=1000)
    assert "is not named by its request" in failed(forged.run)["6.1"]


def test_the_word_does_not_follow_from_the_interval(forged):
    verdict = forged.result["verdict"]
    said = "helped" if verdict["word"] != "helped" else "hurt"
    forged.state(verdict__word=said)
    assert f"`{said}` stated" in failed(forged.run)["7.2"]


def test_the_interval_is_narrower_than_the_draws(forged):
    verdict = forged.result["verdict"]
    forged.state(verdict__low=verdict["difference"] - 0.001)
    assert "made from the draws" in failed(forged.run)["7.1"]


def test_the_worst_draw_is_dropped(forged):
    result = forged.result
    arms = {arm: names[:1] for arm, names in result["folders"]["arms"].items()}
    draws = {arm: values[:1] for arm, values in result["draws"].items()}
    forged.state(folders__arms=arms, draws=draws, folders__other_seeds={}, other_seeds={})
    assert "draws [1] are missing" in failed(forged.run)["6.3"]
    forged.state(config__draws=1)
    found = failed(forged.run)
    assert "6.3" not in found
    assert "draw 1 was run too" in found["6.4"]


def test_labels_beyond_the_budget_are_added_afterwards(forged):
    name = forged.model("pretrained", 0)
    ids = json.loads((forged.store / name / "labels.json").read_text())["labelled"]
    forged.edit(name, "labels.json", labelled=[*ids, *[f"{n:04d}" for n in range(30)]])
    assert "for a budget of 50" in failed(forged.run)["1.1"]


def test_labels_are_picked_by_hand(forged, digits):
    """As many as allowed, but not those of the draw."""
    name, by_class = forged.model("pretrained", 0), []
    for c in range(10):
        by_class += [
            digits.train.ids[r] for r in (digits.train.y == c).nonzero().flatten().tolist()[:5]
        ]
    forged.edit(name, "labels.json", labelled=by_class)
    found = failed(forged.run, again=True)
    assert "1.1" not in found
    assert "its labels are not those of draw 0" in found["6.5"]


def test_floors_are_left_out(forged):
    result = forged.result
    for kept in ("folders__arms", "draws"):
        node = result
        for word in kept.split("__"):
            node = node[word]
        forged.state(
            **{kept: {arm: v for arm, v in node.items() if arm not in ("raw_svm", "pca_svm")}}
        )
    assert "there is no raw_svm; there is no pca_svm" in failed(forged.run)["4.4"]


def test_the_pretrained_weights_never_arrived(forged):
    start = json.loads((forged.store / forged.model("pretrained", 0) / "request.json").read_text())[
        "start"
    ]
    forged.edit(start, "encoder.safetensors", **{"another.weight": torch.zeros(3)})
    assert "not in the model, such as another.weight" in failed(forged.run)["4.3"]


def test_a_training_was_cut_short(forged):
    name = forged.model("scratch", 1)
    file = forged.store / name / "metrics.jsonl"
    file.write_text("".join(f"{line}\n" for line in file.read_text().splitlines()[:20]))
    forged.seal(name)
    assert "stopped after step 20 of 40" in failed(forged.run)["5.1"]


def test_another_budget_is_stated(forged):
    forged.state(config__labels=1)
    assert "labels=1 stated, 5 were used" in failed(forged.run)["8.1"]


def test_a_model_was_made_from_test_images(forged):
    test = forged.result["folders"]["test"]
    forged.ask(forged.model("pretrained", 0), teacher=test)
    assert "was made from test images" in failed(forged.run)["3.1"]
