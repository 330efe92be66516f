"""Folders of images as people and programs leave them: each is read as it is meant, refused with the way
out, or warned of."""

import os
import shutil
from pathlib import Path

import pytest
import tool_exports
import torch
from found_inputs import ROOT, classes, folder, masks, noise, segment, tree, warnings, write
from pictures import save

from sft_exp.data.readers import findings
from sft_exp.datasets.boxes import Boxes
from sft_exp.datasets.image_folder import ImageFolder
from sft_exp.datasets.mask_folder import MaskFolder
from sft_exp.errors import DataError

each = pytest.mark.parametrize


# Folders


def test_what_systems_put_beside_images_is_no_image():
    classes()
    for name in (
        "__MACOSX/a/._0.png",
        "@eaDir/x.jpg",
        "System Volume Information/x.png",
        "a/@eaDir/0.png/SYNOPHOTO_THUMB_M.jpg",
        "a/.ipynb_checkpoints/0-checkpoint.png",
    ):
        save(ROOT / name, noise(len(name)))
    write(ROOT / "$RECYCLE.BIN/x", "")
    write(ROOT / "b/Thumbs.db", "")
    write(ROOT / "b/._0.png", b"\0\5\x16\7")
    corpus = folder()
    assert corpus.classes == ("a", "b")
    assert torch.bincount(corpus.train.y).tolist() == [4, 4]
    assert not warnings(corpus)


@each("dataset", [ImageFolder, MaskFolder, Boxes])
def test_an_archive_is_no_folder(dataset):
    classes()
    shutil.make_archive("data", "zip", ROOT)
    with pytest.raises(DataError, match=r"data\.zip: is a file and no folder; unpack it"):
        dataset(root="data.zip", size=32).load()


@each(
    ("parts", "counts"),
    [
        (("trainset", "holdout"), (8, 8)),
        (("train", "hold-out"), (8, 8)),
        (("TRAIN", "evaluation", "test"), (16, 8)),
        (("train", "eval"), (16, None)),
    ],
)
def test_more_words_for_splits(parts, counts):
    for n, part in enumerate(parts):
        classes(ROOT / part, first=1000 * n)
    corpus = folder()
    assert corpus.classes == ("a", "b")
    assert (len(corpus.train), corpus.test and len(corpus.test)) == counts


@each("name", ["unlabelled", "Unlabeled", "not_labeled", "no-labels"])
def test_a_folder_of_images_without_labels_is_no_class(name):
    classes(names=("cat", "dog"))
    for n in range(4):
        save(ROOT / name / f"{n}.png", noise(900 + n))
    with pytest.raises(DataError, match=rf"dataset\.unlabelled=root/{name} pretrains on them"):
        folder()
    corpus = folder(unlabelled=f"root/{name}")
    assert (corpus.classes, len(corpus.extra)) == (("cat", "dog"), 4)


def test_a_test_folder_without_classes_is_offered_for_pretraining():
    classes(ROOT / "train")
    for n in range(3):
        save(ROOT / f"test1/{n}.png", noise(900 + n))
    with pytest.raises(
        DataError, match=r"dataset\.root=root/train dataset\.unlabelled=root/test1\."
    ):
        folder()
    assert len(folder(ROOT / "train", unlabelled="root/test1").extra) == 3


def test_a_root_one_folder_too_low_is_said():
    classes()
    with pytest.raises(DataError, match="one folder too low"):
        folder(ROOT / "a")


@each(
    "paths",
    [
        ("fold1/a", "fold1/b", "fold1/c", "fold2/a", "fold2/b", "fold3/a", "fold3/b", "fold3/c"),
        ("color/a", "color/b", "grayscale/a", "grayscale/b", "segmented/a"),
        ("Entrenamiento/a", "Entrenamiento/b", "Entrenamiento/c", "Prueba/a", "Prueba/b"),
    ],
)
def test_folders_that_share_most_of_their_classes_are_asked_about(paths):
    tree(*paths)
    with pytest.raises(DataError, match=r"hold the same folders \(a, b.*: are these splits\?"):
        folder()
    # inner folders that are groups are no classes
    for group in ("([^/]+)/[^/]+$", "(.+)/[^/]+$"):
        assert not warnings(folder(group=group))


@each(
    ("train", "test"),
    [
        ("train_clean", "test_clean"),
        ("my_train", "my_test"),
        ("old_train", "OldTest"),
        ("Train_Augmented", "Test_Original"),
        ("train.v1", "test.v1"),
        ("new training images", "old holdout"),
    ],
)
def test_a_word_of_a_folder_s_name_may_say_its_split(train, test):
    tree(f"{train}/a", f"{train}/b", f"{train}/c", f"{test}/a", f"{test}/b")
    corpus = folder()
    assert (corpus.classes, len(corpus.train), len(corpus.test)) == (("a", "b", "c"), 9, 6)
    said = warnings(corpus)
    assert "a word of the folders' names is read as their split" in said
    assert f"{train} = train" in said
    shutil.rmtree(ROOT)
    tree(train, test)  # without classes inside
    corpus = folder()
    assert corpus.classes == tuple(sorted((train, test)))
    assert "named like splits, and learnt as classes" in warnings(corpus)


def test_a_folder_beside_words_for_splits_is_refused():
    tree("my_train/a", "my_train/b", "my_test/a", "my_test/b", "extra/a")
    with pytest.raises(DataError, match=r"beside my_train/ there is extra/\. my_train/ is read as"):
        folder()


def test_a_split_of_one_class_is_no_archive_s_folder():
    tree("my_train/a", "my_train/b", "my_test/a")
    assert len(folder().test) == 3


@each(
    ("paths", "words"),
    [
        (("animal/cat", "animal/dog", "plant/rose", "plant/tulip"), "classes 'animal', 'plant'"),
        (("cat", "dog", "other/horse", "other/cow"), "class 'other' is learnt"),
        (("raw/a", "raw/b", "new/a"), "class 'raw' is learnt"),
        (("train/a/p1", "train/a/p2", "train/b/p3", "test/a/p4", "test/b/p5"), "class 'a' is"),
    ],
)
def test_classes_inside_of_classes_are_said(paths, words):
    tree(*paths)
    said = warnings(folder())
    assert words in said
    assert "are not told apart" in said
    assert "not told apart" not in warnings(folder(group="([^/]+)/[^/]+$"))


@each(
    "paths",
    [
        ("a", "b", "a/more", "a/old"),
        ("train/a/x", "train/b/y", "test/a/z", "test/b/w"),
        ("a/images", "b/images"),
        ("train_station", "tram"),
        ("Control/p1", "Test/p2"),
    ],
)
def test_folders_inside_of_classes_that_hide_none_are_silent(paths):
    tree(*paths, count=4)
    assert not warnings(folder())


@each(
    ("parts", "said"),
    [(("train", "val"), True), (("Training", "dev"), True), (("train", "val", "test"), False)],
)
def test_val_without_test_is_said_to_be_training_data(parts, said):
    for n, part in enumerate(parts):
        classes(ROOT / part, first=1000 * n)
        masks(Path("masked"), part, first=1000 * n)
    words = "there is val and no test: val is training data"
    assert (words in warnings(folder())) == said
    assert (words in warnings(segment("masked"))) == said
    files = [f"{part}/{c}/{n}.png,{c},{part}" for part in parts for c in "ab" for n in range(4)]
    write(ROOT / "t.csv", "\n".join(["file,label,split", *files]))
    assert (words in warnings(folder(labels="root/t.csv"))) == said


@each("name", ["unsorted", "to_label", "unannotated", "Unknown", "to be classified", "not tagged"])
def test_a_class_that_may_hold_images_without_labels_is_asked_about(name):
    tree("cat", "dog", name)
    assert f"dataset.unlabelled=[root/{name}] pretrains on them" in warnings(folder())
    corpus = folder(unlabelled=[f"root/{name}"])
    assert corpus.classes == ("cat", "dog")
    assert not warnings(corpus)


@each("name", ["sorted", "unicorn", "tomato", "known", "nonsense", "tortoise"])
def test_other_classes_are_not(name):
    tree("cat", "dog", name)
    assert not warnings(folder())


@each("name", ["cat - Copy", "cat copy 2", "cat (2)", "Copy of cat", "Cat_copy", "cat - Kopie (3)"])
def test_a_class_that_is_named_like_a_copy_of_another_one_is_said(name):
    tree("cat", "dog", name)
    assert f"class '{name}' is named like a copy of another one" in warnings(folder())


@each("name", ["photocopy", "bird (2)", "cat 2", "copycat", "bird copy"])
def test_classes_that_are_no_copies_are_not(name):
    tree("cat", "dog", name)
    assert not warnings(folder())


@each("name", ["train", "test", "val"])
def test_a_class_called_like_a_split_is_said_to_be_read_as_one(name):
    tree(name, "bus", "car")
    with pytest.raises(DataError, match=rf"{name}/ is read as a split because of its name: where"):
        folder()


@each("table", ["metadata.csv", "labels.csv"])
@each(("part", "at"), [("", ""), ("train", "train"), ("train", "")])
def test_a_table_beside_images_is_named(table, part, at):
    for n in range(8):
        save(ROOT / part / f"{n}.png", noise(n))
    rows = [f"{n}.png,{'ab'[n % 2]}" for n in range(8)]
    path = ROOT / at / table
    write(path, "\n".join(["file_name,label", *rows]))
    with pytest.raises(DataError, match=rf"classes: dataset\.root=\S+ dataset\.labels={path}"):
        folder()
    assert folder(ROOT / part, labels=str(path), file_column="file_name").classes == ("a", "b")


@each(
    ("addition", "first"),
    [("{}_mask.png", "jpg"), ("{}_depth.png", "jpg"), ("thumb_{}.png", "png"), ("{}.png", "jpg"),
     ("{}-edited.jpg", "jpg")],
)  # fmt: skip
def test_what_lies_beside_images_and_is_none_of_the_class_is_asked_about(addition, first):
    classes(names=("benign (x)", "malignant"), suffix=first, count=5)
    for n, path in enumerate(sorted(ROOT.rglob("*.*"))):
        save(path.with_name(addition.format(path.stem)), noise(900 + n))
    said = warnings(folder())
    assert said.count("where * is another image") == 1
    assert "10 of 20 images are named" in said


@each("stems", [("1", "10", "100", "11"), ("a1", "b1", "a10", "b10"), ("x", "x_mask", "y", "z")])
def test_names_that_begin_alike_are_silent(stems):
    for n, name in enumerate(stems):
        for c in "ab":
            save(ROOT / c / f"{name}.png", noise(100 * ord(c) + n))
    assert not warnings(folder())


def test_what_is_no_file_is_named_and_not_waited_for():
    classes()
    os.mkfifo(ROOT / "a/notes")  # which holds no image by its name
    assert len(folder().train) == 8
    os.mkfifo(ROOT / "a/z.png")
    with pytest.raises(DataError, match=r"a/z\.png: is a pipe, socket or device, and no file"):
        folder()
    assert len(folder(broken="skip").train) == 8
    masks(Path("masked"))
    os.mkfifo("masked/images/z.png")
    os.mkfifo("masked/masks/z.png")
    with pytest.raises(DataError, match=r"z\.png"):
        segment("masked")
    os.mkfifo("pool")
    with pytest.raises(DataError, match="no image there"):
        folder(broken="skip", unlabelled=["pool"])


# Names


@each(
    "names",
    [
        ("cat", "cat\u200b"),
        ("dog", "d\u00adog"),
        ("red fox", "red_fox"),
        ("red-fox", "Red Fox"),
        ("1", "1.0"),
        ("01", "1"),
    ],
)
def test_names_that_look_alike_are_warned_of(names):
    (said,) = findings.check_class_names([*names, "other"])
    assert "differ only in case or blanks, or in how they are written" in said


@each("names", [("-1", "1"), ("1.5", "15"), ("v1", "v2"), ("1-0", "10"), ("c", "c++"), ("a", "b")])
def test_other_names_are_not(names):
    assert not findings.check_class_names(names)


def test_labels_that_are_several_or_missing_are_warned_of():
    (joined,) = findings.check_class_names(["car", "bus", "car, bus"])
    assert joined.startswith("class 'car, bus' is named like several of the classes")
    assert not findings.check_class_names(["bread, white", "soup"])
    (absent,) = findings.check_class_names(["a", "b", "nan", "N/A"])
    assert absent.startswith("classes 'N/A', 'nan' are named like a missing label")


def test_a_class_of_test_that_train_writes_otherwise_is_said():
    classes(ROOT / "train", names=("Cat", "dog"))
    classes(ROOT / "test", names=("cat", "dog"), first=500)
    with pytest.raises(DataError, match="'Cat' and 'cat' differ only in how they are written"):
        folder()


# Folders of other kinds


@each("words", [("images", "masks"), ("JPEGImages", "SegmentationClass"), ("imgs", "labels")])
def test_images_and_their_masks_are_no_two_classes(words):
    """They were read as two classes without a word."""
    for number, word in enumerate(words):
        for name in range(4):
            save(ROOT / word / f"{name}.png", noise(10 * number + name))
    said = rf"{words[0]} and \S*{words[1]} have files of the same names.*dataset=mask_folder"
    with pytest.raises(DataError, match=said):
        folder()


def test_classes_that_are_called_like_images_and_masks_are_classes():
    for number, word in enumerate(("gt", "images")):
        for name in range(4):
            save(ROOT / word / f"{word}{name}.png", noise(10 * number + name))
    assert folder().classes == ("gt", "images")


@each(
    ("export", "name"),
    [(tool_exports.of_coco, "COCO"), (tool_exports.of_voc, "Pascal VOC"), (tool_exports.of_yolo, "YOLO")],
)  # fmt: skip
def test_a_folder_of_boxes_is_offered_to_their_reader(export, name):
    for number, path in enumerate(export(ROOT)[0]):
        tool_exports.noise(path, number)
    with pytest.raises(DataError, match=rf"annotations of {name}: dataset=boxes dataset\.root="):
        folder()
