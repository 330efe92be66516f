"""Imperfect inputs: unreadable files are refused, doubtful ones reported."""

import io
import json
import re
import unicodedata
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from pictures import noise, save
from PIL import Image

from sft_exp.data import duplicates
from sft_exp.data.decode import Levels, decode
from sft_exp.data.readers import findings
from sft_exp.datasets.image_folder import ImageFolder
from sft_exp.datasets.large import Large
from sft_exp.datasets.mask_folder import MaskFolder
from sft_exp.datasets.number_table import NumberTable
from sft_exp.datasets.voc_detection import VocDetection
from sft_exp.errors import DataError
from sft_exp.reports import advice
from sft_exp.stages import describe_test
from sft_exp.store.store import Result

each = pytest.mark.parametrize


def classes(root, names=("a", "b"), count=4, first=0, make=noise, suffix="png", **options):
    """root/<class>/<number>.<suffix>, all different."""
    for c, name in enumerate(names):
        for n in range(count):
            save(root / name / f"{n}.{suffix}", make(first + 100 * c + n), **options)
    return root


def load(root="root", **options):
    return ImageFolder(root=str(root), **{"size": 8, **options}).load()


def warnings(corpus):
    return corpus.report.get("warnings", [])


# 16 bits


def deep(most, least=0):
    """number -> a 16-bit grey picture whose values lie between `least` and `most`, both included."""

    def make(number):
        share = np.random.default_rng(number).random((16, 16))
        share[0, :2] = 0, 1
        return Image.fromarray((least + share * (most - least)).round().astype(np.uint16))

    return make


@each("suffix", ["png", "tiff"])
@each(("least", "most"), [(0, 255), (0, 1023), (0, 4095), (0, 65535), (30_000, 31_000)])
def test_sixteen_bit_images_keep_their_contrast_whatever_range_they_use(least, most, suffix):
    corpus = load(classes(Path("root"), make=deep(most, least), suffix=suffix), channels=1, size=16)
    held = corpus.train.held()
    x_NCHW = torch.cat(list(held))
    assert (int(x_NCHW.min()), int(x_NCHW.max())) == (0, 255)
    assert len(x_NCHW.unique()) > 200, "all grey levels are used"
    said = [w for w in warnings(corpus) if "more than 8 bits" in w]
    assert bool(said) == (most != 65535), "the full range needs no word"
    if said:
        assert f"use the values {least:,} to {most:,}" in said[0]
    assert (corpus.spec.levels == (least, most)) if least else corpus.spec.levels == (0, most)


def test_one_scale_for_all_images_of_a_set():
    """A dark image stays darker than a bright one, although its own values would fill fewer bits."""
    classes(Path("root"), make=deep(4095), names=("bright",))
    classes(Path("root"), make=deep(255), names=("dark",), first=500)
    for memory in (4.0, 0.0):
        corpus = load(channels=1, size=16, memory=memory)
        x_NCHW = torch.cat(list(corpus.train.held()))
        assert corpus.levels == (0, 4095)
        assert int(x_NCHW[4:].max()) == 255 // 16
        assert int(x_NCHW[:4].max()) == 255


def test_test_images_have_no_say_in_the_scale():
    classes(Path("root/train"), make=deep(1023))
    classes(Path("root/test"), make=deep(65535), first=500)
    assert load(channels=1).levels == (0, 1023)


def test_a_few_bright_pixels_that_set_the_scale_are_named():
    def hot(number):
        values = np.random.default_rng(number).integers(0, 200, (64, 64)).astype(np.uint16)
        values[3, 3] = 65_000
        return Image.fromarray(values)

    (said,) = warnings(load(classes(Path("root"), make=hot), channels=1, size=64))
    assert "99.9 % of their pixels at or below" in said


@each("kind", ["I;16", "I"])
def test_negative_and_large_whole_numbers_are_scaled(kind):
    def make(number):
        values = np.random.default_rng(number).integers(0, 200_000, (16, 16))
        values = values - 1000 if kind == "I" else values % 3000
        return Image.fromarray(values.astype(np.int32 if kind == "I" else np.uint16))

    corpus = load(classes(Path("root"), make=make, suffix="tiff"), channels=1, size=16)
    x_NCHW = torch.cat(list(corpus.train.held()))
    assert len(x_NCHW.unique()) > 100
    assert len(warnings(corpus)) == 1


def test_sixteen_bit_colour_that_uses_its_lower_bits_alone_is_refused():
    import struct
    import zlib

    def colour(path, most, number):
        """Pillow writes no 16-bit colour: a PNG by the specification (ISO/IEC 15948), 16 bits a sample, colour type 2."""
        values = np.random.default_rng(number).integers(0, most + 1, (8, 8, 3)).astype(">u2")
        rows = b"".join(b"\0" + row.tobytes() for row in values)

        def chunk(kind, content):
            return (
                struct.pack(">I", len(content))
                + kind
                + content
                + struct.pack(">I", zlib.crc32(kind + content))
            )

        head = struct.pack(">IIBBBBB", 8, 8, 16, 2, 0, 0, 0)
        path.parent.mkdir(parents=True, exist_ok=True)
        body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
        path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)

    for most in (255, 4095, 65535):
        for c in "ab":
            for n in range(3):
                colour(Path(f"{most}/{c}/{n}.png"), most, 10 * ord(c) + n)
    for most in (255, 4095):
        with pytest.raises(DataError, match="16 bits in each colour but use only the lowest"):
            load(str(most))
    assert not warnings(load("65535"))


def test_levels_are_those_of_the_bits_in_use():
    assert Levels.spanning(0, 200) == (0, 255)
    assert Levels.spanning(5, 4000) == (0, 4095)
    assert Levels.spanning(30_000, 31_000) == (30_000, 31_000)
    assert Levels.spanning(-1000, 3000) == (-1000, 3000)
    assert Levels.spanning(9, 9) == (0, 255)
    every = np.arange(65536).astype(np.uint16)
    assert (Levels(0, 65535).bytes(every) == every >> 8).all()
    assert (Levels(0, 255).bytes(every[:256]) == every[:256]).all()
    assert Levels(10, 20).bytes(np.array([0, 10, 20, 90])).tolist() == [0, 0, 232, 255]


def test_a_file_alone_is_scaled_by_the_levels_it_is_given():
    buffer = io.BytesIO()
    Image.fromarray(np.full((4, 4), 1000, np.uint16)).save(buffer, "PNG")
    for levels, value in ((None, 250), ((0, 1023), 250), ((0, 4095), 62), ((0, 65535), 3)):
        assert int(decode(buffer.getvalue(), (1, 4, 4), levels=levels)[0, 0, 0]) == value


# What decoding leaves out


def alone_in_alpha(number, colour=(0, 0, 0)):
    picture = Image.new("RGBA", (16, 16), (*colour, 255))
    picture.putalpha(noise(number, mode="L"))
    return picture


@each(
    ("make", "options", "words"),
    [
        (lambda n: alone_in_alpha(n), {}, "drawn in their alpha channel"),
        (lambda n: alone_in_alpha(n, (255, 255, 255)), {}, "drawn in their alpha channel"),
        (
            lambda n: Image.merge("LA", (Image.new("L", (16, 16), 9), noise(n, mode="L"))),
            {},
            "drawn in their alpha channel",
        ),
        (
            lambda n: Image.merge("RGBA", (*noise(n).split(), noise(n + 50, mode="L"))),
            {},
            "transparent parts",
        ),
        (
            lambda n: Image.merge("LA", (noise(n, mode="L"), noise(n + 50, mode="L"))),
            {},
            "transparent parts",
        ),
        (
            lambda n: noise(n),
            {"save_all": True, "append_images": [noise(900)], "suffix": "gif"},
            "several frames or pages",
        ),
        (
            lambda n: noise(n),
            {"save_all": True, "append_images": [noise(900)], "suffix": "tiff"},
            "several frames or pages",
        ),
        (
            lambda n: noise(n),
            {"save_all": True, "append_images": [noise(900)], "suffix": "webp"},
            "several frames or pages",
        ),
        (lambda n: noise(n, mode="CMYK"), {"suffix": "jpg"}, "CMYK"),
        (
            lambda n: Image.fromarray(np.asarray(noise(n, mode="L")) // 64),
            {},
            "grey levels 0 to 3 of 0 to 255 alone",
        ),
    ],
)
def test_what_decoding_leaves_out_is_said_in_one_line(make, options, words, capsys):
    corpus = load(classes(Path("root"), make=make, **options), size=16)
    (said,) = warnings(corpus)
    assert words in said
    assert f"root: warning: {said}" in " ".join(capsys.readouterr().err.split())
    x_NCHW = torch.cat(list(corpus.train.held()))
    assert len(x_NCHW.unique()) > 3, "there is something to see"


@each("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "YCbCr"])
def test_usual_images_are_read_without_a_word(mode):
    suffix = "jpg" if mode == "YCbCr" else "png"
    corpus = load(classes(Path("root"), make=lambda n: noise(n, mode=mode), suffix=suffix), size=16)
    assert not warnings(corpus)
    assert len(torch.cat(list(corpus.train.held())).unique()) > (1 if mode == "1" else 4)


@each("value", [0, 128, 255])
def test_images_without_anything_to_see_are_refused(value):
    for n, name in enumerate(("a", "b")):
        for k in range(3):
            save(Path("root") / name / f"{k}.png", Image.new("L", (8 + k, 9 + n), value))
    with pytest.raises(
        DataError,
        match=f"all 6 images have the value {value}, {value}, {value} in all of their pixels",
    ):
        load()


def test_some_constant_images_are_counted():
    classes(Path("root"))
    save(Path("root/a/black.png"), Image.new("RGB", (16, 16)))
    save(Path("root/b/white.png"), Image.new("RGB", (16, 16), "white"))
    assert warnings(load()) == ["2 of 10 images have the same value in all pixels"]


@each("reader", ["folder", "masks", "numbers", "large"])
def test_images_above_pillows_limit_are_read_where_a_key_allows_them(reader, monkeypatch):
    """Pillow only warns of them, and its own limit, which others may have set, stays as it is."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 200)
    kinds = {
        "folder": lambda **more: ImageFolder(root="root", size=8, **more),
        "masks": lambda **more: MaskFolder(root="masks", size=8, **more),
        "numbers": lambda **more: NumberTable(table="root/table.csv", size=8, **more),
        "large": lambda **more: Large(root="root", train=".", size=8, workers=0, **more),
    }
    classes(Path("root"))
    mask_set("masks")
    Path("root/table.csv").write_text(
        "\n".join(["file,target", *(f"{c}/{n},{n}" for c in "ab" for n in range(4))])
    )
    with pytest.raises(
        DataError,
        match=r"has 16 x 16 pixels, more than the limit of 200: it may be a decompression bomb",
    ):
        torch.cat(list(kinds[reader]().load().train.held()))
    torch.cat(list(kinds[reader](most_pixels=256).load().train.held()))
    assert Image.MAX_IMAGE_PIXELS == 200


def test_photographs_that_pillow_does_not_read_are_named_with_the_way_out():
    classes(Path("root"))
    for n in range(3):
        (Path("root/a") / f"IMG_{n}.HEIC").write_bytes(b"ftypheic")
    assert warnings(load()) == [
        "3 files are HEIC images, which are left out: `pip install pillow-heif`, and they are read"
    ]


# Splits


@each(
    ("train", "val", "test"),
    [
        ("train", "val", "test"),
        ("Training", None, "Testing"),
        ("TRAIN", "VALID", "TEST"),
        ("train", "valid", "test"),
        ("training_set", "validation_set", "test_set"),
        ("seg_train", "dev", "seg_test"),
        ("train2017", "val2017", "Test images"),
    ],
)
def test_split_folders_are_understood_in_every_usual_form(train, val, test):
    for part, first in ((train, 0), (val, 300), (test, 600)):
        if part:
            classes(Path("root") / part, first=first)
    corpus = load()
    assert corpus.classes == ("a", "b")
    assert len(corpus.train) == (16 if val else 8)
    assert [name.split("/")[0] for name in corpus.test.ids] == [test] * 8


def test_a_split_inside_a_folder_of_its_own_name():
    for part, first in (("seg_train", 0), ("seg_test", 300)):
        classes(Path("root") / part / part, first=first)
    corpus = load()
    assert (corpus.classes, len(corpus.train), len(corpus.test)) == (("a", "b"), 8, 8)


def test_a_class_may_be_called_like_a_split():
    corpus = load(classes(Path("root"), names=("Resting", "Training")))
    assert corpus.classes == ("Resting", "Training")
    for folder in ("Control/p1", "Control/p2", "Test/p3", "Test/p4"):
        classes(Path("other"), names=(folder,), first=sum(map(ord, folder)))
    assert load("other").classes == ("Control", "Test")


@each("parts", [("fold1", "fold2"), ("batch_a", "batch_b", "batch_c"), ("2020", "2021")])
def test_classes_that_all_hold_the_same_folders_are_asked_about(parts):
    for n, part in enumerate(parts):
        classes(Path("root") / part, names=("glioma", "healthy"), first=1000 * n)
    with pytest.raises(
        DataError, match=r"hold the same folders \(glioma, healthy\): are these splits\?"
    ):
        load()


def test_a_root_one_folder_too_high_is_said():
    for n, part in enumerate(("fold1", "fold2")):
        classes(Path("root/photos") / part, names=("glioma", "healthy"), first=1000 * n)
    with pytest.raises(
        DataError,
        match=r"one class, photos.*Below it are fold1, fold2: is dataset\.root one folder too high\?",
    ):
        load()


@each(
    ("name", "split"),
    [
        ("Train", "train"), ("TRAINING", "train"), ("train-set", "train"), ("trainset", "train"), ("valid", "val"),
        ("Validation", "val"), ("dev", "val"), ("test_data", "test"), ("tests", "test"), ("Testing", "test"),
        ("trains", None), ("valentine", None), ("contest", None), ("device", None), ("latest", None), ("", None),
    ],
)  # fmt: skip
def test_words_for_splits(name, split):
    assert findings.split_named(name) == split


def test_images_to_learn_from_and_to_test_on_are_counted_apart(capsys):
    classes(Path("root/train"), count=3)
    classes(Path("root/test"), count=5, first=500)
    load()
    assert "6 labelled and 10 test images of 2 classes" in " ".join(capsys.readouterr().err.split())


# Names


def test_names_that_look_the_same_are_one_class():
    for n, name in enumerate(("café", "naïve", "Ångström")):
        forms = [unicodedata.normalize(form, name) for form in ("NFC", "NFD")]
        root = Path(f"root{n}")
        classes(root / "train", names=(forms[0], "b"))
        classes(root / "test", names=(forms[1], "b"), first=500)
        corpus = load(root)
        assert set(corpus.classes) == {forms[0], "b"}
        assert len(corpus.test) == 8
    both = classes(
        Path("both"),
        names=(unicodedata.normalize("NFC", "é"), unicodedata.normalize("NFD", "é"), "b"),
    )
    corpus = load(both)
    assert corpus.classes == ("b", "é")
    assert torch.bincount(corpus.train.y).tolist() == [4, 8]


@each("names", [("Cat", "cat"), ("dog ", "dog"), ("ﬁsh", "fish"), ("big  cat", "Big cat")])
def test_names_that_differ_in_case_or_blanks_are_warned_of(names):
    (said,) = warnings(load(classes(Path("root"), names=names)))
    first, second = sorted(names)
    assert f"{first!r} and {second!r} differ only in case or blanks" in said


def test_labels_of_a_table_and_of_annotations_are_compared_too():
    classes(Path("root"))
    rows = [f"{c}/{n}.png,{'Cat' if n else 'cat'}" for c in "ab" for n in range(4)]
    Path("labels.csv").write_text("\n".join(["file,label", *rows]))
    assert "'Cat' and 'cat'" in warnings(load(labels="labels.csv"))[0]
    mask_set("masks", names=("Cell", "cell"))
    assert (
        "'Cell' and 'cell'"
        in warnings(MaskFolder(root="masks", size=16, classes=["Cell", "cell"]).load())[0]
    )


def test_a_class_without_a_test_image_is_named():
    classes(Path("root/train"), names=("a", "b", "c", "d"))
    classes(Path("root/test"), names=("a", "b"), first=500)
    assert warnings(load()) == [
        "no test image is of class c, d: means over classes are of the other 2"
    ]


# Masks


def mask_set(root, values=(0, 1), count=6, part="", names=(), share=0.25):
    """Images and masks; the first value nearly everywhere, each other one in a square."""
    for n in range(count):
        mask = np.full((16, 16), values[0], np.uint8)
        for k, value in enumerate(values[1:]):
            side = max(1, int(16 * share))
            mask[n : n + side, 4 * k : 4 * k + side] = value
        save(Path(root) / part / "images" / f"{n}.png", noise(n + 50 * len(part)))
        save(Path(root) / part / "masks" / f"{n}.png", Image.fromarray(mask))
    return root


@each(
    ("values", "names", "words"),
    [
        (
            (0, 255),
            ("background", "object"),
            r"no training mask holds a pixel of object.*255.*dataset\.values=\[0,255\]",
        ),
        (
            (0, 255),
            ("background", "a", "b"),
            r"no training mask holds a pixel of a, b.*of the masks' pixels have the value 255",
        ),
        (
            (0, 0),
            ("background", "object"),
            r"pixel of object.*Check dataset\.classes and the values",
        ),
        ((1, 1), ("background", "object"), r"pixel of background"),
    ],
)
def test_masks_that_hold_one_class_are_refused(values, names, words):
    mask_set("root", values)
    with pytest.raises(DataError, match=words):
        MaskFolder(root="root", size=16, classes=list(names)).load()


def test_the_way_out_of_masks_of_0_and_255_works():
    corpus = MaskFolder(root=mask_set("root", (0, 255)), size=16, values=[0, 255]).load()
    assert corpus.train.target("mask").unique().tolist() == [0, 1]
    assert not warnings(corpus)


def test_classes_that_no_mask_holds_are_named():
    names = ["background", "a", "b"]
    (said,) = warnings(MaskFolder(root=mask_set("one", (0, 1, 255)), size=16, classes=names).load())
    assert "no training mask holds a pixel of b" in said
    assert "did you mean dataset.values=[0,1,255]?" in said
    (said,) = warnings(MaskFolder(root=mask_set("two", (0, 2)), size=16, classes=names).load())
    assert (
        said
        == "no training mask holds a pixel of a: means over classes leave out what is never there"
    )
    ignored = MaskFolder(root=mask_set("four", (255, 0, 2)), size=16, classes=[*names, "c"])
    assert [said.split(":")[0] for said in warnings(ignored.load())] == [
        "no training mask holds a pixel of a, c",
        "88 % of the masks' pixels have the value 255, which is ignored",
    ]
    mask_set("three", (0, 1, 2), part="train")
    mask_set("three", (0, 2), part="test")
    (said,) = warnings(MaskFolder(root="three", size=16, classes=names).load())
    assert said.startswith("no test mask holds a pixel of a")


def test_masks_that_are_mostly_ignored_are_named():
    (said,) = warnings(MaskFolder(root=mask_set("root", (255, 0, 1)), size=16).load())
    assert said.endswith("% of the masks' pixels have the value 255, which is ignored")


def test_masks_in_parts_of_usual_names():
    for part in ("Training", "valid", "TEST"):
        mask_set("root", part=part)
    corpus = MaskFolder(root="root", size=16).load()
    assert (len(corpus.train), len(corpus.test)) == (12, 6)


@each("orientation", [3, 6, 8])
def test_turned_images_with_masks_are_said(orientation):
    mask_set("root", count=5)
    exif = Image.Exif()
    exif[0x0112] = orientation
    save(Path("root/images/0.png"), noise(0), exif=exif)
    (said,) = warnings(MaskFolder(root="root", size=16).load())
    assert said.startswith(
        "1 of 5 images are turned upright by their Exif orientation: their masks must be"
    )


# Names of files


def test_images_of_one_name_and_two_suffixes_are_refused():
    mask_set("masks")
    save(Path("masks/images/3.jpg"), noise(99))
    with pytest.raises(
        DataError, match=r"1 names belong to several files.*\n  3\.jpg and 3\.png in masks/images"
    ):
        MaskFolder(root="masks", size=16).load()
    mask_set("other")
    save(Path("other/masks/3.tif"), Image.new("L", (16, 16)))
    with pytest.raises(DataError, match=r"3\.png and 3\.tif in other/masks"):
        MaskFolder(root="other", size=16).load()
    for name in ("a.jpg", "a.png", "b.jpg"):
        save(Path("voc/JPEGImages") / name, noise(sum(map(ord, name))))
    for folder, name, text in (
        ("ImageSets/Main", "train.txt", "a\nb\n"),
        ("Annotations", "a.xml", "<annotation/>"),
    ):
        (Path("voc") / folder).mkdir(parents=True)
        (Path("voc") / folder / name).write_text(text)
    with pytest.raises(DataError, match=r"a\.jpg and a\.png"):
        VocDetection(root="voc", test=None).load()


def test_two_images_of_a_sample_in_a_tar_file_are_refused():
    import tarfile

    with tarfile.open("train-0.tar", "w") as tar:
        for name in ("0.png", "0.jpg", "1.png"):
            tar.add(save(Path(name), noise(ord(name[0]) + len(name))), name)
        for n in range(2):
            Path(f"{n}.cls").write_text(str(n))
            tar.add(f"{n}.cls")
    with pytest.raises(
        DataError, match=r"1 samples have two images, and one \.cls:\n  0\.png and 0\.jpg"
    ):
        Large(root=".", train="train-*.tar", size=8).load()


def test_a_class_of_files_that_are_no_images_says_what_they_are():
    classes(Path("root"), names=("a",))
    for n, suffix in enumerate((".HEIC", ".heic", ".mov", "")):
        save(Path("root/b/0.png"), noise(0)).rename(f"root/b/{n}{suffix}")
    words = (
        r"b: has no images of this class, but other files \(2 \.heic, 1 \.mov, 1 no suffix\); `pip "
    )
    with pytest.raises(DataError, match=words):
        load()


def long(number):
    return noise(number, (60, 16))


def long_folder(fit):
    classes(Path("root"), make=long)
    return ImageFolder(root="root", size=8, fit=fit)


def long_large(fit):
    classes(Path("root/train"), make=long)
    return Large(root="root", train="train", size=8, fit=fit, workers=0)


def long_numbers(fit):
    classes(Path("root"), make=long)
    rows = [f"{c}/{n}.png,{n + ord(c)}" for c in "ab" for n in range(4)]
    Path("root/table.csv").write_text("\n".join(["file,target", *rows]))
    return NumberTable(table="root/table.csv", size=8, fit=fit)


@each("made", [long_folder, long_large, long_numbers])
def test_a_crop_that_leaves_out_most_of_an_image_is_warned_of(made):
    corpora = {fit: made(fit).load() for fit in ("crop", "letterbox", "stretch")}
    lost = "8 of 8 images are so long that the crop to 8x8 leaves out more than half of each"
    assert warnings(corpora["crop"]) == [f"{lost}: dataset.fit=letterbox keeps them whole"]
    assert not warnings(corpora["letterbox"]) + warnings(corpora["stretch"])
    assert [corpus.spec.fit for corpus in corpora.values()] == [*corpora]
    assert len({corpus.fingerprint for corpus in corpora.values()}) == 3
    assert int(corpora["letterbox"].train.raw(0)[:, 0].max()) == 0  # a margin


@each(("size", "warned"), [((16, 24), False), ((16, 33), True), ((33, 16), True)])
def test_a_crop_of_usual_proportions_is_not(size, warned):
    classes(Path("root"), make=lambda number: noise(number, size))
    assert bool(warnings(load())) == warned


# The other readers look, too


def test_large_sets_look_at_a_sample():
    classes(Path("data/train"), make=deep(4095), names=("Cat", "cat"))
    corpus = Large(root="data", train="train", size=16, channels=1, workers=0).load()
    assert corpus.levels == (0, 4095)
    assert [w.split(" ")[0] for w in warnings(corpus)] == ["classes", "8"]
    assert int(torch.cat(list(corpus.train.held())).max()) == 255


def test_a_large_sets_image_beyond_its_samples_range_is_named(monkeypatch):
    monkeypatch.setattr("sft_exp.datasets.large.SAMPLED", 1)
    classes(Path("data/train"), make=deep(1023), names=("a",))
    classes(Path("data/train"), make=deep(4095), names=("b",))
    corpus = Large(root="data", train="train", size=16, channels=1, workers=0).load()
    with pytest.raises(
        DataError, match=r"values from 0 to 4,095, but the sample of images had 0 to 1,023"
    ):
        list(corpus.train.held())


def test_numbers_look_at_their_images():
    classes(Path("root"), make=deep(1023))
    rows = [f"{c}/{n}.png,{n + ord(c)}" for c in "ab" for n in range(4)]
    Path("root/table.csv").write_text("\n".join(["file,target", *rows]))
    corpus = NumberTable(table="root/table.csv", size=8, channels=1).load()
    assert corpus.levels == (0, 1023)
    assert len(warnings(corpus)) == 1


# Tables


def written(header="file,label", rows=None, separator=",", encoding="utf-8", end="\n", first=""):
    """labels.csv beside the images, as another program would write it."""
    rows = rows or [f"{c}/{n}.png,{'grün' if c == 'a' else 'rot'}" for c in "ab" for n in range(4)]
    text = first + end.join(line.replace(",", separator) for line in [header, *rows, ""])
    Path("root/labels.csv").write_bytes(text.encode(encoding))
    return "root/labels.csv"


@each(
    "habits",
    [
        {"separator": ";", "encoding": "utf-8-sig", "end": "\r\n"},
        {"separator": ";", "encoding": "cp1252", "end": "\r\n"},
        {"separator": "\t", "encoding": "utf-16"},
        {"separator": "|"},
        {"separator": ";", "first": "sep=;\r\n", "end": "\r\n"},
        {"header": " File , LABEL "},
        {
            "header": "note,label,file",
            "rows": [f'"x; y; z",{c}l,{c}/{n}.png' for c in "ab" for n in range(4)],
        },
        {"rows": [f'"{c}/{n}.png","{c}, or not"' for c in "ab" for n in range(4)]},
        {"rows": [f"{c}\\\\{n}.png,{c}".replace("\\\\", "\\") for c in "ab" for n in range(4)]},
        {"rows": [*(f"{c}/{n}.png,{c}" for c in "ab" for n in range(4)), ",", ","]},
    ],
)
def test_tables_as_programs_write_them(habits):
    classes(Path("root"))
    corpus = ImageFolder(labels=written(**habits), size=8).load()
    assert corpus.train.ids == [f"{c}/{n}.png" for c in "ab" for n in range(4)]
    assert torch.bincount(corpus.train.y).tolist() == [4, 4]
    if "rows" not in habits:
        assert corpus.classes == ("grün", "rot")


def test_columns_are_named_and_ids_find_their_files():
    classes(Path("root"))
    classes(Path("root"), names=("b",), first=700, suffix="jpg", count=2)
    rows = [f"{c}/{n},{'ab'.index(c)}" for c in "ab" for n in range(4) if c == "a" or n > 1]
    table = written("id_code,diagnosis", rows)
    with pytest.raises(
        DataError,
        match=r"no column file and label.*dataset\.file_column=id_code dataset\.label_column=diagnosis",
    ):
        ImageFolder(labels=table, size=8).load()
    named = {"file_column": "id_code", "label_column": "diagnosis"}
    corpus = ImageFolder(labels=table, size=8, **named).load()
    assert corpus.train.ids == [f"a/{n}.png" for n in range(4)] + ["b/2.png", "b/3.png"]
    with pytest.raises(
        DataError,
        match=r"line 2: b/1 stands for 1\.jpg and 1\.png in root/b; write the suffix, too",
    ):
        ImageFolder(labels=written("id_code,diagnosis", ["b/1,0"]), size=8, **named).load()
    plain = ImageFolder(
        labels=written(rows=[f"{c}/{n}.png,{c}" for c in "ab" for n in range(4)]), size=8
    ).load()
    again = [f"{c}/{n}.png,{c}" for c in "ab" for n in range(4)]
    assert (
        ImageFolder(labels=written("id_code,diagnosis", again), size=8, **named).load().fingerprint
        == plain.fingerprint
    )


def test_images_without_a_label_are_pretrained_on():
    classes(Path("root"), names=("a", "b", "u"))
    rows = [f"{c}/{n}.png,{c.replace('u', '')}" for c in "abu" for n in range(4)]
    corpus = ImageFolder(labels=written(rows=rows), size=8).load()
    assert corpus.classes == ("a", "b")
    assert corpus.extra.ids == [f"u/{n}.png" for n in range(4)]
    assert len(corpus.train) == 8


@each(
    "words",
    [
        ("Train", "valid", "Test"),
        ("TRAINING", "dev", "testing"),
        ("train_set", "Validation", "test-set"),
    ],
)
def test_words_for_splits_in_a_table(words):
    classes(Path("root"))
    rows = [f"{c}/{n}.png,{c},{words[max(0, n - 1)]}" for c in "ab" for n in range(4)]
    corpus = ImageFolder(labels=written("file,label,split", rows), size=8).load()
    assert (len(corpus.train), len(corpus.test)) == (6, 2)
    rows = [row.replace(",a,", ",1,").replace(",b,", ",2,") for row in rows]
    Path("root/numbers.csv").write_text("\n".join(["file,target,split", *rows]))
    corpus = NumberTable(table="root/numbers.csv", size=8).load()
    assert (len(corpus.train), len(corpus.test)) == (6, 2)


def test_numbers_with_decimal_commas():
    classes(Path("root"))
    rows = [f"{c}/{n};{n},{'5' if c == 'a' else '25'}" for c in "ab" for n in range(4)]
    Path("root/numbers.csv").write_text("\n".join(["id;Grösse", *rows]), encoding="cp1252")
    corpus = NumberTable(
        table="root/numbers.csv", file_column="id", columns=["Grösse"], size=8
    ).load()
    assert corpus.train.target("value")[:, 0].tolist() == [
        0.5,
        1.5,
        2.5,
        3.5,
        0.25,
        1.25,
        2.25,
        3.25,
    ]


# Predictions


def test_a_model_scales_new_images_as_those_it_learnt_from(capsys):
    import sft_exp
    from sft_exp.predict import __main__ as predict_command

    classes(Path("root"), make=deep(4095), count=6)
    here = Path().absolute()
    result = sft_exp.run(
        [
            "dataset=image_folder", f"dataset.root={here}/root", "dataset.channels=1", "dataset.size=16", "debug=tiny",
            "pretrainer=none", "controls=false", "val=none", "draws=1", "tracker=none", "hardware=cpu",
            "report=false", f"store={here}/store",
        ],
        "run",
    )  # fmt: skip
    folder = Path(result["stages"]["finetune"]["folder"])
    assert json.loads((folder / "model.json").read_text())["levels"] == [0, 4095]
    (manifest,) = [json.loads(p.read_text()) for p in Path("store").glob("data-*/manifest.json")]
    assert manifest["levels"] == [0, 4095]
    (tested,) = [json.loads(p.read_text()) for p in Path("store").glob("test-*/manifest.json")]
    assert "more than 8 bits" in tested["report"]["warnings"][0]
    values = np.random.default_rng(5).integers(0, 256, (16, 16))  # its own values would fill 8 bits
    save(Path("dark.png"), Image.fromarray(values.astype(np.uint16)))
    save(Path("same.png"), Image.fromarray((values // 16).astype(np.uint8)))
    capsys.readouterr()
    assert predict_command.main(["run", "dark.png", "same.png"]) == 0
    _, dark, same = capsys.readouterr().out.splitlines()
    assert dark.split(",")[1:] == same.split(",")[1:]


# images that belong together


def frames(root, people=4, count=10, parts=("",), shift=1):
    """Pictures of each person that differ little: a fixed scene, moved by a pixel and with noise."""
    for person in range(people):
        coarse = np.random.default_rng(person).integers(0, 256, (9, 9, 3), dtype=np.uint8)
        scene = Image.fromarray(coarse).resize((72, 72), Image.Resampling.BICUBIC)
        for n in range(count):
            x = shift * (n % 4)
            frame = scene.crop((x, 0, x + 64, 64))
            save(
                root / parts[n % len(parts)] / f"c{person % 2}" / f"p{person}_{n:02}.png",
                Image.blend(frame, noise(100 * person + n, (64, 64)), 0.2),
            )
    return root


@each("parts", [("",), ("train", "test")])
def test_frames_of_one_person_on_both_sides_are_noticed(parts):
    corpus = load(frames(Path("root"), parts=parts), size=32)
    found = duplicates.related_images(corpus)
    assert found["share"] > 0.9
    test, train, alike = found["pair"]
    person = [Path(name).name.partition("_")[0] for name in (test, train)]
    assert person[0] == person[1]
    assert alike > 0.95


def test_the_manifest_keeps_related_images_and_the_report_warns_of_them(tmp_path):
    root = str(frames(Path("root"), parts=("train", "test")))
    dataset = ImageFolder(root=root, size=32)
    ctx = SimpleNamespace(corpus=lambda given: given.load())
    request = {"dataset": dataset, "pretrain_dataset": None}
    describe_test.run(tmp_path, request, ctx)
    job = SimpleNamespace(results={"test": [Result(tmp_path, False, 0.0)]})
    said = advice.related(job)
    assert said.startswith("100 % of the test images look like training images")
    assert re.search(r"test/c(\d)/p\d_\d+.png and train/c\1/p", said)
    assert "dataset.group=" in said
    apart = ImageFolder(root=str(classes(Path("apart"), count=12)), size=32)
    describe_test.run(tmp_path, {**request, "dataset": apart}, ctx)
    assert advice.related(job) == ""


def test_a_group_settles_it():
    root = frames(Path("root"))
    assert duplicates.related_images(load(root, size=32, group="(p[0-9]+)_")) is None


def test_unrelated_images_are_not_called_related():
    assert duplicates.related_images(load(classes(Path("root"), count=30), size=32)) is None


@pytest.mark.slow
@each("name", ["sign_digits", "cifar10_jpeg12k"])
def test_shared_sets_have_no_related_images(name, shared_data):
    corpus = ImageFolder(root=str(shared_data / name), size=32).load()
    assert duplicates.related_images(corpus) is None
