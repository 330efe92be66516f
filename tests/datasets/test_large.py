"""Large data sets are indexed at the start and read on use."""

import io
import tarfile
from typing import ClassVar

import pytest
import torch
from PIL import Image

from sft_exp import api
from sft_exp.datasets.large import Large
from sft_exp.errors import DataError

CPU = torch.device("cpu")


def png(colour):
    buffer = io.BytesIO()
    Image.new("RGB", (9, 9), (colour, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def shard(path, samples, mode="w"):
    """A tar file of {name: content}."""
    with tarfile.open(path, mode) as tar:
        for name, content in samples.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


@pytest.fixture
def shards(tmp_path):
    """12 images of 2 classes in 3 shards, each of a red of its own; 4 to test on."""
    for n in range(3):
        rows = range(4 * n, 4 * n + 4)
        samples = {f"{r:03}.png": png(10 * r) for r in rows} | {
            f"{r:03}.cls": str(r % 2).encode() for r in rows
        }
        shard(tmp_path / f"train-{n}.tar", dict(sorted(samples.items())))
    samples = {f"t{r}.png": png(200 + r) for r in range(4)} | {
        f"t{r}.cls": str(r % 2).encode() for r in range(4)
    }
    shard(tmp_path / "test-0.tar", samples)
    return Large(root=str(tmp_path), train="train-*.tar", test="test-*.tar", size=8, workers=0)


def test_every_image_with_its_label_whatever_the_order(shards):
    corpus = shards.load()
    assert corpus.classes == ("0", "1")
    assert corpus.train.y.tolist() == [0, 1] * 6
    rows = torch.tensor([7, 0, 11])
    (batch,) = corpus.train.batches([rows], CPU)
    assert (batch["x"][:, 0].mean((1, 2)) * 255).round().tolist() == [70, 0, 110]
    assert corpus.train.ids[7] == "train-1.tar::007.png"
    assert corpus.fingerprint == shards.load().fingerprint


def test_folders_of_classes_as_imagenets(tmp_path):
    for split, count in (("train", 3), ("val", 2)):
        for n, name in enumerate(("n01", "n02")):
            (tmp_path / split / name).mkdir(parents=True)
            for k in range(count):
                (tmp_path / split / name / f"{k}.png").write_bytes(
                    png(100 * n + k + 10 * (split == "val"))
                )
    corpus = Large(root=str(tmp_path), train="train", test="val", size=8, workers=0).load()
    assert corpus.classes == ("n01", "n02")
    assert corpus.train.ids == [f"{c}/{k}.png" for c in ("n01", "n02") for k in range(3)]
    assert len(corpus.test) == 4
    assert int(corpus.train.raw(4)[0, 0, 0]) == 101


def test_names_of_numbered_classes_come_from_a_file(shards, tmp_path):
    (tmp_path / "classes.txt").write_text("cat\ndog\nfish\n")
    shards.classes = "classes.txt"
    assert shards.load().classes == ("cat", "dog", "fish")
    (tmp_path / "classes.txt").write_text("cat\n")
    with pytest.raises(DataError, match="class 1"):
        shards.load()


def test_what_is_wrong_is_named(shards, tmp_path):
    shard(tmp_path / "train-3.tar", {"x.png": png(1)})
    with pytest.raises(DataError, match=r"train-3.tar::x.png: has no label"):
        shards.load()
    (tmp_path / "train-3.tar").unlink()
    shard(tmp_path / "train-3.tar", {"x.png": png(1), "x.cls": b"1"}, "w:gz")
    with pytest.raises(DataError, match="not compressed"):
        shards.load()
    shard(tmp_path / "train-3.tar", {"x.png": b"no picture", "x.cls": b"1"})
    with pytest.raises(DataError, match=r"train-3.tar, image at byte 512: "):
        shards.load().train.raw(12)
    shards.train = "nothing-*.tar"
    with pytest.raises(DataError, match="no image there"):
        shards.load()


def test_another_label_is_another_set(shards, tmp_path):
    before = shards.load()
    shard(tmp_path / "train-2.tar", {"9.png": png(1), "9.cls": b"0"})
    after = shards.load()
    assert after.fingerprint != before.fingerprint
    assert after.test_fingerprint == before.test_fingerprint


def test_the_whole_line(shards, tmp_path):
    small = [
        "draws=1", "val=none", "controls=false", "tracker=none", "monitors=false",
        "pretrain.steps=2", "finetune.steps=2",
    ]  # fmt: skip
    sizes = [
        "encoder=conv",
        "dataset.size=8",
        "dataset.workers=0",
        "pretrain.batch_size=4",
        "finetune.batch_size=4",
    ]
    result = api.run(["dataset=webdataset", f"dataset.root={shards.root}", *small, *sizes])
    assert result["data"]["train"] == 12
    assert result["data"]["test"] == 4


@pytest.mark.slow
def test_from_imagenets_layout_to_cifar(shared_data, monkeypatch):
    """The experiment on small sets: pictures in folders of classes, then those that torchvision reads."""
    import torchvision.datasets

    class Small(torchvision.datasets.CIFAR10):
        train_list: ClassVar = [["data_batch_1", None]]
        test_list: ClassVar = [["test_batch", None]]

    monkeypatch.setattr(torchvision.datasets, "CIFAR10", Small)
    sets = [
        f"pretrain_dataset.root={shared_data}/cifar10_jpeg12k",
        f"dataset.root={shared_data}/cifar10_exact5k",
    ]
    options = [
        "pretrain_dataset.workers=0", "dataset.download=false", "encoder=conv", "labels=5",
        "draws=2", "seeds=1", "controls=[scratch]",
    ]  # fmt: skip
    steps = [
        "pretrain.steps=4",
        "pretrain.batch_size=16",
        "finetune.steps=4",
        "tracker=none",
        "report=false",
    ]
    result = api.run(["experiment=imagenet_to_cifar10", *sets, *options, *steps])
    assert (result["data"]["train"], result["data"]["test"], result["data"]["labelled"]) == (
        4000,
        1000,
        50,
    )
    assert len(result["draws"]["scratch"]) == 2
    assert result["stages"]["pretrain"]["folder"]
