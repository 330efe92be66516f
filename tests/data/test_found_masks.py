"""Masks as people and programs leave them: read as they are meant, refused with the way out, or warned of."""

import shutil
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from found_inputs import ROOT, classes, folder, masks, noise, segment, warnings, write
from pictures import save
from PIL import Image

from sft_exp.errors import DataError

each = pytest.mark.parametrize


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
