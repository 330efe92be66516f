"""What holds for exports of every format: which format it is, images that lie elsewhere or on their side,
and files that are damaged."""

import contextlib
import json
import random
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from tool_exports import (
    BOX,
    NORMAL,
    coco_json,
    cvat,
    damage,
    is_box,
    label_studio,
    label_studio_min,
    labelme,
    load,
    noise,
    of_coco,
    of_voc,
    of_yolo,
    said,
    via,
    via_table,
    voc_xml,
    write,
    yolo,
)

from sft_exp.data.exports import geometry, recognised
from sft_exp.data.readers.boxed import rotate_box
from sft_exp.datasets.boxes import Boxes
from sft_exp.datasets.coco import Coco
from sft_exp.errors import ConfigError, DataError

each = pytest.mark.parametrize


# COCO


def test_other_tools_files_of_splits(tmp_path):
    """CVAT, VIA and Label Studio write all images of a task or project into one file, too."""
    for folder, export, name in (
        ("a", cvat, "annotations.xml"),
        ("b", via, "via.json"),
        ("c", label_studio_min, "min.json"),
    ):
        root = tmp_path / folder
        for k, part in enumerate(("train", "test")):
            paths, *_ = export(root)
            (root / name).rename(root / f"{part}_{name}")
            for n, path in enumerate(paths):
                noise(path.with_stem(f"{k}{path.stem}"), 10 * k + n)
            text = (root / f"{part}_{name}").read_text()
            write(root / f"{part}_{name}", re.sub(r"(\d\.jpg)", rf"{k}\1", text))
        corpus = load(root)
        assert len(corpus.train) == len(corpus.test) == len(paths)


def test_no_images_of_another_split_are_taken_for_missing_ones(tmp_path):
    """Neither by the folder in the name, nor by the folder of the annotations."""
    for n in range(2):
        noise(tmp_path / f"coco/train/{n}.jpg", n)
        noise(tmp_path / f"roboflow/train/{n}.jpg", n)
        noise(tmp_path / f"voc/images/train/{n}.jpg", n)
        write(tmp_path / f"voc/annotations/{('train', 'test')[n]}/{n}.xml", voc_xml(str(n)))
    noise(tmp_path / "roboflow/test/5.jpg", 5)
    noise(tmp_path / "voc/images/test/5.jpg", 5)
    content = coco_json(2, folder="train/")
    content["images"][1]["file_name"] = "test/1.jpg"
    write(tmp_path / "coco/a.json", content)
    beside = coco_json(2)
    beside["images"][1]["file_name"] = "test/1.jpg"
    write(tmp_path / "roboflow/train/a.json", beside)
    write(tmp_path / "roboflow/test/a.json", coco_json(1, 1))
    for name, words in (
        ("coco", "1 images are named but missing: test/1.jpg"),
        ("roboflow", "2 images are named but missing: 1.jpg, test/1.jpg"),
        ("voc", "1 annotations have no image of their name and are left out: 1.xml"),
    ):
        corpus = load(tmp_path / name)
        assert len(corpus.train) == 1
        assert words in said(corpus)
    plain = Coco(root=str(tmp_path / "coco"), train="a.json", test=None, size=16, workers=0)
    with pytest.raises(DataError, match=r"1 of its images are not in .*\n  test/1\.jpg"):
        plain.load()


@each("value", [64, "64", 64.0, "64.0"])
def test_sizes_that_programs_write_as_text_are_compared(tmp_path, value):
    """The same in the formats that state a size, and for images that lie on their side."""
    noise(tmp_path / "coco/0.jpg", 0)
    content = coco_json(1)
    content["images"][0] |= {"width": value, "height": value}
    write(tmp_path / "coco/a.json", content)
    paths, *_ = labelme(tmp_path / "labelme")
    for path in (tmp_path / "labelme/labels").iterdir():
        write(path, json.loads(path.read_text()) | {"imageWidth": value, "imageHeight": value})
    paths += cvat(tmp_path / "cvat")[0] + label_studio_min(tmp_path / "studio")[0]
    for file in ("cvat/annotations.xml", "studio/min.json"):
        text = (tmp_path / file).read_text().replace('width="60"', f'width="{value}"')
        write(tmp_path / file, re.sub(r'(original_width": )60', rf"\g<1>{json.dumps(value)}", text))
    write(tmp_path / "voc/0.xml", voc_xml("0").replace("<width>60", f"<width>{value}"))
    noise(tmp_path / "voc/0.jpg", 0)
    for n, path in enumerate(paths):
        noise(path, n)
    for name in ("coco", "labelme", "cvat", "studio", "voc"):
        with pytest.raises(DataError, match=r"has 60 x 40 pixels, and .* says 64 x "):
            load(tmp_path / name)


@each(
    ("value", "crowd"),
    [
        *((value, 0) for value in (0, "0", 0.0, False, "false", None, "")),
        *((value, 1) for value in (1, "1", 1.0, True, "True")),
    ],
)
@each("key", ["iscrowd", "ignore"])  # as CrowdHuman's and other sets in COCO's format have it
def test_crowds_in_any_form(tmp_path, key, value, crowd):
    content = coco_json(2)
    content["annotations"][1][key] = value
    write(tmp_path / "a.json", content)
    for n in range(2):
        noise(tmp_path / f"{n}.jpg", n)
        more = f"<difficult>{value}</difficult>" if n else ""
        write(tmp_path / f"voc/{n}.xml", voc_xml(str(n)).replace("<difficult>0</difficult>", more))
        noise(tmp_path / f"voc/{n}.jpg", n)
    assert load(tmp_path, format="coco").train.target("crowd").sum() == crowd
    assert load(tmp_path / "voc").train.target("crowd").sum() == crowd


# Damage


@each(
    "export",
    [of_coco, of_voc, of_yolo, cvat, label_studio, label_studio_min, via, via_table, labelme],
)
def test_damaged_annotations_are_read_or_refused_by_name(tmp_path, export):
    rng = random.Random(21)
    for round_ in range(20):
        root = tmp_path / str(round_)
        paths, *_ = export(root)
        for n, path in enumerate(paths):
            noise(path, n)
        kinds = (".json", ".xml", ".txt", ".yaml", ".csv")
        damage(rng.choice(sorted(p for p in root.rglob("*") if p.suffix in kinds)), rng)
        with contextlib.suppress(DataError, ConfigError):
            load(root, boxes=rng.choice(["drop", "refuse"]))


# Which format


def test_an_unknown_layout_lists_those_that_are_read(tmp_path):
    noise(tmp_path / "a.jpg", 0)
    write(tmp_path / "notes.json", {"a": 1})
    with pytest.raises(DataError, match="no annotations in a known format") as raised:
        load(tmp_path)
    assert all(f"{key}: {m.NAME}" in str(raised.value) for key, m in recognised.FORMATS.items())
    with pytest.raises(DataError, match="no export of YOLO there"):
        load(tmp_path, format="yolo")
    with pytest.raises(ConfigError, match="format=csv: must be coco, voc, yolo"):
        Boxes(format="csv")


def test_two_formats_in_one_folder_are_chosen_from(tmp_path):
    yolo(tmp_path, f"1 {NORMAL}")
    for n in range(3):
        write(tmp_path / f"xml/{n}.xml", voc_xml(str(n)))
    with pytest.raises(DataError, match=r"Pascal VOC .* and YOLO .*=voc or dataset\.format=yolo"):
        load(tmp_path)
    assert load(tmp_path, format="voc").classes == ("cell",)
    assert load(tmp_path, format="yolo").classes == ("b", "a")


def test_images_elsewhere(tmp_path):
    export, photos = tmp_path / "export", tmp_path / "photos"
    paths, classes, _ = labelme(export)
    for n, path in enumerate(paths):
        noise(photos / path.name, n)
    is_box(load(export, images=str(photos)), *classes)
    with pytest.raises(DataError, match=r"dataset\.images=.*: no such folder"):
        load(export, images=str(tmp_path / "nowhere"))


def test_an_image_that_is_annotated_twice_is_refused(tmp_path):
    noise(tmp_path / "0.jpg", 0)
    for name in ("a", "b"):
        write(tmp_path / f"{name}.json", coco_json(1))
    with pytest.raises(
        DataError, match=r"1 images are annotated twice:\n  .*0\.jpg in .*a\.json and .*b\.json"
    ):
        load(tmp_path)


def test_classes_may_be_given(tmp_path):
    yolo(tmp_path, f"1 {NORMAL}")
    assert load(tmp_path, classes=["a", "b"]).classes == ("a", "b")
    with pytest.raises(DataError, match=r"a class that is not in dataset\.classes"):
        load(tmp_path, classes=["a", "c"])


# Orientation


@each("orientation", [5, 6, 7, 8])
def test_a_box_is_turned_as_pillow_turns_the_image(orientation):
    stored = Image.new("L", (60, 40))
    stored.paste(255, (6, 4, 36, 24))
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.info["exif"] = exif.tobytes()
    stored.getexif()[0x0112] = orientation
    upright = ImageOps.exif_transpose(stored)
    assert upright.size == (40, 60)
    assert rotate_box(BOX, (60, 40), orientation) == upright.getbbox()


@each("suffix", ["jpg", "tif"])
@each("orientation", [6, 8])
def test_boxes_of_the_stored_image_are_turned_with_it(tmp_path, orientation, suffix):
    exif = Image.Exif()
    exif[0x0112] = orientation
    noise(tmp_path / f"0.{suffix}", 0, exif=exif)
    noise(tmp_path / "1.jpg", 1)
    content = coco_json(2)
    content["images"][0]["file_name"] = f"0.{suffix}"
    write(tmp_path / "a.json", content)
    corpus = load(tmp_path, size=60)
    box = corpus.train.target("boxes")[0, 0]
    assert torch.equal(
        box, torch.tensor(rotate_box(BOX, (60, 40), orientation)) + torch.tensor([10, 0, 10, 0])
    )
    assert said(corpus) == [
        "1 images are turned upright by their Exif orientation, and their boxes with them"
    ]


# Geometry


def test_the_box_around_a_turned_shape():
    assert geometry.rotated_bounds((0, 0, 4, 2), 90, (0, 0)) == pytest.approx((-2, 0, 0, 4))
    assert geometry.ellipse_bounds(0, 0, 4, 2, 90) == pytest.approx((-2, -4, 2, 4))
    t = np.linspace(0, 2 * np.pi, 10_000)
    c, s = np.cos(np.radians(30)), np.sin(np.radians(30))
    x, y = 4 * np.cos(t) * c - 2 * np.sin(t) * s, 4 * np.cos(t) * s + 2 * np.sin(t) * c
    assert geometry.ellipse_bounds(0, 0, 4, 2, 30) == pytest.approx(
        (x.min(), y.min(), x.max(), y.max()), abs=1e-5
    )


def test_the_real_sets_are_read_without_a_word(shared_data):
    blood = shared_data / "bccd" / "VOCdevkit"
    corpus = load(blood, size=16, boxes="drop", format="voc")
    assert corpus.classes == ("Platelets", "RBC", "WBC")
    assert not said(corpus)
    assert (len(corpus.train), len(corpus.test)) == (292, 72)
    few = load(Path(shared_data / "coco_mini"), size=16, boxes="drop")
    assert (len(few.train), len(few.test)) == (26, 25)
    assert not said(few)


@each("export", ["coco", "cvat", "via"])
def test_images_in_no_file_of_annotations_are_said(tmp_path, export):
    if export == "coco":
        write(tmp_path / "a.json", coco_json(3))
        paths = [tmp_path / f"{n}.jpg" for n in range(3)]
    else:
        paths, _, _ = {"cvat": cvat, "via": via}[export](tmp_path)
    for n, path in enumerate([*paths, paths[0].with_name("other.jpg")]):
        noise(path, n)
        noise(tmp_path / "masks" / f"{path.stem}.png", n)
    (tmp_path / "masks/other.png").unlink()
    notes = said(load(tmp_path))
    assert "1 images are in no file of annotations and are left out: other.jpg" in notes
