"""The user's own images: layouts, reported faults, and equal numbers from memory and from disk."""

import csv
import hashlib
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from faults import cli, run
from PIL import Image, PngImagePlugin

import sft_exp
from sft_exp.data import duplicates, splits
from sft_exp.data.decode import decode
from sft_exp.data.readers.files import find
from sft_exp.data.splits import Labels
from sft_exp.datasets.image_folder import ImageFolder
from sft_exp.errors import ConfigError, DataError
from sft_exp.training import fit

CPU = torch.device("cpu")
CLASSES = ("bolt", "nut")


def picture(number, width=12, height=10, mode="RGB"):
    """An image that no other number gives: a colour with noise, so that it is neither empty nor alike."""
    rng = np.random.default_rng(number)
    base = np.asarray([40 + 150 * (number % 2), 90, 200 - 150 * (number % 2)])
    pixels = (base + rng.integers(-30, 30, (height, width, 3))).clip(0, 255).astype(np.uint8)
    return Image.fromarray(pixels).convert(mode)


def save(path, number, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    picture(number, **options).save(path)
    return path


def classes(root, each=6, first=0, suffix="png", names=CLASSES):
    """root/<class>/<number>.<suffix>"""
    for c, name in enumerate(names):
        for n in range(each):
            number = first + 2 * n + c
            save(root / name / f"{number:03d}.{suffix}", number)
    return root


def pool(root, count=20, first=1000):
    for n in range(count):
        save(root / f"{n:03d}.jpg", first + n)
    return root


def table(path, rows, header=("file", "label", "group")):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def load(**options):
    return ImageFolder(**{"size": 8, **options}).load()


def pixels(images):
    return images.floats(torch.arange(len(images)), CPU)


# Layouts


def test_folders_of_classes():
    corpus = load(root=str(classes(Path("root"))))
    assert corpus.classes == CLASSES
    assert corpus.test is None
    assert corpus.extra is None
    assert corpus.image == (3, 8, 8)
    assert corpus.train.ids == [
        f"{c}/{2 * n + i:03d}.png" for i, c in enumerate(CLASSES) for n in range(6)
    ]
    assert corpus.train.y.tolist() == [0] * 6 + [1] * 6
    assert pixels(corpus.train).shape == (12, 3, 8, 8)


def test_train_test_and_val_whose_images_are_training_images():
    for part, first in (("train", 0), ("val", 100), ("test", 200)):
        classes(Path("root") / part, each=3, first=first)
    corpus = load(root="root")
    assert [name.split("/")[0] for name in corpus.train.ids] == ["train"] * 6 + ["val"] * 6
    assert {name.split("/")[0] for name in corpus.test.ids} == {"test"}
    assert corpus.test.y.tolist() == [0, 0, 0, 1, 1, 1]
    assert len(splits.make(corpus, Labels("all"), 0).labelled) == 12


def test_a_table_finds_files_below_root_and_beside_itself():
    root, beside = classes(Path("root")), Path("tables")
    save(beside / "here.png", 50)
    rows = [
        ("bolt/000.png", "small", "a"),
        ("nut/001.png", "large", "a"),
        ("here.png", "large", "b"),
    ]
    corpus = load(root=str(root), labels=str(table(beside / "labels.csv", rows)))
    assert corpus.classes == ("large", "small")
    assert corpus.train.y.tolist() == [1, 0, 0]
    assert corpus.train.groups == ["a", "a", "b"]
    assert corpus.train.ids == ["bolt/000.png", "nut/001.png", "../tables/here.png"]
    assert load(labels=str(table(root / "own.csv", rows[:2]))).train.ids == [
        "bolt/000.png",
        "nut/001.png",
    ]  # root is the table's


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "gif", "tiff", "webp", "ppm"])
def test_formats(suffix):
    assert len(load(root=str(classes(Path("root"), suffix=suffix, each=2))).train) == 4


def test_hidden_and_other_files_are_no_images():
    root = classes(Path("root"))
    save(root / ".cache" / "thumb.png", 70)
    save(root / "bolt" / "._000.png", 71)
    (root / "bolt" / "notes.txt").write_text("rusty")
    (root / "nut" / "IMG_1.HEIC").write_bytes(b"unknown")
    (root / "nut" / "LICENSE").write_text("free")
    corpus = load(root=str(root))
    assert len(corpus.train) == 12
    assert corpus.report["labelled"]["ignored"] == {".txt": 1, ".HEIC": 1, "no suffix": 1}


def test_links_are_followed_once():
    classes(Path("elsewhere"), each=2)
    for name in CLASSES:
        (Path("root") / name).mkdir(parents=True)
        (Path("root") / name / "linked").symlink_to(Path("elsewhere").absolute() / name)
        (Path("root") / name / "loop").symlink_to(Path("root").absolute() / name)
    assert load(root="root").train.ids == [
        f"{c}/linked/{2 * n + i:03d}.png" for i, c in enumerate(CLASSES) for n in range(2)
    ]


# The unlabelled pool


def packed(path, files, mode):
    with tarfile.open(path, mode) as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def coded(number, kind="PNG"):
    buffer = io.BytesIO()
    picture(number).save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize("memory", [4.0, 1e-7])
@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_the_pool_takes_folders_globs_and_tar_files(mode, memory):
    root = classes(Path("root"))
    pool(Path("photos/a"), 3, 1000)
    pool(Path("photos/b"), 3, 2000)
    save(Path("photos/b/scan.png"), 3000)
    name = "more.tar" if mode == "w" else "more.tgz"
    packed(
        Path(name), {"x/1.png": coded(4000), "x/2.png": coded(4001), "x/readme.md": b"text"}, mode
    )
    if memory < 1 and mode == "w:gz":
        with pytest.raises(DataError, match=r"more\.tgz: it is compressed.*Decompress it"):
            load(root=str(root), unlabelled=[name], memory=memory)
        return
    corpus = load(
        root=str(root), unlabelled=["photos/a", "photos/*/*.jpg", name], memory=memory, workers=0
    )
    a, b = [f"a/{n:03d}.jpg" for n in range(3)], [f"photos/b/{n:03d}.jpg" for n in range(3)]
    # what two entries name is there once
    assert corpus.extra.ids == [*a, *b, f"{name}::x/1.png", f"{name}::x/2.png"]
    assert torch.equal(pixels(corpus.extra)[-1], decode(coded(4001), (3, 8, 8)).float() / 255)
    assert set(corpus.extra.y.tolist()) == {-1}
    # nothing was unpacked
    assert sorted(p.name for p in Path().iterdir()) == [name, "photos", "root"]


def test_only_regular_files_of_a_tar_file_are_read():
    root, secret = classes(Path("root")), save(Path("secret.png"), 66)
    with tarfile.open("evil.tar", "w") as tar:
        for name, kind in (
            ("link.png", tarfile.SYMTYPE),
            ("hard.png", tarfile.LNKTYPE),
            ("pipe.png", tarfile.FIFOTYPE),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, str(secret.absolute())
            tar.addfile(info)
        tar.add(secret, "../outside.png")
        tar.add(save(Path("ok.png"), 67), "ok.png")
    assert load(root=str(root), unlabelled="evil.tar").extra.ids == ["evil.tar::ok.png"]
    assert not Path("../outside.png").exists()


def test_a_damaged_tar_file_is_named():
    whole = packed(Path("pool.tar"), {f"{n}.png": coded(n) for n in range(5)}, "w").read_bytes()
    Path("pool.tar").write_bytes(whole[: len(whole) // 4])
    with pytest.raises(DataError, match=r"pool\.tar: this tar file is damaged"):
        load(root=str(classes(Path("root"))), unlabelled=["pool.tar"])


def test_images_of_the_pool_that_are_labelled_or_twice_there_are_counted_and_left_out():
    root = classes(Path("root"))
    shutil.copy(root / "bolt" / "000.png", root / "bolt" / "copy.png")
    photos = pool(Path("photos"), 5)
    shutil.copy(photos / "000.jpg", photos / "twin.jpg")
    shutil.copy(root / "nut" / "001.png", photos / "labelled.png")
    (photos / "torn.jpg").write_bytes((photos / "001.jpg").read_bytes()[:200])
    corpus = load(root=str(root), unlabelled=[str(photos)])
    assert len(corpus.train) == 12
    assert corpus.extra.ids == [f"photos/{n:03d}.jpg" for n in range(5)]
    labelled, unlabelled = corpus.report["labelled"], corpus.report["unlabelled"]
    assert (labelled["duplicates"], labelled["overlap"], labelled["broken"]) == (1, 0, [])
    assert (unlabelled["duplicates"], unlabelled["overlap"], unlabelled["broken_count"]) == (
        1,
        1,
        1,
    )
    (broken,) = unlabelled["broken"]
    assert broken.startswith("photos/torn.jpg: cannot be decoded: ")
    assert "truncated" in broken.lower()


def test_equal_names_in_two_places_stay_apart():
    classes(Path("root"))
    pool(Path("x/photos"), 2, 1000)
    pool(Path("y/photos"), 2, 2000)
    corpus = load(root="root", unlabelled=["x/photos", "y/photos"])
    assert corpus.extra.ids == [
        "photos/000.jpg",
        "photos/001.jpg",
        "1/photos/000.jpg",
        "1/photos/001.jpg",
    ]


def test_a_folder_of_unlabelled_images_inside_root_is_no_class():
    pool(classes(Path("root")) / "rest", 4)
    corpus = load(root="root", unlabelled="root/rest")
    assert corpus.classes == CLASSES
    assert len(corpus.extra) == 4


# The report


def test_the_report_says_what_was_found(capsys):
    root = classes(Path("root"))
    save(root / "bolt" / "wide.png", 500, width=40, height=20)
    corpus = load(root=str(root), unlabelled=str(pool(Path("photos"), 7)))
    report = json.loads(json.dumps(corpus.report))
    assert report["labelled"]["images"] == 13
    assert report["labelled"]["classes"] == {"bolt": 7, "nut": 6}
    assert report["labelled"]["sizes"] == {"min": [12, 10], "median": [12, 10], "max": [40, 20]}
    assert report["unlabelled"]["images"] == 7
    said = " ".join(capsys.readouterr().err.split())
    assert (
        "13 labelled images of 2 classes, 12x10 to 40x20 pixels; 7 unlabelled, 12x10 pixels."
        in said
    )


def test_the_fingerprint_is_of_what_can_change_a_result():
    root = classes(Path("root"))
    first = load(root="root").fingerprint
    shutil.copytree(root, "elsewhere")
    # where the files lie cannot
    assert load(root="elsewhere", memory=0, workers=0).fingerprint == first
    assert load(root="root", size=9).fingerprint != first
    assert load(root="root", channels=1).fingerprint != first
    assert load(root="root", group="([0-9])[.]").fingerprint != first
    with (root / "bolt" / "000.png").open("ab") as file:
        file.write(b"\0")
    changed = load(root="root").fingerprint
    assert changed != first
    (root / "bolt" / "000.png").rename(root / "nut" / "000.png")
    assert load(root="root").fingerprint not in (first, changed)
    where = {"root", "labels", "unlabelled", "file_column", "label_column"}
    how = {"most_pixels", "memory", "workers", "cache", "cache_gb"}
    assert where | how == set(ImageFolder.unhashed)


# What is refused


def refused(match, error=DataError, **options):
    before = sorted(Path().rglob("*"))
    with pytest.raises(error, match=match) as caught:
        load(**options)
    assert sorted(Path().rglob("*")) == before
    return str(caught.value)


@pytest.mark.parametrize(
    "prepare", [lambda r: None, lambda r: r.mkdir(), lambda r: (r / "bolt").mkdir(parents=True)]
)
def test_a_missing_or_empty_folder_is_refused_with_the_layouts(prepare):
    prepare(Path("root"))
    assert "root/<class>/<images>" in refused("root", root="root")


def test_no_root_is_a_mistake_in_the_configuration():
    refused(r"dataset\.root=None: must name the folder of your images", ConfigError)


def test_layouts_that_could_mean_two_things_are_refused():
    classes(Path("a/train"))
    classes(Path("a/cars"))
    refused(r"a: beside train/ there is cars/", root="a")
    classes(Path("b/test"))
    refused(r"b: there is test/ and no train/", root="b")
    save(classes(Path("c")) / "loose.png", 99)
    refused(r"c: loose\.png is not in the folder of a class", root="c")
    pool(Path("d"))
    refused(r"d: 000\.jpg is not in the folder of a class", root="d")


def test_classes_that_cannot_be_learnt_are_refused():
    (classes(Path("a")) / "empty").mkdir()
    refused(r"a/empty: has no images of this class", root="a")
    classes(Path("b"), names=("bolt",))
    refused(r"there is one class, bolt", root="b")
    classes(Path("c/train"))
    classes(Path("c/test"), first=100, names=("bolt", "screw"))
    refused(r"class screw has no training image", root="c")


def broken_files(root):
    """name -> what must be said of it"""
    classes(root)
    whole = picture(900, 64, 64)
    whole.save(root / "bolt" / "torn.jpg")
    content = (root / "bolt" / "torn.jpg").read_bytes()
    (root / "bolt" / "torn.jpg").write_bytes(content[: len(content) // 2])
    (root / "bolt" / "empty.png").write_bytes(b"")
    (root / "nut" / "text.jpg").write_text("this is no picture")
    (root / "nut" / "eps.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    Image.fromarray(np.zeros((4, 4), np.float32)).save(root / "nut" / "float.tiff")
    bomb = bytearray(coded(901))
    bomb[16:24] = (100_000).to_bytes(4, "big") * 2
    chunk = bytes(bomb[12:29])
    bomb[29:33] = PngImagePlugin.zlib.crc32(chunk).to_bytes(4, "big")
    (root / "nut" / "bomb.png").write_bytes(bytes(bomb))
    return {
        "bolt/torn.jpg": "truncated",
        "bolt/empty.png": "is empty",
        "nut/text.jpg": "is no image that pillow reads",
        "nut/eps.png": "is no image that pillow reads",
        "nut/float.tiff": "floating-point pixels",
        "nut/bomb.png": "bomb",
    }


def test_broken_labelled_images_are_refused_and_named_or_skipped_and_counted():
    expected = broken_files(Path("root"))
    said = refused(r"6 of 18 labelled images cannot be used", root="root").splitlines()
    for name, why in expected.items():
        (line,) = [s for s in said if s.strip().startswith(f"{name}: ")]
        assert why in line.lower()
    assert "dataset.broken=skip" in said[-1]
    corpus = load(root="root", broken="skip")
    assert len(corpus.train) == 12
    assert corpus.report["labelled"]["broken_count"] == 6
    assert {line.partition(":")[0] for line in corpus.report["labelled"]["broken"]} == set(expected)


def test_a_message_names_twenty_files_and_the_report_a_hundred():
    root = classes(Path("root"))
    for n in range(130):
        (root / "bolt" / f"bad{n:03d}.jpg").write_bytes(b"no")
    said = refused("130 of 142 labelled images", root="root").splitlines()
    assert len(said) == 1 + 20 + 1 + 1
    assert said[-2].strip() == "and 110 more"
    report = load(root="root", broken="skip").report["labelled"]
    assert (len(report["broken"]), report["broken_count"]) == (100, 130)


def test_a_class_whose_images_are_all_broken_is_refused():
    root = classes(Path("root"))
    (root / "screw").mkdir()
    (root / "screw" / "1.png").write_bytes(b"no")
    refused("class screw has no training image that can be used", root="root", broken="skip")
    classes(Path("other/train"))
    for name in CLASSES:
        (Path("other/test") / name).mkdir(parents=True)
        (Path("other/test") / name / "1.png").write_bytes(b"no")
    refused("no test image can be used", root="other", broken="skip")


@pytest.mark.parametrize(("where", "memory"), [("train", 4.0), ("pool", 4.0), ("pool", 0.0)])
def test_a_test_image_that_is_learnt_from_is_refused(where, memory):
    for part, first in (("train", 0), ("test", 200)):
        classes(Path("root") / part, first=first)
    photos = pool(Path("photos"), 3)
    target = Path("root/train/nut/again.png") if where == "train" else photos / "again.png"
    shutil.copy("root/test/bolt/200.png", target)
    if where == "train":
        said = refused(
            "Test images must not be trained on, but 1 are in the training split",
            root="root",
            unlabelled=[str(photos)],
        )
        assert "train/nut/again.png" in said
    else:
        corpus = load(root="root", unlabelled=[str(photos)], memory=memory)
        assert corpus.leaks == [("photos/again.png", "test/bolt/200.png")]
        with pytest.raises(
            DataError, match="Test images must not be pretrained on, but 1 are in"
        ) as caught:
            duplicates.refuse(corpus, transductive=False)
        said = str(caught.value)
        assert "photos/again.png is test/bolt/200.png" in said
        duplicates.refuse(corpus, transductive=True)
    assert "test/bolt/200.png" in said


def test_one_image_with_two_labels_is_refused():
    root = classes(Path("root"))
    shutil.copy(root / "bolt" / "000.png", root / "nut" / "copy.png")
    said = refused("An image must have one label, but 1 have two", root="root")
    assert "bolt/000.png and nut/copy.png (bolt and nut)" in said


@pytest.mark.parametrize(
    ("header", "rows", "message"),
    [
        (("file", "class"), [], r"labels\.csv: no column label; its first line has file,class"),
        (("name", "class"), [], r"no column file and label"),
        (("file", "label"), [], r"labels\.csv: has no row below the first line"),
        (
            ("file", "label"),
            [("bolt/000.png", "x"), ("gone.png", "x")],
            r"line 3: there is no file gone\.png",
        ),
        (
            ("file", "label"),
            [("bolt/000.png", " "), ("nut/001.png",)],
            r"labels\.csv: column label is empty in all rows",
        ),
        (("file", "label"), [("", "x")], r"line 2: the file is missing"),
        (
            ("file", "label", "split"),
            [("nut/001.png", "", "test")],
            r"line 2: nut/001\.png is a test image and has no label",
        ),
        (
            ("file", "label", "split"),
            [("nut/001.png", "x", "later")],
            r"line 2: split is 'later'; valid: train, val, test",
        ),
        (("file", "label", "group"), [("nut/001.png", "x", "")], r"line 2: the group is missing"),
        (
            ("file", "label"),
            [("bolt/000.png", "x"), ("nut/001.png", "y"), ("./bolt/000.png", "x")],
            r"line 4: \./bolt/000\.png is already in line 2",
        ),
    ],
)
def test_a_table_with_a_mistake_is_refused_by_line(header, rows, message):
    root = classes(Path("root"))
    refused(message, root=str(root), labels=str(table(Path("labels.csv"), rows, header)))


def test_a_missing_table_or_one_that_is_no_text_is_refused():
    classes(Path("root"))
    refused(r"dataset\.labels=gone\.csv: no such file", root="root", labels="gone.csv")
    Path("odd.csv").write_bytes(b"file,label\n\x81\x8d,a\n")
    refused(r"dataset\.labels=odd\.csv: .* codec can't decode", root="root", labels="odd.csv")


@pytest.mark.parametrize("entry", ["photos/*.png", "notes.txt", "empty"])
def test_an_entry_of_the_pool_without_an_image_is_refused(entry):
    root = classes(Path("root"))
    Path("notes.txt").write_text("no images")
    Path("empty").mkdir()
    refused(
        r"dataset\.unlabelled=.*: no image there\. It takes folders, globs",
        root=str(root),
        unlabelled=[entry],
    )


def test_a_folder_that_is_not_there_is_said_to_be_missing_with_the_nearest_name():
    root = classes(Path("root"))
    pool(root / "unlabelled", 3)  # which is named like images without labels, and is not the fault
    refused(
        r"^dataset\.unlabelled=root/unlabeled: no such file or folder; "
        r"did you mean root/unlabelled\?$",
        root=str(root),
        unlabelled=["root/unlabeled"],
    )
    refused(r"root=rot: no such folder; did you mean root\? Expected is", root="rot")
    Path("labels.csv").touch()
    refused(r"labels=lables\.csv: no such file; did you mean labels\.csv\?", labels="lables.csv")
    refused(r"labels=a\.json: no such file$", labels="a.json")


def test_a_pool_of_labelled_images_alone_is_refused():
    refused(
        "all images there are unreadable or copies of labelled images",
        root=str(classes(Path("root"))),
        unlabelled=["root"],
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, "size=0: must be above 0"),
        ({"channels": 2}, "channels=2"),
        ({"broken": "no"}, "broken=no: must be refuse or skip"),
        ({"memory": -1}, "memory=-1"),
        ({"workers": -1}, "workers=-1"),
        ({"unlabelled": [3]}, "unlabelled"),
    ],
)
def test_values_that_cannot_be_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        ImageFolder(**options)


# Groups


def patients(root, count=12, seed=0):
    """Images of patients, 1 to 4 each, of both classes."""
    rng, number = random.Random(seed), 0
    for patient in range(count):
        for _ in range(rng.randint(1, 4)):
            save(
                root
                / CLASSES[(patient + rng.randint(0, 3) // 3) % 2]
                / f"p{patient:02d}_{number:03d}.png",
                number,
            )
            number += 1
    return root


def test_groups_are_never_split():
    """Over all draws and folds, of the tests and inside the label budget, no patient is on both sides."""
    for seed in range(3):
        corpus = load(root=str(patients(Path(f"root{seed}"), seed=seed)), group="(p[0-9]+)_")
        assert set(corpus.train.groups) == {f"p{n:02d}" for n in range(12)}
        tested = set()
        for number in range(12):
            draw = splits.make(corpus, Labels("all"), number)
            assert not set(draw.labelled.groups) & set(draw.test.groups)
            assert not set(draw.labelled.ids) & set(draw.test.ids)
            assert len(draw.labelled) + len(draw.test) == len(corpus.train)
            for n in range(3):
                known, held = splits.fold(draw.labelled, corpus.classes, n, 3)
                assert not set(draw.labelled.at(known).groups) & set(draw.labelled.at(held).groups)
            tested |= set(draw.test.ids) if number < splits.FOLDS else set()
        assert tested == set(corpus.train.ids)  # five folds test every image


def test_a_group_is_a_column_or_an_expression():
    root = patients(Path("root"))
    rows = [
        (p.relative_to(root), p.parent.name, p.name[:3], n % 5)
        for n, p in enumerate(sorted(root.rglob("*.png")))
    ]
    path = str(table(Path("labels.csv"), rows, ("file", "label", "group", "site")))
    assert set(load(root="root", labels=path).train.groups) == {f"p{n:02d}" for n in range(12)}
    assert set(load(root="root", labels=path, group="site").train.groups) == set("01234")
    assert set(load(root="root", labels=path, group="p([0-9])").train.groups) == {"0", "1"}
    valid = r"dataset\.group=who: must be a column of the table \(file, label, group, site\) or a regular expression"
    refused(valid, ConfigError, root="root", labels=path, group="who")
    refused(
        r"dataset\.group=\(: must be a regular expression with one group",
        ConfigError,
        root="root",
        group="(",
    )
    refused(
        r"bolt/p.*png: dataset\.group=\(q\+\) finds no group in this path",
        root="root",
        group="(q+)",
    )


def test_a_group_in_train_and_test_is_refused():
    for part, first in (("train", 0), ("test", 200)):
        classes(Path("root") / part, first=first)
    save(Path("root/test/nut/p7_1.png"), 300)
    save(Path("root/train/bolt/p7_2.png"), 301)
    said = refused("group p7 is in train and in test", root="root", group="/(p[0-9]+|[0-9]+)[_.]")
    assert "train/bolt/p7_2.png" in said
    assert "test/nut/p7_1.png" in said


def test_a_class_of_one_group_cannot_be_held_out():
    rows = [
        (f"{c}/{2 * n + i:03d}.png", c, f"p{n}" if i else "p0")
        for i, c in enumerate(CLASSES)
        for n in range(6)
    ]
    classes(Path("root"))
    corpus = load(root="root", labels=str(table(Path("labels.csv"), rows)))
    with pytest.raises(
        DataError,
        match=r"class 'bolt' has 1 labelled group, and 2 are needed .*: label another group",
    ):
        splits.make(corpus, Labels("all"), 0)


# Pixels


def test_pixels_are_upright_centred_and_scaled():
    tall = Image.fromarray(np.repeat(np.arange(40, dtype=np.uint8)[:, None], 20, 1) * 6)
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    tall.rotate(90, expand=True).save(buffer, "PNG", exif=exif)
    x_CHW = decode(buffer.getvalue(), (1, 20, 20))
    assert x_CHW.shape == (1, 20, 20)
    # the middle half
    assert torch.equal(x_CHW[0, :, 0], torch.arange(10, 30, dtype=torch.uint8) * 6)


def test_sixteen_bits_are_scaled_and_not_clipped():
    deep = (np.arange(64 * 64, dtype=np.uint16) * 16).reshape(64, 64)
    for kind in ("PNG", "TIFF"):
        buffer = io.BytesIO()
        Image.fromarray(deep).save(buffer, kind)
        for channels in (1, 3):
            assert torch.equal(
                decode(buffer.getvalue(), (channels, 64, 64))[0],
                torch.from_numpy((deep >> 8).astype(np.uint8)),
            )


def test_grey():
    corpus = load(root=str(classes(Path("root"))), channels=1)
    assert pixels(corpus.train).shape == (12, 1, 8, 8)


# From memory and from disk


def test_batches_from_disk_equal_those_from_memory():
    root, photos = str(classes(Path("root"), suffix="jpg")), str(pool(Path("photos"), 30))
    held = load(root=root, unlabelled=photos, memory=1)
    assert isinstance(held.extra.x, torch.Tensor)
    for workers in (0, 2):
        disk = load(root=root, unlabelled=photos, memory=0, workers=workers)
        assert not isinstance(disk.extra.x, torch.Tensor)
        assert disk.fingerprint == held.fingerprint
        for a, b in (
            (held.extra, disk.extra),
            (held.train, disk.train),
            (splits.everything(held), splits.everything(disk)),
        ):
            rows = torch.randperm(len(a), generator=torch.Generator().manual_seed(1)).split(7)
            state = torch.get_rng_state()
            for one, other in zip(a.batches(rows, CPU), b.batches(rows, CPU), strict=True):
                assert all(torch.equal(one[k], other[k]) for k in one)
            assert torch.equal(torch.get_rng_state(), state)


TINY = (
    "pretrain.steps=4", "finetune.steps=4", "draws=2", "seeds=1", "dataset.size=9",
    "dataset.workers=2",
)  # fmt: skip


def overrides(*more):
    here = Path().absolute()  # this process remembers what it has read, by its path
    found = (f"dataset.root={here}/root", f"dataset.unlabelled=[{here}/photos]")
    return ["dataset=image_folder", "tracker=none", "hardware=cpu", *found, *TINY, *more]


def started(*more):
    """The command in a session of its own, so that signals can reach its whole process group."""
    environment = {**os.environ, "PYTHONPATH": str(Path(sft_exp.__file__).parents[1])}
    command = [sys.executable, "-m", "sft_exp", *overrides(*more)]
    return subprocess.Popen(
        command, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


@pytest.mark.slow
def test_training_from_disk_ends_in_the_same_bits():
    classes(Path("root"), each=5)
    pool(Path("photos"), 24)
    ends = []
    for memory in (1, 0):
        result = sft_exp.run(
            overrides(
                f"dataset.memory={memory}", f"store=store{memory}", "controls=false", "val=none"
            ),
            f"run{memory}",
        )
        folder = Path(result["stages"]["finetune"]["folder"])
        ends.append((folder.name, (folder / "model.safetensors").read_bytes(), result["draws"]))
    assert ends[0] == ends[1]


def test_a_file_that_changes_while_it_is_used_is_named():
    root = classes(Path("root"))
    for workers in (0, 2):
        train = load(root=str(root), memory=0, workers=workers).train
        save(root / "bolt" / "004.png", 700 + workers)
        with pytest.raises(DataError, match=r"^root/bolt/004\.png: changed while the run used it"):
            list(train.batches(torch.arange(12).split(4), CPU))
    (root / "bolt" / "004.png").unlink()
    with pytest.raises(
        DataError, match=r"^root/bolt/004\.png: No such file.*it was there when the run began"
    ):
        list(train.batches(torch.arange(12).split(4), CPU))


# The whole line


def test_without_a_test_split_folds_give_the_verdict():
    classes(Path("root"), each=8)
    pool(Path("photos"))
    quick = ("val=none", "draws=3", "controls=[scratch]", "report=false", "monitors=false")
    result = sft_exp.run(overrides(*quick), "run")
    assert result["verdict"]["word"] in ("helped", "hurt", "cannot tell")
    assert result["verdict"]["draws"] == 3
    assert "other folds" in result["verdict"]["text"]
    assert result["choices"]["encoder"].startswith("conv")
    assert result["config"]["labels"] == "all"
    assert result["data"]["labelled"] + result["data"]["test"] == result["data"]["train"] == 16
    (tested,) = [
        json.loads(p.read_text()) for p in Path("outputs/store").glob("test-*/manifest.json")
    ]
    assert tested["report"]["unlabelled"]["images"] == 20
    (manifest,) = [
        json.loads(p.read_text()) for p in Path("outputs/store").glob("data-*/manifest.json")
    ]
    assert manifest["ids"]["unlabelled"][0] == "photos/000.jpg"


def test_real_photographs(shared_data):
    """Six photographs of each of ten classes, as they are on disk: loaded whole, and all of them different."""
    source = shared_data / "cifar10_jpeg12k" / "train"
    for folder in sorted(source.iterdir()):
        for file in sorted(folder.iterdir())[:6]:
            (Path("root") / folder.name).mkdir(parents=True, exist_ok=True)
            shutil.copy(file, Path("root") / folder.name)
    corpus = load(root="root", size=32, unlabelled=[str(source / "cat" / "01*.jpg")])
    assert len(corpus.classes) == 10
    assert corpus.report["labelled"]["sizes"]["max"] == [32, 32]
    assert len(corpus.train) == 60
    assert corpus.extra is not None


def test_the_command_refuses_broken_images_with_exit_code_3_and_leaves_nothing():
    classes(Path("root"))
    pool(Path("photos"), 3)
    (Path("root") / "bolt" / "bad.png").write_bytes(b"no")
    before = sorted(Path().rglob("*"))
    code, said = run(cli, *overrides())
    assert code == 3
    assert "1 of 13 labelled images cannot be used" in said
    assert "bolt/bad.png: is no image that Pillow reads" in said
    assert "Traceback" not in said
    assert sorted(Path().rglob("*")) == before


@pytest.mark.slow
def test_a_signal_to_the_whole_group_while_workers_decode_is_a_pause():
    """SIGTERM reaches trainer and workers alike; the trainer saves, and the same command ends as if nothing had been."""
    classes(Path("root"))
    pool(Path("photos"), 40)
    process = started(
        "dataset.memory=0",
        "pretrain.steps=3000",
        "pretrain.batch_size=4",
        "controls=false",
        "val=none",
        "draws=1",
    )
    deadline = time.monotonic() + 240
    while (
        not list(Path("outputs").rglob("*pretrain-*/request.json")) and time.monotonic() < deadline
    ):
        time.sleep(0.05)
    time.sleep(0.5)  # it trains now, for some seconds
    os.killpg(process.pid, signal.SIGTERM)
    _, said = process.communicate(timeout=240)
    assert process.returncode == 75, said
    assert "the same command continues from there" in said
    assert "Traceback" not in said


def test_find_names_what_a_path_stands_for():
    pool(Path("photos/2020"), 2)
    assert [f.id for f in find("photos")] == ["photos/2020/000.jpg", "photos/2020/001.jpg"]
    assert [f.id for f in find("photos/*/000.jpg")] == ["photos/2020/000.jpg"]
    assert [f.id for f in find(str(Path("photos/2020/001.jpg").absolute()))] == ["001.jpg"]


def weights(store):
    return {
        f"{file.parent.name}/{file.name}": hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(Path(store).glob("*/*.safetensors"))
    }


def test_data_that_change_while_a_training_reads_them_leave_no_result(monkeypatch):
    """Files change between two steps of the pretraining: an error with exit code 3, and no folder of it.
    With the files as they were before, the run ends with the bits of an undisturbed one."""
    files = {path: path.read_bytes() for path in classes(Path("root")).glob("*/*")}
    words = [
        "dataset=image_folder", "dataset.root=root", "dataset.size=16", "dataset.memory=0", "dataset.workers=0", "encoder=mlp",
        "encoder.hidden=[8]", "tracker=none", "draws=1", "controls=false", "val=none", "report=false", "pretrain.steps=20",
        "pretrain.batch_size=4", "finetune.steps=2", "labels=2", "monitors=false", "dataset.cache=null",
    ]  # fmt: skip
    sft_exp.run([*words, "store=undisturbed"], folder="runs/undisturbed")
    steps, train = [], fit.train

    def disturbed(*arguments, **named):
        for step in train(*arguments, **named):
            steps.append(step)
            if len(steps) == 5:
                for n, path in enumerate(files):
                    save(path, 700 + n)
            yield step

    with monkeypatch.context() as patched:
        patched.setattr(fit, "train", disturbed)
        with pytest.raises(DataError, match=r"png: changed while the run used it"):
            sft_exp.run([*words, "store=store"], folder="runs/disturbed")
    assert 5 <= len(steps) < 20, "noticed while it was trained"
    assert not [*Path("store").glob("pretrain-*")]
    assert not [*Path("store").glob("finetune-*")]
    for path, content in files.items():
        path.write_bytes(content)
    sft_exp.run([*words, "store=store"], folder="runs/again")
    assert weights("store") == weights("undisturbed")
