"""Inputs as people and programs leave them: each is read as it is meant, refused with the way out, or
warned of."""

import io
import json
import os
import shutil
import struct
import unicodedata
from pathlib import Path

import numpy as np
import pictures
import pytest
import torch
from pictures import save
from PIL import Image

from sft_exp.data.readers import findings
from sft_exp.datasets.boxes import Boxes
from sft_exp.datasets.image_folder import ImageFolder
from sft_exp.datasets.mask_folder import MaskFolder
from sft_exp.datasets.multilabel_table import MultilabelTable
from sft_exp.datasets.number_table import NumberTable
from sft_exp.datasets.polygons import Polygons
from sft_exp.errors import DataError

each = pytest.mark.parametrize
ROOT = Path("root")


def noise(number, size=(24, 24), mode="RGB"):
    return pictures.noise(number, size, mode)


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        path.write_text(content if isinstance(content, str) else json.dumps(content))


def classes(root=ROOT, names="ab", first=0, count=4, make=noise, suffix="png"):
    for c, name in enumerate(names):
        for n in range(count):
            save(root / name / f"{n}.{suffix}", make(first + 100 * c + n))


def folder(root=ROOT, **options):
    return ImageFolder(root=str(root), **{"size": 16, "workers": 0, **options}).load()


def warnings(corpus):
    return "\n".join(corpus.report.get("warnings", []))


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


def tree(*paths, root=ROOT, count=3):
    for number, path in enumerate(paths):
        for n in range(count):
            save(root / path / f"{n}.png", noise(1000 * number + n))


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
    (said,) = findings.class_names([*names, "other"])
    assert "differ only in case or blanks, or in how they are written" in said


@each("names", [("-1", "1"), ("1.5", "15"), ("v1", "v2"), ("1-0", "10"), ("c", "c++"), ("a", "b")])
def test_other_names_are_not(names):
    assert not findings.class_names(names)


def test_labels_that_are_several_or_missing_are_warned_of():
    (joined,) = findings.class_names(["car", "bus", "car, bus"])
    assert joined.startswith("class 'car, bus' is named like several of the classes")
    assert not findings.class_names(["bread, white", "soup"])
    (absent,) = findings.class_names(["a", "b", "nan", "N/A"])
    assert absent.startswith("classes 'N/A', 'nan' are named like a missing label")


def test_a_class_of_test_that_train_writes_otherwise_is_said():
    classes(ROOT / "train", names=("Cat", "dog"))
    classes(ROOT / "test", names=("cat", "dog"), first=500)
    with pytest.raises(DataError, match="'Cat' and 'cat' differ only in how they are written"):
        folder()


# Files that are left out, or are no images


@each(
    ("name", "form"), [("x", "PNG"), ("x.jpg?w=200", "JPEG"), ("x.png.1", "PNG"), ("x.nef", "TIFF")]
)
def test_images_without_an_image_s_name_are_counted(name, form):
    classes()
    save(ROOT / "a" / name, noise(77), format=form)
    write(ROOT / "a/notes.txt", "mine")
    assert "1 files hold images and are left out" in warnings(folder())


@each(
    ("name", "start"),
    [
        ("x.jxl", b"\xff\x0a"),
        ("x.jxl", b"\0\0\0\x0cJXL \r\n\x87\n"),
        ("x.cr3", b"\0\0\0\x18ftypcrx "),
        ("x.raf", b"FUJIFILMCCD-RAW "),
        ("x.rw2", b"IIU\0\x18\0\0\0"),
    ],
)
def test_photographs_in_formats_that_are_not_read_are_counted(name, start):
    """ISO/IEC 18181-2, section 9; the makers' raw files as libraw.org lists them."""
    classes()
    write(ROOT / "a" / name, start + bytes(300))
    assert (
        f"1 files hold images and are left out, as their suffix is of no format that is read (1 {name[1:]})"
        in warnings(folder())
    )


@each(
    ("content", "words"),
    [
        ("version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "`git lfs pull` fetches it"),
        ("\n<!DOCTYPE html><html>404</html>", "is a web page"),
        (b"\0" * 500, "holds zeros alone"),
        ("", "is empty"),
    ],
)
def test_what_is_there_in_place_of_an_image_is_said(content, words):
    classes()
    write(ROOT / "a/x.jpg", content)
    with pytest.raises(DataError, match=rf"a/x\.jpg: .*{words}"):
        folder()


@each("deep", [np.uint8, np.uint16])
def test_white_is_zero_in_tiff_files_of_any_depth(deep):
    """TIFF 6.0, tag PhotometricInterpretation: 0 = the value 0 is white."""
    most = np.iinfo(deep).max
    for n in range(8):
        pixels = np.random.default_rng(n).integers(0, most, (8, 8)).astype(deep)
        pixels[0, :2] = 0, most
        data, bits = pixels.tobytes(), 8 * deep().itemsize
        tags = {256: 8, 257: 8, 258: bits, 259: 1, 262: 0, 273: 8, 277: 1, 278: 8, 279: len(data)}
        rows = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
        head = b"II*\0" + struct.pack("<I", 8 + len(data))
        write(
            ROOT / f"{'ab'[n % 2]}/{n}.tif",
            head + data + struct.pack("<H", len(tags)) + rows + bytes(4),
        )
        if n == 0:
            first = pixels
    read = folder(size=8, channels=1).train.raw(0)[0].numpy().astype(int)
    assert np.abs(read - (255 - first.astype(float) * 255 / most)).max() <= 1


def tiff(pixels_HWC, photometric, extra):
    """TIFF 6.0 with as many bands as the pixels have; `extra` is what those beyond the colours are."""
    height, width, bands = pixels_HWC.shape
    data = pixels_HWC.tobytes()
    tags = {
        256: [width], 257: [height], 258: [8 * pixels_HWC.itemsize] * bands, 259: [1],
        262: [photometric], 273: [8], 277: [bands],
        278: [height], 279: [len(data)], 284: [1], 338: extra,
    }  # fmt: skip
    start = 8 + len(data)
    after = start + 2 + 12 * sum(map(bool, tags.values())) + 4
    entries = further = b""
    for tag, values in tags.items():
        packed = struct.pack(f"<{len(values)}H", *values)
        if tag in (273, 279):
            entries += struct.pack("<HHII", tag, 4, 1, *values)
        elif len(packed) > 4:
            entries += struct.pack("<HHII", tag, 3, len(values), after + len(further))
            further += packed
        elif values:
            entries += struct.pack("<HHI4s", tag, 3, len(values), packed)
    count = struct.pack("<H", len(entries) // 12)
    return b"II*\0" + struct.pack("<I", start) + data + count + entries + bytes(4) + further


@each(
    ("bands", "photometric", "extra", "words"),
    [
        (4, 2, [0], "8 of 8 images have 4 bands, of which 3 are read"),
        (4, 2, [], "8 of 8 images have 4 bands, of which 3 are read"),
        (5, 2, [0, 0], "8 of 8 images have 5 bands, of which 3 are read"),
        (5, 2, [2, 0], "8 of 8 images have 5 bands, of which 3 are read"),
        (2, 1, [0], "8 of 8 images have 2 bands, of which 1 is read"),
        (4, 2, [2], "transparent parts"),
        (3, 2, [], ""),
        (1, 1, [], ""),
    ],
)
def test_bands_beyond_the_colours_are_said_to_be_left_out(bands, photometric, extra, words):
    for n in range(8):
        pixels = np.random.default_rng(n).integers(0, 256, (20, 24, bands), dtype=np.uint8)
        write(ROOT / f"{'ab'[n % 2]}/{n}.tif", tiff(pixels, photometric, extra))
    corpus = folder(channels=3 if photometric == 2 else 1, size=20)
    said = warnings(corpus)
    assert words in said if words else not said
    assert ("transparent" in said) == (extra[:1] == [2])
    top = np.random.default_rng(0).integers(0, 256, (20, 24, bands), dtype=np.uint8)[:, 2:22, 0]
    assert np.array_equal(corpus.train.raw(0)[0].numpy(), top)


def test_alpha_of_a_tiff_file_is_no_band_beyond_the_colours():
    classes(make=lambda n: noise(n, mode="RGBA"), suffix="tif")
    assert not warnings(folder())


def test_a_tiff_file_that_pillow_does_not_read_is_said_to_be_one():
    classes()
    write(ROOT / "a/x.tif", tiff(np.zeros((8, 8, 6), np.uint8), 1, [0] * 5))
    with pytest.raises(DataError, match=r"a/x\.tif: is a TIFF file whose bands, bits or numbers"):
        folder()


@each(("most", "said"), [(255, True), (1023, True), (4095, True), (16383, False), (40000, False)])
def test_files_that_use_a_small_part_of_the_others_values_are_said(most, said):
    for n in range(8):
        top = 65535 if n < 4 else most
        values = np.random.default_rng(n).integers(0, top + 1, (24, 24)).astype(np.uint16)
        values[0, 0] = top
        save(ROOT / f"{'ab'[n % 2]}/{n}.png", Image.fromarray(values))
    found = [line for line in warnings(folder(channels=1)).splitlines() if "almost black" in line]
    assert bool(found) == said
    if said:
        assert f"4 of 8 images of more than 8 bits use the values 0 to {most:,} alone" in found[0]
        assert "to 65,535" in found[0]


def test_16_bit_colours_of_which_some_use_8_bits_are_said():
    for n in range(8):
        top = 65535 if n < 4 else 255
        pixels = np.random.default_rng(n).integers(0, top + 1, (20, 24, 3)).astype(np.uint16)
        write(ROOT / f"{'ab'[n % 2]}/{n}.tif", tiff(pixels, 2, []))
    assert "4 of 8 images of more than 8 bits use the values 0 to 255 alone" in warnings(folder())


# Files that tell the classes apart


@each(
    ("other", "words"),
    [
        ({"make": lambda n: noise(n, mode="L")}, "colours alone tell classes apart"),
        ({"make": lambda n: noise(n, (30, 40))}, "sizes alone tell classes apart"),
        ({"suffix": "jpg"}, "formats alone tell classes apart"),
        ({"make": lambda n: noise(n, (24 + n % 2, 24))}, ""),
        ({"count": 3, "suffix": "jpg"}, ""),
    ],
)
def test_a_property_of_the_files_that_is_the_class_is_warned_of(other, words):
    classes(names="a")
    classes(names="b", first=500, **other)
    said = warnings(folder())
    assert words in said if words else not said


# Masks


def masks(root=ROOT, part="", make=None, count=4, size=(24, 24), first=0, suffix="png", **options):
    """Images and masks; `make` gives a mask's picture for its classes 0 and 1, as mode L."""
    for n in range(count):
        save(root / part / f"images/{n}.png", noise(first + n, size))
        mask = Image.new("L", size)
        mask.paste(1, (4 + n, 4, 16, 18))
        save(root / part / f"masks/{n}.{suffix}", make(mask, n) if make else mask, **options)


def segment(root=ROOT, **options):
    return MaskFolder(root=str(root), **{"size": 24, "workers": 0, **options}).load()


def written(n):
    mask = np.zeros((24, 24), np.uint8)
    mask[4:18, 4 + n : 16] = 1
    return mask


def read_as_written(corpus):
    return all(
        np.array_equal(corpus.train.target("mask")[n].numpy(), written(n))
        for n in range(len(corpus.train))
    )


@each(
    ("parts", "beside"),
    [
        (("train", "test"), "extra"),
        (("my_train", "my_test"), "cars"),
        (("Train_A", "Val_A", "Test_A"), ""),
        (("train", "test"), "train_b"),
    ],
)
@each("above", [True, False])
def test_splits_of_masks_stay_apart_whatever_lies_beside_them(parts, beside, above):
    for n, part in enumerate([*parts, *([beside] if beside else [])]):
        masks(ROOT / part if above else ROOT, "", first=100 * n)
        if not above:
            for kind in ("images", "masks"):
                (ROOT / kind / part).mkdir()
                for file in sorted((ROOT / kind).glob("*.png")):
                    file.rename(ROOT / kind / part / file.name)
    corpus = segment()
    assert (len(corpus.train), len(corpus.test)) == (4 * (len(parts) - 1), 4)
    said = warnings(corpus)
    where = ROOT if above else ROOT / "images"
    assert (f"images beside the splits in {where} are not read ({beside}/)" in said) == bool(beside)
    assert ("a word of the folders' names" in said) == (parts[0] != "train")


@each("lists", [("train", "val"), ("train", "test"), ("splits/train", "splits/test")])
def test_lists_of_splits_are_named(lists):
    masks()
    classes(Path("photos"))
    for name in lists:
        write(ROOT / f"{name}.txt", "0\n1\n")
        write(Path("photos") / f"{Path(name).name}.txt", "0\n1\n")
    for name in lists:
        assert f"{name}.txt" in warnings(segment())
    assert "may list splits, and are not read" in warnings(segment())
    assert "may list splits, and are not read" in warnings(folder(Path("photos")))


def test_a_test_folder_without_train_is_said_to_be_learnt():
    masks()
    for kind in ("images", "masks"):
        (ROOT / kind).rename(ROOT / "test")
        (ROOT / kind).mkdir()
        (ROOT / "test").rename(ROOT / kind / "test")
    assert "test in root/images is training data, as no folder is named train" in warnings(
        segment()
    )


def palette(mask, n, colours=((0, 0, 0), (200, 0, 0)), swapped=()):
    values = 1 - np.asarray(mask) if n in swapped else np.asarray(mask)
    picture = Image.fromarray(values.astype(np.uint8), mode="L")
    picture = picture.convert("P")
    picture.putdata(values.flatten().tolist())
    picture.putpalette([v for c in (colours[::-1] if n in swapped else colours) for v in c])
    return picture


def test_palettes_that_exchange_their_colours_between_masks_are_refused():
    masks(make=palette)
    assert read_as_written(segment())
    shutil.rmtree(ROOT)
    masks(make=lambda mask, n: palette(mask, n, swapped=(1, 3)))
    with pytest.raises(
        DataError,
        match=r"masks/1\.png: its palette gives the value \d the colour.*dataset\.colours",
    ):
        segment()
    colours = {"background": [0, 0, 0], "cell": [200, 0, 0]}
    assert read_as_written(segment(colours=colours))


def black_and_white(make):
    """A mask's picture of 0 and 255, changed by `make`."""
    return lambda mask, n: make(mask.point(lambda v: 255 * v))


@each(
    "make",
    [
        lambda picture: picture.quantize(
            2
        ),  # the commonest colour first, as some programs order them
        lambda picture: picture.convert("RGB").quantize(2, Image.Quantize.MEDIANCUT),
        lambda picture: palette(1 - np.asarray(picture) // 255, 0, ((255,) * 3, (0,) * 3)),
    ],
)
def test_palettes_that_show_the_first_class_white_are_said(make):
    masks(make=black_and_white(make))
    (said,) = segment().report["warnings"]
    assert "show background white and object black" in said
    colours = {"background": [0, 0, 0], "object": [255, 255, 255]}
    corpus = segment(colours=colours)
    assert read_as_written(corpus)
    assert not warnings(corpus)


@each("colours", [((0, 0, 0), (255, 255, 255)), ((0, 0, 0), (128, 0, 0)), ((255,) * 3, (9, 9, 9))])
def test_other_palettes_are_silent(colours):
    masks(make=lambda mask, n: palette(mask, n, colours))
    assert not warnings(segment())


@each("changed", [(1,), (1, 3), (0, 1, 2)])
def test_masks_of_0_and_255_among_masks_of_0_and_1_are_said(changed):
    masks(make=lambda mask, n: mask.point(lambda v: 255 * v) if n in changed else mask)
    (said, *_) = segment().report["warnings"]
    words = "masks hold background and the ignored value 255 alone, and others hold object"
    assert f"{len(changed)} of 4 training {words}" in said


@each("ignored", [(slice(0, 2), slice(0, 24)), (slice(4, 18), slice(8, 9))])
def test_ignored_edges_are_silent(ignored):
    def make(mask, n):
        pixels = np.array(mask)
        pixels[ignored] = 255
        return Image.fromarray(pixels)

    masks(make=make)
    assert not warnings(segment())


@each("options", [{}, {"memory": 0.0}])
def test_a_class_that_the_canvas_s_size_loses_is_said(options):
    def speck(mask, n, least=0):
        mask.paste(0, (0, 0, 240, 240))
        mask.paste(1, (9, 9 + n, 11, 10 + n) if n >= least else (50, 50, 200, 200))
        return mask

    masks(make=speck, size=(240, 240))
    with pytest.raises(DataError, match=r"no pixel of object is left.*larger dataset\.size="):
        segment(size=8, **options)
    assert not warnings(segment(size=240, **options))
    masks(make=lambda mask, n: speck(mask, n, least=1), size=(240, 240))
    assert "object in 3 of 4" in warnings(segment(size=8, **options))


def test_masks_are_turned_by_their_own_orientation():
    exif = Image.Exif()
    exif[0x0112] = 3
    masks(exif=exif)
    for n in range(4):
        save(ROOT / f"images/{n}.png", noise(n), exif=exif)
    assert all(
        np.array_equal(mask.numpy(), written(n)[::-1, ::-1])
        for n, mask in enumerate(segment().train.target("mask"))
    )


@each(
    ("options", "words"),
    [
        ({"format": "JPEG"}, "is compressed as JPEG, which changes values"),
        ({"suffix": "tif", "compression": "jpeg"}, "is compressed as jpeg, which changes values"),
        (
            {"suffix": "tif", "save_all": True, "append_images": [Image.new("L", (24, 24))]},
            "has 2 frames or pages, and a mask is one",
        ),
    ],
)
def test_files_that_hold_no_mask_are_refused(options, words):
    masks(**options)
    with pytest.raises(DataError, match=words):
        segment()


def test_a_mask_whose_rows_and_columns_are_exchanged_is_said():
    masks(size=(32, 24))
    for n in range(4):
        save(ROOT / f"images/{n}.png", noise(n, (24, 32)))
    with pytest.raises(DataError, match="is 32 x 24, its image 24 x 32: rows and columns"):
        segment()


@each(
    ("images", "masks_in"),
    [("Images", "Masks"), ("image", "mask"), ("img_dir", "ann_dir"), ("JPEGImages", "labels")],
)
def test_usual_names_of_the_two_folders(images, masks_in):
    masks()
    (ROOT / "images").rename(ROOT / images)
    (ROOT / "masks").rename(ROOT / masks_in)
    assert read_as_written(segment())


def test_a_root_of_masks_one_folder_too_high_is_said():
    masks(ROOT / "unpacked")
    with pytest.raises(
        DataError, match=r"There is root/unpacked/images: is dataset\.root too high"
    ):
        segment()


@each("parts", [("train", "val", "test"), ("training", "validation", "testing")])
def test_splits_below_images_and_masks(parts):
    """mmsegmentation's and Ultralytics's layout: images/train, masks/train."""
    for n, part in enumerate(parts):
        masks(Path(part), first=100 * n)
        for kind in ("images", "masks"):
            (ROOT / kind).mkdir(parents=True, exist_ok=True)
            Path(part, kind).rename(ROOT / kind / part)
    corpus = segment()
    assert (len(corpus.train), len(corpus.test)) == (8, 4)


def test_masks_whose_names_differ_in_case_or_unicode_s_form():
    masks()
    for n in range(4):
        (ROOT / f"images/{n}.png").rename(ROOT / f"images/IMG_\u00e9{n}.png")
        name = unicodedata.normalize("NFD", f"img_\u00e9{n}.png")
        (ROOT / f"masks/{n}.png").rename(ROOT / "masks" / name)
    assert read_as_written(segment())


def test_copies_of_images_with_masks():
    masks()
    shutil.copy(ROOT / "images/0.png", ROOT / "images/1.png")
    with pytest.raises(DataError, match="1 images have a copy with another annotation"):
        segment()
    shutil.copy(ROOT / "masks/0.png", ROOT / "masks/1.png")
    assert "1 images are copies of others" in warnings(segment())


# Tables


def table(rows, header="file,target", count=8, encoding="utf-8", images="im"):
    for n in range(count):
        save(Path(images, f"{n}.png"), noise(n))
    text = "\n".join([header, *(rows(n) if callable(rows) else rows[n] for n in range(count))])
    write(Path("t.csv"), text.encode(encoding))


def numbers(**options):
    return NumberTable(table="t.csv", root="im", **{"size": 16, **options}).load()


def sets(**options):
    return MultilabelTable(table="t.csv", root="im", **{"size": 16, "workers": 0, **options}).load()


def values(corpus):
    return corpus.train.target("value")[:, 0].tolist()


@each(
    ("header", "rows", "words"),
    [
        ("file,target", lambda n: f"{n}.png,{n},5", "line 2: has more cells than the first line"),
        ("file,target", lambda n: f"{n}.png,{n}{',5' if n == 3 else ''}", "line 5: has more cells"),
        ("file,target,target", lambda n: f"{n}.png,{n},1", "has several columns target"),
        ("file,Target,TARGET", lambda n: f"{n}.png,{n},1", "has several columns target"),
        ("file,target,note", lambda n: f"{n}.png,{n}," + '"' * (n == 2), "quotation mark not closed"),
        (
            "file;target",
            lambda n: f"{n}.png;{n}{',' if n % 2 else '.'}125",
            "numbers with a comma .1,125 in line 3. and with a point .0.125 in line 2.",
        ),
        ("file,target", lambda n: f"{n}.png,{1_700_000_000 + n}", "subtract a constant"),
        ("file,target", lambda n: f"{n}.png,{'1e39' if n == 3 else n}", "too large for 32-bit"),
        ("file,target", lambda n: f"{n}.png,{'nan' if n == 3 else n}", "line 5: target is 'nan'"),
        ("file,target", lambda n: f"{n}.png,{'-inf' if n == 3 else n}", "target is '-inf'"),
        ("file,target,split", lambda n: f"{n}.png,{'' if n > 5 else n},{'test' if n > 5 else ''}",
         "6.png is a test image and has no number"),
        ("file,target,group", lambda n: f"{n}.png,{n},{'' if n == 3 else 'g'}", "the group is missing"),
        ("file,target,split,group", lambda n: f"{n}.png,{n},{'test' if n > 5 else ''},{n % 2}",
         "group 0 is in train and in test"),
    ],
)  # fmt: skip
def test_tables_of_numbers_that_mean_something_else_are_refused(header, rows, words):
    table(rows, header)
    with pytest.raises(DataError, match=words):
        numbers()


@each(
    ("header", "rows", "encoding", "wanted"),
    [
        ("file;target;;", lambda n: f"{n}.png;{n},5;;", "utf-8-sig", [n + 0.5 for n in range(8)]),
        ("\ufeff\ufefffile,target", lambda n: f"{n}.png,{n}", "utf-8", [*range(8)]),
        ("file\ttarget", lambda n: f"{n}.png\t{n}", "utf-16-le", [*range(8)]),
        ("file,target", lambda n: f"{n}.png,\u2212{n}", "utf-8", [-n for n in range(8)]),
        ("file,target", lambda n: f"C:\\Users\\me\\{n}.png,{n}", "utf-8", [*range(8)]),
        ("file,target", lambda n: f"/home/me/{n}.PNG,{n}", "utf-8", [*range(8)]),
        ("file,target", lambda n: f"https://x.org/im/{n}.png,{n}", "utf-8", [*range(8)]),
    ],
)
def test_tables_of_numbers_are_read_as_meant(header, rows, encoding, wanted):
    table(rows, header, encoding=encoding)
    assert values(numbers()) == wanted


def test_images_without_a_number_are_pretrained_on():
    table(lambda n: f"{n}.png,{'' if n > 5 else n}")
    corpus = numbers()
    assert (len(corpus.train), corpus.extra.ids) == (6, ["6.png", "7.png"])


def test_a_number_that_stands_for_a_missing_one_is_warned_of():
    table(lambda n: f"{n}.png,{-999 if n == 2 else n / 4}")
    assert "has the value -999 in 1 of 8 rows, and the others are 0 to 1.75" in warnings(numbers())
    for value in (0, -1, 99, 999):
        table(lambda n, value=value: f"{n}.png,{value if n == 2 else 50 + n / 4}")
        assert f"has the value {value} in 1 of 8 rows" in warnings(numbers())
    for number in (lambda n: 2**n, lambda n: n - 1, lambda n: 10 * n, lambda n: 92 + n):
        table(lambda n, number=number: f"{n}.png,{number(n)}")
        assert not warnings(numbers())


def test_copies_of_images_with_numbers():
    table(lambda n: f"{n}.png,{n}")
    shutil.copy("im/0.png", "im/1.png")
    with pytest.raises(DataError, match=r"0\.png and 1\.png"):
        numbers()
    write(Path("t.csv"), Path("t.csv").read_text().replace("1.png,1", "1.png,0"))
    assert "1 images are copies of others" in warnings(numbers())


@each(
    ("named", "there", "hint"),
    [
        ("{}.jpg", "{}.png", "0.png is there: write names without suffix"),
        ("{}", "00{}.png", "000.png is there: did a spreadsheet change the numbers"),
        ("{}.0", "{}.png", "0.png is there: did a spreadsheet change the numbers"),
        ("{}.png", "sub/{}.png", "im/sub/0.png is there: write the folder, too"),
    ],
)
@each("reader", [NumberTable, ImageFolder])
def test_a_name_that_nearly_fits_shows_the_file(named, there, hint, reader):
    for n in range(8):
        save(Path("im", there.format(n)), noise(n))
    rows = [f"{named.format(n)},{n % 2}" for n in range(8)]
    key = {NumberTable: "table", ImageFolder: "labels"}[reader]
    column = {NumberTable: "target", ImageFolder: "label"}[reader]
    write(Path("t.csv"), "\n".join([f"file,{column}", *rows]))
    with pytest.raises(DataError, match=hint):
        reader(root="im", **{key: "t.csv"}).load()


@each(
    ("content", "words"),
    [
        (b"PK\x03\x04xl/workbook.xml", "is an Excel workbook or another zip file"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1", "is an old Excel workbook"),
        (b"PAR1....", "is a Parquet file"),
    ],
)
def test_tables_that_are_no_text_are_named(content, words):
    write(Path("t.csv"), content)
    with pytest.raises(DataError, match=f"{words}.*save it as CSV"):
        numbers()


@each("header", ["FILE,Label,Split,GROUP", "file,label,split,group"])
def test_columns_in_any_case_are_used(header):
    table(lambda n: f"{n}.png,{'ab'[n % 2]},{'Test' if n > 5 else 'TRAIN'},g{n // 2}", header)
    corpus = folder(Path("im"), labels="t.csv")
    assert (len(corpus.train), len(corpus.test)) == (6, 2)
    assert corpus.test.groups == ["g3", "g3"]
    assert len(folder(Path("im"), labels="t.csv", group="Group").train.groups) == 6


def hot(n):
    return f"{n % 2},{n // 2 % 2}"


@each("kind", ["classes", "numbers", "columns of 0 and 1"])
@each(
    ("column", "words"),
    [
        ("subset", ("train", "test")),
        ("Usage", ("Training", "PublicTest", "PrivateTest")),
        ("partition", ("dev", "TEST", "holdout")),
        ("is_test", ("0", "1")),
        ("isTest", ("False", "True")),
        ("is_training_image", ("1", "0")),
        ("is_train", ("WAHR", "FALSCH")),
    ],
)
def test_a_column_that_names_splits_is_read_as_the_split(column, words, kind):
    """Of images without a label the cell is empty."""

    def split(n):
        return "" if n == 8 else words[max(0, min(n - 5, len(words) - 1))]

    if kind == "classes":
        table(lambda n: f"{n}.png,{'ab'[n % 2] * (n < 8)},{split(n)}", f"file,label,{column}", 9)
        corpus = folder(Path("im"), labels="t.csv")
        assert corpus.classes == ("a", "b")
    elif kind == "numbers":
        table(lambda n: f"{n}.png,{n if n < 8 else ''},{split(n)}", f"file,target,{column}", 9)
        corpus = numbers()
    else:
        table(
            lambda n: f"{n}.png,{hot(n) if n < 8 else ','},{split(n)}", f"file,cat,dog,{column}", 9
        )
        corpus = sets()
        assert corpus.classes == ("cat", "dog")
    assert corpus.test.ids == ["6.png", "7.png"]
    assert (len(corpus.train), len(corpus.extra)) == (6, 1)
    assert not warnings(corpus)


@each(
    ("header", "row", "words"),
    [
        ("is_valid", lambda n: n > 5, "column is_valid names images of train and val alone"),
        ("subset", lambda n: "val" if n > 5 else "train", "of train and val alone"),
        ("fold", lambda n: n % 4, "column fold numbers folds and is not used"),
        ("kfold", lambda n: n % 2, "column kfold numbers folds and is not used"),
        ("cv_fold", lambda n: n % 4, "column cv_fold numbers folds and is not used"),
        ("test", lambda n: int(n > 5), "call it is_test if it marks images of test"),
        ("valid", lambda n: int(n > 5), "call it is_valid if it marks images of val"),
        ("train", lambda n: int(n < 6), "call it is_train if it marks images of train"),
        (
            "is_test,subset",
            lambda n: f"{int(n > 5)},{'test' if n > 4 else 'train'}",
            "columns is_test and subset name different splits, and none is used",
        ),
    ],
)
@each("kind", ["classes", "numbers", "columns of 0 and 1"])
def test_a_column_that_may_name_splits_is_warned_of(header, row, words, kind):
    if kind == "classes":
        table(lambda n: f"{n}.png,{'ab'[n % 2]},{row(n)}", f"file,label,{header}")
        corpus = folder(Path("im"), labels="t.csv")
    elif kind == "numbers":
        table(lambda n: f"{n}.png,{n},{row(n)}", f"file,target,{header}")
        corpus = numbers()
    else:
        table(lambda n: f"{n}.png,{hot(n)},{row(n)}", f"file,cat,dog,{header}")
        corpus = sets()
        if header == "train":  # which may be a class
            assert corpus.classes == ("cat", "dog", "train")
            return
        assert corpus.classes == ("cat", "dog", *[c for c in (header,) if c in ("test", "valid")])
    assert (len(corpus.train), corpus.test) == (8, None)
    (said,) = corpus.report["warnings"]
    assert words in said


@each(
    ("header", "row"),
    [
        ("split,is_test", lambda n: f"{'test' if n > 5 else 'train'},{n % 2}"),
        ("split,fold", lambda n: f"{'test' if n > 5 else 'train'},{n % 4}"),
        ("is_test,is_valid", lambda n: f"{int(n > 5)},{int(n == 5)}"),
        ("is_test,subset", lambda n: f"{int(n > 5)},{'test' if n > 5 else 'train'}"),
        ("subset,patient,age", lambda n: f"{'test' if n > 5 else 'train'},p{n},{30 + n}"),
    ],
)
def test_columns_beside_the_split_are_no_matter(header, row):
    table(lambda n: f"{n}.png,{'ab'[n % 2]},{row(n)}", f"file,label,{header}")
    corpus = folder(Path("im"), labels="t.csv")
    assert (len(corpus.train), len(corpus.test)) == (6, 2)
    assert not warnings(corpus)


# Numbers whose thousands are separated


@each(
    ("cells", "separator"),
    [
        (["950", "1,234", "12,500", "870"], "\t"),
        (["950", "1.234", "12.500", "870"], ";"),
        (["950", "1.234", "12.500", "870"], ","),
        (["\u2212950", "-1,234", "12,500", "870"], ";"),
        (["950", '"1,234"', '"12,500"', "870"], ","),
        (["950", "1.234.567", "12.500", "870"], "\t"),
    ],
)
def test_thousands_beside_whole_numbers_are_refused(cells, separator):
    table(lambda n: f"{n}.png{separator}{cells[n]}", f"file{separator}target", 4)
    words = r"before exactly three digits \(-?1[,.]234.* in line 3\), beside whole numbers \(.*950 "
    with pytest.raises(DataError, match=words + r"in line 2\).*\(1234\).*950[,.]0 for "):
        numbers()


@each(
    "cell", ["1 234", "1\u00a0234", "1\u202f234", "1'234", "1\u2019234", "-1 234 567", "1,234,567"]
)
def test_other_signs_between_thousands_are_no_number(cell):
    table(lambda n: f'{n}.png,"{cell if n == 3 else n}"')
    with pytest.raises(DataError, match=r"before exactly three|line 5.*no number; write thousands"):
        numbers()


@each(
    ("cells", "separator"),
    [
        (["9,500", "1,234", "12,500", "8,700"], "\t"),
        (["9.500", "1.234", "12.500", "8.700"], ";"),
        (["9,500", "1,234", "12,500", "0"], ";"),
    ],
)
def test_numbers_of_three_decimals_or_of_thousands_are_warned_of(cells, separator):
    table(lambda n: f"{n}.png{separator}{cells[n]}", f"file{separator}target", 4)
    corpus = numbers()
    assert values(corpus)[1] == pytest.approx(1.234)
    (said,) = corpus.report["warnings"]
    assert "stands before exactly three digits (9" in said
    assert "write thousands without a separator" in said


@each(
    ("cells", "separator"),
    [
        (["0.125", "1.234", "2.500", "3.125"], "\t"),
        (["0,125", "1,234", "2,500", "3,125"], ";"),
        (["1.234", "1.2", "2.375", "3"], ";"),
        (["1,234", "0,5", "2,375", "3"], ";"),
        (["9.500", "1.234", "12.500", "8.700"], ","),
        (["950", "1234", "2500", "870"], ";"),
        (["1.234e+02", "2.345e+02", "3", "4"], "\t"),
    ],
)
def test_decimals_are_no_thousands(cells, separator):
    table(lambda n: f"{n}.png{separator}{cells[n]}", f"file{separator}target", 4)
    corpus = numbers()
    assert values(corpus) == pytest.approx([float(c.replace(",", ".")) for c in cells])
    assert not warnings(corpus)


# Encodings


@each(
    ("names", "encoding", "shown"),
    [
        (("кошка", "собака"), "cp1251", "'êîøêà' in line 2"),
        (("猫", "狗"), "gbk", "'Ã¨' in line 2"),
        (("ネコ", "イヌ"), "shift_jis", "in line 2"),
        (("pes", "kočka"), "cp1250", "'koèka' in line 3"),
        (("thé", "café"), "mac_roman", "'thŽ' in line 2"),
        (("grün", "rot"), "cp1252", "'grün' in line 2"),
        (("a", "b\u00a0c"), "cp1252", r"'b\xa0c' in line 3"),
    ],
)
@each("kind", ["labels", "table"])
def test_a_table_whose_encoding_is_guessed_is_said(names, encoding, shown, kind):
    header = f"file,{kind if kind == 'labels' else 'label'}"
    table(lambda n: f"{n}.png,{names[n % 2]}", header, encoding=encoding)
    corpus = sets() if kind == "labels" else folder(Path("im"), labels="t.csv")
    (said,) = corpus.report["warnings"]
    assert "neither UTF-8 nor UTF-16 and is read as Windows-1252" in said
    assert shown in said
    assert "save it as UTF-8" in said


@each("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le"])
def test_other_encodings_are_known(encoding):
    table(lambda n: f"{n}.png,{('кошка', '猫')[n % 2]}", "file,label", encoding=encoding)
    corpus = folder(Path("im"), labels="t.csv")
    assert corpus.classes == ("кошка", "猫")
    assert not warnings(corpus)


def test_a_table_in_no_known_encoding_names_the_remedy():
    table(lambda n: f"{n}.png,{n}", images="im")
    write(Path("t.csv"), b"file,target\n0.png,\x81\n")
    with pytest.raises(DataError, match=r"codec can't decode.*; save it as UTF-8"):
        numbers()


# Lists of labels in one cell


@each("name", ["cat dog", "cat;dog", "cat, dog", "cat|dog", "cat/dog", "cat+dog", "cat & dog"])
def test_labels_that_are_several_classes_have_one_warning(name):
    table(lambda n: f'{n}.png,"{("cat", "dog", name)[n % 3]}"', "file,label")
    (said,) = folder(Path("im"), labels="t.csv").report["warnings"]
    sign = name.removeprefix("cat").removesuffix("dog").strip() or " "
    assert f"dataset=multilabel_table 'dataset.separator=\"{sign}\"'" in said


@each("name", ["cat dog", "cat/dog", "cat+dog", "cat & dog", "cat and dog", "cat und dog"])
def test_separators_that_are_not_looked_for_are_named(name):
    table(lambda n: f"{n}.png,{('cat', 'dog', name)[n % 3]}", "file,labels")
    sign = name.removeprefix("cat").removesuffix("dog").strip() or " "
    (said,) = sets().report["warnings"]
    assert f"'dataset.separator=\"{sign}\"' separates the classes" in said
    assert sets(separator=sign).classes == ("cat", "dog")


@each(
    "names",
    [
        ("red fox", "fox"),
        ("ice cream", "ice"),
        ("red_fox", "red", "fox"),
        ("a b", "c"),
        ("salt and pepper", "salt"),
        ("sandwich", "hand"),
    ],
)
def test_names_of_several_words_are_one_class(names):
    assert not findings.class_names(names)


LISTS = {
    "Python": lambda names: str(names),
    "JSON": json.dumps,
    "set": lambda names: "{" + ", ".join(map(repr, names)) + "}" if names else "[]",
    "tuple": lambda names: str(tuple(names)),
    "NumPy": lambda names: str(np.array(names)) if names else "[]",
    "Label Studio": lambda names: json.dumps({"choices": names}),
}


def listed(kind, names):
    return LISTS[kind](names).replace('"', '""')


@each("kind", LISTS)
def test_lists_as_programs_write_them_are_lists(kind):
    wanted = [["cat", "dog"], ["dog"], ["red fox, small", "cat"], []] * 2
    table(lambda n: f'{n}.png,"{listed(kind, wanted[n])}"', "file,labels")
    corpus = sets()
    assert corpus.classes == ("cat", "dog", "red fox, small")
    rows = corpus.train.target("label_set").tolist()
    assert [[c for c, v in zip(corpus.classes, r, strict=True) if v] for r in rows] == [
        sorted(names) for names in wanted
    ]
    assert not warnings(corpus)


@each("cells", [("101", "011"), ("1 0 1", "0 1 1"), ("1;0;1", "0;1;1"), ("10", "01")])
def test_digits_that_say_yes_or_no_are_no_classes(cells):
    table(lambda n: f"{n}.png,{cells[n % 2]}", "file,labels")
    with pytest.raises(DataError, match=r"labels holds .* write a column of 0 and 1 for each"):
        sets()


@each("cells", [("10", "11"), ("0", "1"), ("1;2", "0;1"), ("101", "0")])
def test_other_digits_are_classes(cells):
    table(lambda n: f"{n}.png,{cells[n % 2]}", "file,labels")
    assert len(sets().classes) >= 2


@each("name", ["unlabelled", "not labeled", "unknown", "TODO", "skip", "to_classify", "tbd"])
def test_labels_for_images_without_one_are_asked_about(name):
    table(lambda n: f"{n}.png,{('cat', 'dog', name)[n % 3]}", "file,label")
    said = f"class '{name}' is named like images without a label, and learnt: empty the cells"
    assert said in warnings(folder(Path("im"), labels="t.csv"))
    table(lambda n: f"{n}.png,{('cat', 'dog', name)[n % 3]}", "file,labels")
    assert said in warnings(sets())


@each("kind", ["classes", "numbers", "columns of 0 and 1"])
@each("column", ["patient", "Patient_ID", "subject no", "video", "StudentName"])
def test_a_column_of_what_belongs_together_is_asked_about(column, kind):
    head, row, read = {
        "classes": ("label", lambda n: "ab"[n % 2], lambda: folder(Path("im"), labels="t.csv")),
        "numbers": ("target", str, numbers),
        "columns of 0 and 1": ("cat,dog", hot, sets),
    }[kind]
    for values, words in ((4, f"column {column} may say which images belong together"), (8, "")):
        table(lambda n, values=values: f"{n}.png,{row(n)},p{n % values}", f"file,{head},{column}")
        assert words in (said := warnings(read()))
        assert bool(words) == bool(said)
    table(lambda n: f"{n}.png,{row(n)},p{n // 2},{n // 2}", f"file,{head},{column},group")
    assert not warnings(read())


@each("missing", ["nan", "NA", "-", "None"])
def test_groups_that_are_missing_are_asked_about(missing):
    row = ("p1", missing, "p2", missing)
    table(lambda n: f"{n}.png,{'aabb'[n % 4]},{row[n % 4]}", "file,label,group")
    said = f"group '{missing}' is named like a missing one, and its 4 images are taken to belong"
    assert said in warnings(folder(Path("im"), labels="t.csv"))


@each("kind", LISTS)
def test_lists_of_labels_are_no_class(kind):
    table(lambda n: f'{n}.png,"{listed(kind, [("cat", "dog")[n % 2]])}"', "file,label")
    with pytest.raises(DataError, match=r"line 2: label is .*cat.*dataset=multilabel_table reads"):
        folder(Path("im"), labels="t.csv")


@each("cell", ["[cat, dog]", "{cat}", "[None, 'cat']", "[nan]", "[1, 0, 0, 1]", "{'cat': 1}"])
def test_lists_that_cannot_be_read_are_refused(cell):
    table(lambda n: f'{n}.png,"{cell if n else "dog"}"', "file,labels")
    with pytest.raises(DataError, match=r"line 3: labels is .*(no list of names|twice)"):
        sets()


def test_brackets_in_names():
    table(lambda n: f'{n}.png,"{("(other)", "a (b)", "c")[n % 3]}"', "file,label")
    assert not warnings(folder(Path("im"), labels="t.csv"))
    table(lambda n: f'{n}.png,"{("[UNK]", "{x}", "c")[n % 3]}"', "file,label")
    assert "classes '[UNK]', '{x}' are written like a list" in warnings(
        folder(Path("im"), labels="t.csv")
    )


# Columns of 0 and 1


@each("cell", ["nan", "2", "0.6", "x", "?", "-"])
def test_an_odd_cell_does_not_remove_a_class(cell):
    table(lambda n: f"{n}.png,{n % 2},{cell if n == 5 else n // 2 % 2}", "file,cat,dog")
    with pytest.raises(DataError, match=r"line 7: dog is '.*'.*dataset\.classes="):
        sets()
    assert sets(classes=["cat"]).classes == ("cat",)


@each("values", [(3, 41, 0, 7), ("low", "high"), (0.1, 0.7, 0.4)])
def test_columns_of_other_values_are_no_class(values):
    table(lambda n: f"{n}.png,{hot(n)},{values[n % len(values)]}", "file,cat,dog,other")
    corpus = sets()
    assert corpus.classes == ("cat", "dog")
    assert not warnings(corpus)


@each("words", [("WAHR", "FALSCH"), ("VRAI", "FAUX"), ("y", "n"), ("Yes", "No")])
def test_words_for_yes_and_no(words):
    table(lambda n: f"{n}.png;{words[n % 2]};{words[n // 2 % 2]}", "file;cat;dog")
    corpus = sets()
    assert corpus.train.target("label_set")[:2].tolist() == [[1, 1], [0, 1]]


@each("mark", ["x", "X", "✓", "✔\ufe0f", "☑", "yes", "TRUE", "1", "+", "Wahr"])
def test_marks_are_classes_and_empty_cells_beside_them_are_none(mark):
    table(lambda n: f"{n}.png,{mark * (n % 2)},{mark * (n // 2 % 2)}", "file,cat,dog")
    corpus = sets()
    assert corpus.classes == ("cat", "dog")
    found = dict(zip(corpus.train.ids, corpus.train.target("label_set").tolist(), strict=True))
    assert found["1.png"] == [1, 0]
    assert found["2.png"] == [0, 1]
    assert found["3.png"] == [1, 1]
    assert corpus.extra.ids == ["0.png", "4.png"]
    assert "no cell of the classes says no: empty ones beside a mark do" in warnings(corpus)
    assert "2 images without a mark (0.png, 4.png) are not labelled" in warnings(corpus)


@each("no", ["-", "✗", "❌", "\u2014"])
@each("mark", ["✓", "x", "✅"])
def test_signs_for_yes_and_no(mark, no):
    table(lambda n: f"{n}.png,{(no, mark)[n % 2]},{(no, mark)[n // 2 % 2]}", "file,cat,dog")
    corpus = sets()
    assert corpus.train.target("label_set")[:2].tolist() == [[0, 0], [1, 0]]
    assert not warnings(corpus)


@each("cells", [("✓", "x"), ("x", "1"), ("✓", "no"), ("✗", "☒", "✓")])
def test_signs_whose_meaning_is_unclear_are_refused(cells):
    table(lambda n: f"{n}.png,{n % 2},{cells[n % len(cells)]}", "file,cat,dog")
    with pytest.raises(DataError, match=r"column dog holds .*: which of them says yes"):
        sets()
    assert sets(classes=["cat"]).classes == ("cat",)


def test_words_beside_marks_are_no_class():
    table(lambda n: f"{n}.png,{'x' * (n % 2)},{('o', 'x')[n % 2]}", "file,cat,grade")
    assert sets().classes == ("cat",)


@each("no", ["0", ""])
@each("mark", ["1", "x", "✓", "yes", "TRUE", "1.0"])
def test_one_marked_column_is_the_class_of_a_folder_s_image(mark, no):
    no = "no" if mark == "yes" and no else "FALSE" if mark == "TRUE" and no else no
    no = "-" if mark in "x✓" and no else no

    def row(n):
        cells = [mark if n % 3 == c else no for c in range(3)] if n < 7 else ["", "", ""]
        return f"{n}.png,{','.join(cells)},{n},{int(n in (1, 3, 5))}"

    table(row, "file,cat,dog,owl,age,is_test")
    corpus = folder(Path("im"), labels="t.csv")
    assert corpus.classes == ("cat", "dog", "owl")
    parts = (corpus.train, corpus.test)
    found = {n: corpus.classes[y] for p in parts for n, y in zip(p.ids, p.y.tolist(), strict=True)}
    assert found == {f"{n}.png": ("cat", "dog", "owl")[n % 3] for n in range(7)}
    assert corpus.test.ids == ["1.png", "3.png", "5.png"]
    assert "is its column that says yes: cat, dog, owl" in warnings(corpus)


@each(
    ("row", "words"),
    [
        (lambda n: f"{hot(n)},{n}", "line 2: is of no class, by the columns cat, dog"),
        (lambda n: f"1,{n % 2},{n}", "line 3: is marked as cat and dog"),
        (lambda n: f"x,{'x' * (n % 2)},{n}", "line 3: is marked as cat and dog"),
    ],
)
def test_columns_of_0_and_1_are_no_labels_of_folders(row, words):
    table(lambda n: f"{n}.png,{row(n)}", "file,cat,dog,age")
    with pytest.raises(
        DataError, match=rf"{words}.*dataset=multilabel_table dataset\.table=t\.csv"
    ):
        folder(Path("im"), labels="t.csv")


def test_columns_of_probabilities_are_no_labels_of_folders():
    table(lambda n: f"{n}.png,0.{n}5,0.{9 - n}5", "file,cat,dog")
    with pytest.raises(DataError, match=r"no column label; its first line has file,cat,dog"):
        folder(Path("im"), labels="t.csv")


# Labels that are no classes


@each(
    ("label", "words"),
    [
        (lambda n: f"{1 + 0.37 * n:.2f}", "8 images have 8 classes, which are numbers (1.00, 1.37"),
        (lambda n: f"{n // 2 + n % 3 / 3:.2f}", "did you mean dataset=number_table?"),
        (lambda n: f"{1 + 0.37 * n:.2f}".replace(".", ","), "did you mean dataset=number_table?"),
        (lambda n: f"{n}", "did you mean dataset=number_table?"),
        (
            lambda n: ("0.03", "0.97")[n % 2],
            "8 images have 2 classes, which are numbers (0.03, 0.97)",
        ),
        (lambda n: f"{n % 3 / 10}", "did you mean dataset=number_table?"),
        (lambda n: ("0", "1", "0.9")[n % 3], "did you mean dataset=number_table?"),
        (lambda n: f"IMG_{n:03}", "8 images have 8 classes, so that each has a class of its own"),
    ],
)
def test_labels_that_are_no_classes_are_warned_of(label, words):
    table(lambda n: f"{n}.png;{label(n)}", "file;label")
    (said,) = folder(Path("im"), labels="t.csv").report["warnings"]
    assert words in said


@each(
    "label",
    [lambda n: n % 4, lambda n: f"{n % 3 / 2}", lambda n: f"{n % 4 / 4}", lambda n: f"c{n % 4}"],
)
def test_labels_that_are_classes_are_not(label):
    table(lambda n: f"{n}.png,{label(n)}", "file,label")
    assert not warnings(folder(Path("im"), labels="t.csv"))


def test_names_of_files_that_label_studio_uploaded():
    """labelstud.io/guide/export: CSV and TSV name files as JSON does."""
    table(
        lambda n: f"/data/upload/1/0a1b2c3d-{n}.png,{'ab'[n % 2]},{n}", "image,choice,annotation_id"
    )
    corpus = folder(Path("im"), labels="t.csv", file_column="image", label_column="choice")
    assert corpus.train.ids == [f"{n}.png" for n in range(8)]
    table(lambda n: f"sub/0a1b2c3d-{n}.png,{n}")
    with pytest.raises(DataError, match="there is no file"):
        numbers()


# Boxes

SIZE = (64, 48)


def coco(box=(4, 4, 20, 16), count=6, encoding="utf-8", name="{}.png", **annotation):
    for n in range(count):
        save(ROOT / f"images/{n}.png", noise(n, SIZE))
    images = [
        {"id": n, "file_name": name.format(n), "width": SIZE[0], "height": SIZE[1]}
        for n in range(count)
    ]
    rows = [
        {"id": n, "image_id": n, "category_id": 1 + n % 2, "bbox": [*box], "iscrowd": 0}
        | {key: value(n) for key, value in annotation.items()}
        for n in range(count)
    ]
    named = [{"id": n, "name": "ab"[n - 1]} for n in (1, 2)]
    content = {"images": images, "annotations": rows, "categories": named}
    write(ROOT / "a.json", json.dumps(content).encode(encoding))
    return content


def yolo(line, count=6, meta="names: [a, b]\n", parts=("",), images="images", labels="labels"):
    for p, part in enumerate(parts):
        for n in range(count):
            save(ROOT / images / part / f"{n}.png", noise(100 * p + n, SIZE))
            write(ROOT / labels / part / f"{n}.txt", line.format(n % 2))
    if meta:
        write(ROOT / "data.yaml", meta)


def detect(**options):
    return Boxes(root="root", **{"size": [48, 64], "workers": 0, **options}).load()


def corners(corpus):
    return corpus.train.target("boxes")[0].tolist()


@each(
    "options",
    [
        {"category_id": lambda n: str(1 + n % 2)},
        {"image_id": str},
        {"encoding": "utf-16"},
        {"name": "https://x.org/files/{}.png?width=1"},
        {"name": "D:\\photos\\{}.PNG"},
    ],
)
def test_coco_s_files_with_other_ids_encodings_and_paths(options):
    coco(**options)
    corpus = detect()
    assert corners(corpus) == [[4, 4, 24, 20]]
    assert corpus.train.target("labels").flatten().tolist() == [1, 2] * 3


@each("boxes", ["refuse", "drop"])
@each(
    ("make", "words"),
    [
        (lambda: coco((0.1, 0.1, 0.5, 0.6)), "fractions of the image's sides"),
        (lambda: coco((40, 20, 60, 44)), "four numbers were x0, y0, x1, y1"),
        (lambda: yolo("{} 0.6 0.5 0.9 0.9"), "four numbers were x0, y0, x1, y1"),
        (lambda: coco(iscrowd=lambda n: 1), "no training image has a box, but 6 crowds"),
        (lambda: yolo(""), "no training image has a box: there is nothing to learn"),
        (lambda: yolo("{} .5 .5 .2 .2", meta="names: [a, b]\nnc: 3\n"), "nc is 3, and names lists 2"),
        (lambda: yolo("{} .5 .5 .2 .2", meta=""), "into root/classes.txt"),
        (lambda: yolo("{} .5 .5 .2 .2", meta="names:\n\t- a\n"), "data.yaml is no valid YAML"),
    ],
)  # fmt: skip
def test_boxes_that_mean_something_else_are_refused(make, words, boxes):
    make()
    with pytest.raises(DataError, match=words):
        detect(boxes=boxes)


@each(("images", "labels"), [("images", "labels"), ("Images", "Labels"), ("IMAGES", "LABELS")])
def test_yolo_s_splits_hold_files_of_the_same_names(images, labels):
    parts = ("train", "val", "test")
    yolo("{} .5 .5 .5 .5", 4, parts=parts, images=images, labels=labels)
    corpus = detect()
    assert (len(corpus.train), len(corpus.test)) == (8, 4)
    assert corners(corpus) == [[16, 12, 48, 36]]
    assert not warnings(corpus)


def test_yolo_s_polygons_become_masks():
    """docs.ultralytics.com/datasets/segment: class, and x, y of each corner as shares of the sides."""
    yolo("{} .25 .25 .75 .25 .75 .75 .25 .75")
    corpus = Polygons(root="root", size=[48, 64], workers=0).load()
    mask = corpus.train.target("mask")[1]
    assert mask.unique().tolist() == [0, 2]
    assert bool((mask[14:34, 18:46] == 2).all())
    assert not mask[:11].any()
    assert not mask[:, 50:].any()
    yolo("{} .5 .5 .5 .5")
    with pytest.raises(DataError, match="6 shapes of YOLO have no polygon"):
        Polygons(root="root", size=[48, 64], workers=0).load()


def test_polygons_as_fractions_are_refused():
    coco((0.1, 0.1, 0.4, 0.4), segmentation=lambda n: [[0.1, 0.1, 0.5, 0.1, 0.5, 0.5]])
    with pytest.raises(DataError, match="fractions of the image's sides"):
        Polygons(root="root", size=[48, 64], workers=0).load()


def test_boxes_that_are_written_twice_count_once():
    yolo("{0} .5 .5 .5 .5\n{0} .5 .5 .5 .5\n")
    corpus = detect()
    assert corners(corpus) == [[16, 12, 48, 36]]
    assert "6 boxes have the class and corners of another one of the same image" in warnings(corpus)


def test_a_class_whose_boxes_are_in_test_images_alone_is_warned_of():
    yolo("0 .5 .5 .5 .5", parts=("train", "test"))
    for text in (ROOT / "labels/test").iterdir():
        text.write_text("1 .5 .5 .5 .5")
    assert "no training image has a box of b" in warnings(detect())


def closed_early(number, mode, share=0.6):
    """A JPEG that was cut off and closed by an end marker, as some programs repair them."""
    whole = noise(number, (64, 96), mode)
    file = io.BytesIO()
    whole.save(file, "JPEG")
    content = file.getvalue()
    return content[: int(len(content) * share)] + b"\xff\xd9"


@each("mode", ["RGB", "L", "CMYK"])
def test_a_jpeg_that_was_cut_off_and_closed_is_said(mode):
    classes()
    write(ROOT / "a/cut.jpg", closed_early(50, mode))
    barred = Image.new("L", (64, 96), 128)  # between bars of that grey: nothing is missing
    barred.paste(noise(51, (64, 48), "L"), (0, 24))
    save(ROOT / "b/barred.jpg", barred)
    assert "1 of 10 images end in plain grey" in warnings(folder())
    (ROOT / "a/cut.jpg").unlink()
    assert "plain grey" not in warnings(folder())
