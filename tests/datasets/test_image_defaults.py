"""Settings that follow from a folder of images, and the precedence of the user's keys."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sft_exp.config import compose, rerun
from sft_exp.guidance.image_defaults import Facts, settings, with_defaults

PHOTOGRAPHS = Facts(
    size=100, grey=False, images=1392, labelled=100, classes=10, gpu=False, bf16=True
)


def chosen(**changes):
    return {s.key: s.value for s in settings(replace(PHOTOGRAPHS, **changes))}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, {"dataset.size": "64", "dataset.channels": "3", "encoder": "conv64"}),
        # which then stands for none in a single run of few labels and for folds in a sweep
        ({"labelled": 100}, {"val": None}),
        (
            {"size": 28, "grey": True},
            {"dataset.size": "28", "encoder": "conv", "augment": "digits"},
        ),
        ({"size": 32}, {"dataset.size": "32", "encoder": "conv", "augment": "pictures"}),
        ({"size": 8, "grey": True}, {"encoder.channels": "[32,64]", "dataset.channels": "1"}),
        ({"bf16": False}, {"hardware.precision": None}),
        ({}, {"draws": "5"}),  # a fine-tuning of this network takes seconds
        ({"size": 28}, {"draws": None}),
        ({"gpu": True}, {"pretrain.steps": "2000", "draws": None}),
        ({"images": 100}, {"controls": None}),
        ({"images": 5000, "labelled": 1000}, {"finetune.steps": "937"}),
    ],
)
def test_the_rule(changes, expected):
    found = chosen(**changes)
    assert {key: found.get(key) for key in expected} == expected


@pytest.mark.parametrize("size", [5, 16, 41, 300, 6, 8, 12, 28, 32, 40, 64])
@pytest.mark.sampled(4)
def test_the_encoder_that_is_chosen_can_be_built(size):
    from sft_exp.config import build

    words = [f"{key}={value}" for key, value in chosen(size=size).items()]
    experiment = build.experiment(*compose.compose(["dataset=image_folder", "auto=false", *words]))
    assert experiment.dataset.size <= size, "never enlarged"
    experiment.encoder.build((3, experiment.dataset.size, experiment.dataset.size))


@pytest.fixture
def folder(tmp_path):
    """Grey images of 16 pixels that are stored in colour, 3 classes of 6, with test images of another size."""
    random = np.random.default_rng(0)
    for split, size in (("train", 16), ("test", 40)):
        for name in "abc":
            place = tmp_path / "root" / split / name
            place.mkdir(parents=True)
            for n in range(6):
                grey = random.integers(0, 256, (size, size), dtype=np.uint8)
                Image.fromarray(grey).convert("RGB").save(place / f"{n}.png")
    return tmp_path / "root"


def words(folder, *more):
    return with_defaults(["dataset=image_folder", f"dataset.root={folder}", "labels=2", *more])


def test_images_are_surveyed_and_each_choice_is_said_with_its_reason(folder, capsys):
    found = words(folder)
    assert {"dataset.size=16", "dataset.channels=1", "pretrainer=vicreg", "auto=false"} <= {*found}
    said = capsys.readouterr().err
    assert "dataset.channels=1: all images are grey" in said
    assert all(f"  {word}: " in said for word in found[1 : found.index("dataset=image_folder")])


@pytest.mark.parametrize(
    ("own", "left_alone"),
    [
        ("pretrainer=vae", "pretrainer="),
        ("pretrainer.beta=2", "pretrainer="),
        ("encoder=mlp", "encoder"),
        ("dataset.size=12", "dataset.size="),
        ("pretrain.epochs=3", "pretrain.steps="),
        ("finetune.epochs=3", "finetune.steps="),
        ("task=fixmatch", "task.augment="),
        ("strategy=svm", "finetune.steps="),
        ("controls=false", "controls="),
        ("hardware.precision=fp32", "hardware.precision="),
    ],
)
@pytest.mark.sampled(5)
def test_a_key_of_the_users_is_never_replaced(folder, own, left_alone):
    found = words(folder, own)
    assert [w for w in found if w.startswith(left_alone)] == [own] * own.startswith(left_alone)


@pytest.mark.parametrize(
    "own",
    ["auto=false", "experiment=lr_find", "debug=tiny", "dataset.root=nowhere"],
)
def test_commands_that_have_settings_of_their_own_are_unchanged(folder, own):
    given = ["dataset=image_folder", f"dataset.root={folder}", own]
    assert with_defaults(given) == given
    assert with_defaults(["dataset=mnist"]) == ["dataset=mnist"]


@pytest.mark.parametrize("study", ["choose", "pretrainers", "label_efficiency", "attribution"])
@pytest.mark.sampled(1)
def test_a_study_reads_the_images_by_the_same_rule_and_keeps_its_own_settings(folder, study):
    given = ["dataset=image_folder", f"dataset.root={folder}", f"study={study}", "encoder=mlp"]
    found = with_defaults(given)
    added = {word.partition("=")[0] for word in found} - {word.partition("=")[0] for word in given}
    assert {"dataset.size=16", "dataset.channels=1", "auto=false"} <= {*found}
    assert added <= {"auto", "dataset.size", "dataset.channels", "augment", "hardware.precision"}


def test_flags_stay_in_front_and_a_sweep_keeps_its_ranges(folder):
    given = ["-m", "dataset=image_folder", f"dataset.root={folder}", "labels=1,2"]
    found = with_defaults(given)
    assert found[:2] == ["-m", "auto=false"]
    assert found[-3:] == given[-3:]


def test_what_was_chosen_is_not_chosen_again(folder):
    """A rerun repeats plain values, also where the folder or the machine has changed since."""
    found = words(folder)
    assert with_defaults(found) == found
    config, _ = compose.compose(found)
    assert config["auto"] is False
    assert config["dataset"]["size"] == 16


def test_a_run_saved_before_there_was_a_rule_is_repeated_without_it(tmp_path):
    for name, text in (("hydra", "{}"), ("overrides", "[dataset=image_folder, labels=3]")):
        (tmp_path / f"{name}.yaml").write_text(text)
    from omegaconf import OmegaConf

    saved, _ = compose.compose(["dataset=image_folder", "labels=3"])
    OmegaConf.save({k: v for k, v in saved.items() if k != "auto"}, tmp_path / "config.yaml")
    again = rerun.again(["--config-path", str(Path(tmp_path)), "--config-name", "config"])
    assert again == ["dataset=image_folder", "labels=3", "auto=false"]


def small_pictures(folder):
    for n in range(6):
        path = folder / ("a" if n % 2 else "b") / f"{n}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8), 40 * n, np.uint8)).save(path)


def test_a_network_given_as_an_object_is_a_choice_of_the_users(tmp_path):
    small_pictures(tmp_path)
    words = ["dataset=image_folder", f"dataset.root={tmp_path}"]
    keys = {w.partition("=")[0] for w in with_defaults(words, silent=True)}
    assert {"encoder", "encoder.channels", "dataset.size"} <= keys
    assert keys - {
        w.partition("=")[0] for w in with_defaults(words, silent=True, objects=["encoder"])
    } == {"encoder", "encoder.channels"}


def test_the_rule_reads_the_exports_of_labelling_tools(tmp_path):
    small_pictures(tmp_path)
    labels = {f"{'a' if n % 2 else 'b'}/{n}": "ab"[n % 2] for n in range(6)}
    (tmp_path / "labels.json").write_text(json.dumps({"labels": labels}))
    words = ["dataset=image_folder", f"dataset.labels={tmp_path}/labels.json"]
    assert "dataset.size=8" in with_defaults(words, silent=True)
