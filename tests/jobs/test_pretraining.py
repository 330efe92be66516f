"""Starts and data of pretraining: another data set, its labels, weights from files."""

import json

import pytest
import torch
from result_stubs import stub
from safetensors.torch import load_file

from sft_exp.config.compose import compose
from sft_exp.config.help_text import options
from sft_exp.config.sources import option_files
from sft_exp.core.tracker import Tracker
from sft_exp.data import splits
from sft_exp.data.corpus import Corpus
from sft_exp.data.images import Images, fitted
from sft_exp.encoders.mlp import MLP
from sft_exp.errors import ConfigError, DataError, StorageError
from sft_exp.jobs import prepare, stage_requests
from sft_exp.models import transfer
from sft_exp.reports import advice
from sft_exp.runs import pipeline
from sft_exp.stages import pretrain
from sft_exp.training.context import Context

TINY = ("debug=tiny", "controls=false", "val=none", "pretrain.batch_size=16")
COLOURS = {"red": (60, 0, 0), "green": (0, 255, 0)}


@pytest.fixture
def photos(tmp_path):
    """A labelled folder of 24 small colour images."""
    from PIL import Image

    for name, colour in COLOURS.items():
        (tmp_path / "photos" / name).mkdir(parents=True)
        for n in range(12):
            image = Image.new("RGB", (12, 12), colour)
            image.putpixel((n, 3), (n, n, 255))
            image.save(tmp_path / "photos" / name / f"{n}.png")
    return f"pretrain_dataset.root={tmp_path / 'photos'}"


@pytest.fixture
def run(experiment):
    def made(*overrides):
        job = prepare.prepare(experiment(*TINY, *overrides))
        return job, pipeline.run(job, Context.on(job.experiment.hardware, Tracker()))

    return made


def encoder_of(job):
    return load_file(job.results["pretrain"][0].folder / "encoder.safetensors")


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


# Another data set


def test_another_data_set_is_pretrained_on(run, photos, experiment):
    """At the size of the images that are fine-tuned on; it has a manifest of its own."""
    job, _ = run("pretrainer=ae", "pretrain_dataset=image_folder", photos)
    request = json.loads((job.results["pretrain"][0].folder / "request.json").read_text())
    assert request["dataset"]["is"].endswith("ImageFolder")
    assert request["image"] == [1, 8, 8]
    assert [
        json.loads((r.folder / "manifest.json").read_text())["image"] for r in job.results["data"]
    ] == [
        [1, 8, 8],
        [3, 64, 64],
    ]
    assert not same(encoder_of(job), encoder_of(run("pretrainer=ae")[0]))


def test_supervised_learns_the_other_sets_classes(run, photos):
    job, result = run(
        "pretrainer=supervised", "pretrain_dataset=image_folder", photos, "pretrain.steps=80"
    )
    rows = [
        json.loads(line)
        for line in (job.results["pretrain"][0].folder / "metrics.jsonl").read_text().splitlines()
    ]
    assert rows[-1]["accuracy"] == 1
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert result.test["accuracy"] > 0


def test_a_data_set_can_be_named_by_a_value(experiment):
    named = experiment("pretrainer=supervised", "pretrainer.source=fashion_mnist")
    assert named.pretrain_dataset == experiment("dataset=fashion_mnist").dataset
    assert named.pretrain_dataset == experiment("pretrain_dataset=fashion_mnist").pretrain_dataset
    assert (
        experiment("pretrainer=supervised", "pretrain_dataset=kmnist").pretrain_dataset.name
        == "KMNIST"
    )
    assert experiment().pretrain_dataset is None


@pytest.mark.parametrize("name", options("dataset"))
@pytest.mark.sampled(6)
def test_every_set_to_pretrain_on_is_the_set_of_that_name(name):
    config, _ = compose([f"dataset={name}", f"pretrain_dataset={name}"])
    theirs, ours = config["dataset"], config["pretrain_dataset"]
    if name in option_files("pretrain_dataset"):  # large sets, on whose images nobody tests
        theirs = {**theirs, "test": None}
    assert ours == theirs


def test_labels_of_the_set_itself_are_not_learned_from(experiment):
    with pytest.raises(
        ConfigError, match=r"pretrain_dataset=None: must name another labelled data set"
    ):
        prepare.prepare(experiment("pretrainer=supervised"))
    with pytest.raises(ConfigError, match=r"pretrain_dataset=digits: must be another data set"):
        prepare.prepare(experiment("pretrainer=supervised", "pretrain_dataset=digits"))


def test_test_images_in_the_pool_are_refused(experiment):
    """Digits split elsewhere: training images there are test images here."""
    with pytest.raises(
        DataError,
        match=r"pretrain_dataset=digits: 400 of its images are test images of digits",
    ):
        prepare.prepare(
            experiment("pretrainer=ae", "pretrain_dataset=digits", "pretrain_dataset.test=100")
        )
    prepare.prepare(
        experiment("pretrainer=ae", "pretrain_dataset=digits", "pretrain_dataset.test=600")
    )


def test_only_supervised_sees_labels(digits, experiment):
    for name, seen in (("ae", False), ("supervised", True)):
        pool = pretrain.pool_of(
            digits, None, experiment(f"pretrainer={name}").pretrainer, digits.image
        )
        assert bool((pool.y >= 0).any()) == seen


def test_unlabelled_images_are_no_class(digits, experiment):
    half = Corpus(
        "half", digits.classes, digits.train, digits.test, extra=digits.test, image=digits.image
    )
    method = experiment("pretrainer=supervised").pretrainer
    assert len(pretrain.pool_of(half, "all", method, half.image)) == len(digits.train)
    assert len(
        pretrain.pool_of(half, "all", experiment("pretrainer=ae").pretrainer, half.image)
    ) == len(splits.everything(half))


@pytest.mark.parametrize("held", [True, False])
def test_images_are_fitted_to_another_size(held):
    """In memory or decoded as they are used: grey from colour by luminance, colour from grey by repetition, and resized."""
    raw = torch.zeros(3, 3, 4, 6, dtype=torch.uint8)
    raw[:, 0] = 100
    raw[2] = 50
    images = Images(raw if held else raw.__getitem__, torch.arange(3), ["a", "b", "c"]).at(
        torch.tensor([2, 0])
    )
    assert fitted(images, (3, 4, 6)) is images
    grey = fitted(images, (1, 2, 5))
    assert grey.ids == ["c", "a"]
    assert grey.raw(0).unique().tolist() == [50]
    assert grey.raw(1).unique().tolist() == [30]
    colour = fitted(
        Images(torch.full((1, 1, 2, 2), 7, dtype=torch.uint8), torch.zeros(1), ["a"]), (3, 4, 4)
    )
    assert torch.equal(colour.raw(0), torch.full((3, 4, 4), 7, dtype=torch.uint8))


# Weights from files


@pytest.fixture
def trained(run):
    """A pretraining's folder and its encoder."""
    job, _ = run("pretrainer=dae", "seed=5")
    return job.results["pretrain"][0].folder, encoder_of(job)


def test_a_checkpoint_is_taken_as_it_is(run, trained):
    folder, encoder = trained
    job, result = run("pretrainer=checkpoint", f"pretrainer.init={folder}")
    assert same(encoder_of(job), encoder)
    said = result.stages.pretrain.transfer
    assert (said.loaded, said.layers, said.missing) == (2, 2, [])
    assert said.images == "images are seen as they are, in [0, 1]"
    text = "encoder.safetensors: 2 of 2 layers; images are seen as they are, in [0, 1]; SHA-256"
    assert text in advice.weights(result)
    assert advice.weights(stub()) == ""
    report = json.loads((job.results["pretrain"][0].folder / "transfer.json").read_text())
    assert {row["state"] for row in report["rows"]} == {"loaded"}


def test_every_pretrainer_can_start_from_weights(run, trained):
    """With no step taken, it hands on what it started from."""
    job, _ = run(
        "pretrainer=vae",
        f"pretrainer.init={trained[0] / 'encoder.safetensors'}",
        "pretrain.steps=0",
    )
    assert same(encoder_of(job), trained[1])


def test_a_files_content_names_the_stage_and_not_its_path(experiment, tmp_path, trained):
    def folder(file):
        job = prepare.prepare(experiment(*TINY, "pretrainer=checkpoint", f"pretrainer.init={file}"))
        return stage_requests.stage("pretrain").folder_name(job.requests["pretrain"][0])

    first, second = tmp_path / "first.pt", tmp_path / "second.pt"
    torch.save(trained[1], first)
    second.write_bytes(first.read_bytes())
    before = folder(first)
    assert folder(second) == before
    torch.save({k: v + 1 for k, v in trained[1].items()}, first)
    assert folder(first) != before


def test_what_does_not_fit_is_the_users_affair_before_anything_is_computed(
    experiment, tmp_path, trained
):
    """Exit code 3, with the tensors' names, unless less was asked for."""
    options = ("pretrainer=checkpoint", f"pretrainer.init={trained[0]}", "encoder.hidden=[50,100]")
    with pytest.raises(
        DataError,
        match=r"none of .* 2 layers .*layers.0: weight is \[400, 64\] in the file and \[50, 64\]",
    ):
        prepare.prepare(experiment(*TINY, *options))
    wider = ("pretrainer=checkpoint", f"pretrainer.init={trained[0]}", "encoder.hidden=[400,50]")
    with pytest.raises(
        DataError, match=r"layers.1 did not come; 1 of 2 layers did.*'transfer.allow=\[layers.1\]'"
    ):
        prepare.prepare(experiment(*TINY, *wider))
    prepare.prepare(experiment(*TINY, *wider, "transfer.allow=[layers.1]"))
    with pytest.raises(
        ConfigError,
        match=r"transfer.allow=layers.2: names no layer of the encoder; .* layers.0, layers.1",
    ):
        prepare.prepare(experiment(*TINY, *wider, "transfer.allow=[layers.1,layers.2]"))
    assert DataError.code == 3


def test_what_does_not_fit_in_the_store_is_the_stores(run, trained):
    """Exit code 5: nobody but us writes there."""
    file = trained[0] / "encoder.safetensors"
    with pytest.raises(StorageError, match=r"layers.0.weight \[400, 64\] is not \[9, 64\]"):
        transfer.load_own(MLP([9, 100]).build((1, 8, 8)), load_file(file), file)
    assert StorageError.code == 5


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["pretrainer=checkpoint"], "pretrainer.init=None: must name weights"),
        (["pretrainer=none", "pretrainer.init=a.pt"], "pretrainer.init=a.pt: must be null"),
        (["pretrainer=pca", "pretrainer.init=a.pt"], "pretrainer.init=a.pt: must be null"),
    ],
)
def test_init_and_pretrainer_must_go_together(experiment, options, text):
    with pytest.raises(ConfigError, match=text):
        prepare.prepare(experiment(*TINY, *options))
