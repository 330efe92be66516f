"""Mask files of various tools: name patterns, colours, three equal channels, unnamed values."""

import re

import numpy as np
import pytest
import torch
from PIL import Image

from sft_exp.datasets.mask_folder import MaskFolder
from sft_exp.errors import ConfigError, DataError

each = pytest.mark.parametrize
RED, WHITE = [128, 0, 0], [255, 255, 255]
TWO = {"background": [0, 0, 0], "cell": RED}


def square(n):
    mask = np.zeros((16, 16), np.uint8)
    mask[n : n + 6, 3:10] = 1
    return mask


def write(root, make=Image.fromarray, image="images/{}.png", mask="masks/{}.png", first=0):
    """Four images and masks; `make` gives the mask's picture for classes 0 and 1."""
    for n in range(first, first + 4):
        pixels = np.random.default_rng(n).integers(0, 256, (16, 16, 3), dtype=np.uint8)
        for name, picture in ((image, Image.fromarray(pixels)), (mask, make(square(n % 4)))):
            path = root / name.format(n)
            path.parent.mkdir(parents=True, exist_ok=True)
            picture.save(path)
    return root


def load(root, **options):
    return MaskFolder(**{"root": str(root), "size": 16, "workers": 0, **options}).load()


def is_read(corpus):
    wanted = torch.from_numpy(np.stack([square(n) for n in range(4)]))
    return torch.equal(corpus.train.target("mask")[:4], wanted) and not corpus.report.get(
        "warnings"
    )


def coloured(colours, mode="RGB"):
    return lambda mask: Image.fromarray(np.array(colours, np.uint8)[mask]).convert(mode)


# Names


@each("pattern", ["*_mask", "mask_*", "*.png_L", "seg-*-v1"])
@each("where", ["masks/", "images/sub/"])
def test_masks_named_by_a_pattern(tmp_path, pattern, where):
    if where == "masks/":
        write(tmp_path, mask=f"masks/{pattern.replace('*', '{}')}.png")
    else:  # beside the images, as Roboflow's semantic segmentation and many collections have them
        write(tmp_path, image="{}.jpg", mask=f"{pattern.replace('*', '{}')}.png")
    assert is_read(load(tmp_path, pattern=pattern))


def test_masks_beside_their_images_in_split_folders(tmp_path):
    """roboflow.com/formats/semantic-segmentation: train/a_jpg.rf.x.jpg, train/a_jpg.rf.x_mask.png, train/_classes.csv."""
    for first, part in ((0, "train"), (4, "valid"), (8, "test")):
        write(
            tmp_path,
            image=part + "/{}_jpg.rf.0a.jpg",
            mask=part + "/{}_jpg.rf.0a_mask.png",
            first=first,
        )
        (tmp_path / part / "_classes.csv").write_text(
            "Pixel Value, Class\n0, background\n1, cell\n"
        )
    corpus = load(tmp_path, pattern="*_mask")
    assert (len(corpus.train), len(corpus.test)) == (8, 4)
    assert is_read(corpus)


@each("pattern", ["*_mask", "m*", "*-seg"])
def test_a_pattern_that_fits_is_offered(tmp_path, pattern):
    write(tmp_path, mask=f"masks/{pattern.replace('*', '{}')}.png")
    with pytest.raises(DataError, match=rf"dataset\.pattern={re.escape(pattern)} fits all images"):
        load(tmp_path)
    with pytest.raises(DataError, match=rf"dataset\.pattern={re.escape(pattern)} fits"):
        load(tmp_path, pattern="*_label")


def test_what_has_no_counterpart_under_a_pattern_is_named(tmp_path):
    write(tmp_path, mask="masks/{}_mask.png")
    (tmp_path / "masks/2_mask.png").unlink()
    with pytest.raises(DataError, match=r"2\.png: there is no mask .*masks/2_mask\.png"):
        load(tmp_path, pattern="*_mask")
    (tmp_path / "images/1.png").unlink()
    with pytest.raises(DataError, match=r"1 masks have no image of their name.*\n.*1_mask\.png$"):
        load(tmp_path, pattern="*_mask")


@each("pattern", ["_mask", "*_*", "masks/*"])
def test_patterns_that_cannot_be(pattern):
    with pytest.raises(ConfigError, match=r"with one \*, such as \*_mask"):
        MaskFolder(pattern=pattern)


# Channels and colours


@each(
    "make",
    [
        lambda m: Image.fromarray(m).convert("RGB"),
        lambda m: Image.fromarray(m).convert("RGBA"),
        lambda m: Image.fromarray(m).convert("LA"),
    ],
)
def test_equal_channels_are_one(tmp_path, make):
    assert is_read(load(write(tmp_path, make)))


@each(
    ("make", "words"),
    [
        (
            coloured([[0, 0, 0], RED]),
            r"mode RGB and the colours \[0, 0, 0\], \[128, 0, 0\]; .*dataset\.colours=",
        ),
        (
            coloured([[0, 0, 0, 255], [*RED, 255]], "RGBA"),
            r"mode RGBA and the colours .*dataset\.colours=",
        ),
        (coloured([[0, 0, 0, 0], [1, 1, 1, 255]], "RGBA"), "mode RGBA and transparent parts"),
    ],
)
def test_colours_that_nobody_has_named_are_refused(tmp_path, make, words):
    with pytest.raises(DataError, match=words):
        load(write(tmp_path, make))


def palette(mask):
    picture = Image.fromarray(mask).convert("P")
    picture.putpalette([0, 0, 0, *RED] + [0] * 762)
    return picture


@each(
    "make",
    [coloured([[0, 0, 0], RED]), coloured([[0, 0, 0, 255], [*RED, 255]], "RGBA"), palette],
)
def test_colours_are_read_by_name(tmp_path, make):
    corpus = load(write(tmp_path, make), colours=TWO)
    assert corpus.classes == ("background", "cell")
    assert is_read(corpus)


def test_a_colour_may_be_ignored_and_others_are_refused(tmp_path):
    def make(mask):
        mask[0] = 2
        return coloured([[0, 0, 0], RED, WHITE])(mask)

    write(tmp_path, make)
    with pytest.raises(
        DataError,
        match=r"holds the colour \[255,255,255\] in row 0, column 0; valid are \[0,0,0\], \[128,0,0\]",
    ):
        load(tmp_path, colours=TWO)
    corpus = load(tmp_path, colours={**TWO, "ignore": WHITE})
    assert (corpus.train.target("mask")[:, 0] == 255).all()
    assert corpus.train.target("mask")[:, 6:].unique().tolist() == [0, 1]


def test_colours_and_values_have_fingerprints_of_their_own(tmp_path):
    write(tmp_path, coloured([[0, 0, 0], RED]))
    swapped = {"cell": [0, 0, 0], "background": RED}
    assert load(tmp_path, colours=TWO).fingerprint != load(tmp_path, colours=swapped).fingerprint


@each(
    "options",
    [
        {"colours": {"a": [0, 0], "b": RED}},
        {"colours": {"a": [0, 0, 256], "b": RED}},
        {"colours": {"a": RED, "b": RED}},
        {"colours": [RED, WHITE]},
        {"colours": TWO, "values": [0, 1]},
        {"colours": TWO, "classes": ["a", "b"]},
        {"colours": {"a": RED}},
    ],
)
def test_colours_that_cannot_be(options):
    with pytest.raises(ConfigError):
        MaskFolder(**options)


def test_colours_and_pattern_come_from_the_command_line(experiment):
    made = experiment(
        "dataset=mask_folder", "dataset.colours={a:[0,0,0],b:[1,2,3]}", "dataset.pattern=*_mask"
    )
    assert (made.dataset.classes, made.dataset.pattern) == (["a", "b"], "*_mask")


# Values


@each("values", [(0, 200), (10, 20), (1, 3)])
def test_the_values_that_a_mask_holds_are_offered(tmp_path, values):
    write(tmp_path, lambda m: Image.fromarray(np.array(values, np.uint8)[m]))
    offered = f"dataset.values=[{values[0]},{values[1]}]"
    with pytest.raises(DataError, match=re.escape(offered)):
        load(tmp_path)
    assert is_read(load(tmp_path, values=list(values)))


def test_a_smooth_mask_is_no_list_of_classes(tmp_path):
    smooth = np.arange(256, dtype=np.uint8).reshape(16, 16)
    write(tmp_path, lambda m: Image.fromarray(smooth))
    with pytest.raises(DataError, match="256 different values: was it resized smoothly"):
        load(tmp_path)


@each(("option", "value"), [("group", "("), ("group", "p"), ("memory", -1), ("workers", -1)])
def test_invalid_options_are_named(option, value):
    with pytest.raises(ConfigError, match=f"{option}={re.escape(str(value))}: must be"):
        MaskFolder(**{option: value})
