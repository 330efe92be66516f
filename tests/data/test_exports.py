"""Readers of labelling tools' exports, on files written here in each tool's published format."""

import contextlib
import json
import os
import random
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from sft_exp.data.exports import coco, geometry, recognised
from sft_exp.data.readers.boxed import rotate_box
from sft_exp.datasets.boxes import Boxes
from sft_exp.datasets.coco import Coco
from sft_exp.datasets.image_folder import ImageFolder
from sft_exp.datasets.polygons import Polygons
from sft_exp.datasets.voc_detection import VocDetection
from sft_exp.errors import ConfigError, DataError

each = pytest.mark.parametrize
SIZE = (60, 40)
BOX = (6.0, 4.0, 36.0, 24.0)  # the box of every fixture: x 0.1 to 0.6, y 0.1 to 0.6 of the sides
NORMAL = "0.35 0.35 0.5 0.5"  # the same as YOLO writes it


def noise(path, number, size=SIZE, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(number).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, **options)


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


def load(root, **options):
    return Boxes(**{"root": str(root), "size": [40, 60], "workers": 0, **options}).load()


def found(images):
    """[(class, x0, y0, x1, y1), ...] of each image, by its name; the canvas has the size of the images."""
    labels, boxes = images.target("labels"), images.target("boxes")
    return {
        name: [(int(l), *b.tolist()) for l, b in zip(labels[n], boxes[n], strict=True) if l]
        for n, name in enumerate(images.ids)
    }


def said(corpus):
    return corpus.report.get("warnings", [])


def is_box(corpus, *labels):
    """Whether each image has the one box that the fixtures write, and the classes occur in this order."""
    for images in (corpus.train, corpus.test):
        for rows in found(images).values() if images else ():
            ((_, *at),) = rows
            assert at == pytest.approx(BOX, abs=0.02), at
    assert corpus.classes == labels


# COCO


def coco_json(count, first=0, folder="", categories=(("cell", 1), ("debris", 2)), **annotation):
    images = [
        {"id": n, "file_name": f"{folder}{first + n}.jpg", "width": 60, "height": 40}
        for n in range(count)
    ]
    boxes = [
        {
            "id": n,
            "image_id": n,
            "category_id": categories[n % 2][1],
            "bbox": [6, 4, 30, 20],
            "iscrowd": 0,
        }
        | annotation
        for n in range(count)
    ]
    named = [{"id": i, "name": name, "supercategory": "cells"} for name, i in categories]
    return {"images": images, "annotations": boxes, "categories": named}


@each("root_name", ["cells", "cell"])
def test_roboflows_coco(tmp_path, root_name):
    """roboflow.com/formats/coco-json: a JSON in each split's folder, with a root category that has no boxes."""
    for part, (name, count) in enumerate({"train": 4, "valid": 2, "test": 2}.items()):
        content = coco_json(count, 10 * part)
        for category in content["categories"]:
            category["supercategory"] = root_name
        content["categories"].insert(0, {"id": 0, "name": root_name, "supercategory": "none"})
        write(tmp_path / name / "_annotations.coco.json", content)
        for image in content["images"]:
            noise(tmp_path / name / image["file_name"], int(image["file_name"][:-4]))
    corpus = load(tmp_path)
    is_box(corpus, "cell", "debris")
    assert (len(corpus.train), len(corpus.test)) == (6, 2)
    assert corpus.test.ids == ["test/20.jpg", "test/21.jpg"]
    assert said(corpus) == [f"1 root categories without boxes are no classes: {root_name} (id 0)"]


def test_cvats_coco(tmp_path):
    """docs.cvat.ai, format COCO: images/<subset>/ and annotations/instances_<subset>.json."""
    for part, name in enumerate(("train", "val")):
        write(tmp_path / f"annotations/instances_{name}.json", coco_json(2, 5 * part))
        for n in range(2):
            noise(tmp_path / f"images/{name}/{5 * part + n}.jpg", 5 * part + n)
    write(tmp_path / "annotations/person_keypoints_train.json", coco_json(2))
    corpus = load(tmp_path)
    is_box(corpus, "cell", "debris")
    assert (len(corpus.train), len(corpus.test)) == (2, 2)
    assert not said(corpus)


@each(
    "written",
    [
        "images/{}",
        "/home/me/project/images/{}",
        "C:\\data\\images\\{}",
        "../../upload/1/{}",
        "3f2a9c1e-{}",
        "{}",
    ],
)
def test_paths_of_another_machine(tmp_path, written):
    """Label Studio's result.json and converters write the path that the image had; Windows writes backslashes."""
    content = coco_json(3)
    for image in content["images"]:
        noise(tmp_path / "images" / image["file_name"], image["id"])
        image["file_name"] = written.format(image["file_name"])
    write(tmp_path / "result.json", content)
    is_box(load(tmp_path), "cell", "debris")
    plain = Coco(
        root=str(tmp_path), train="result.json", test=None, size=[40, 60], workers=0
    ).load()
    is_box(plain, "cell", "debris")


def test_a_file_name_that_lies_in_several_folders_is_asked_about(tmp_path):
    for folder in ("a", "b"):
        noise(tmp_path / folder / "0.jpg", ord(folder))
    write(tmp_path / "result.json", coco_json(1, folder="/elsewhere/"))
    with pytest.raises(DataError, match=r"0\.jpg may be .*a/0\.jpg or .*b/0\.jpg"):
        load(tmp_path)
    write(tmp_path / "result.json", coco_json(1, folder="/elsewhere/b/"))
    assert load(tmp_path).train.ids == ["b/0.jpg"]


def parts_of_coco(root, names, folder="images/"):
    """A JSON of these names for two images each."""
    for k, name in enumerate(names):
        write(root / name, coco_json(2, 10 * k))
        for n in range(2):
            noise(root / f"{folder}{10 * k + n}.jpg", 10 * k + n)


@each(
    "names",
    [
        ("annotations_train.json", "annotations_val.json"),
        ("train_annotations.json", "test_annotations.json"),
        ("train_coco.json", "val_coco.json"),
        ("annotations/coco_train.json", "annotations/coco_test.json"),
        ("custom_train_2.json", "custom_val_2.json"),
        ("train_v2.json", "test_v2.json"),
        ("train.coco.json", "test.coco.json"),
        ("cellsTrain.json", "cellsTest.json"),
        ("instances_train.json", "my_val.json"),
        ("trainval.json", "test.json"),
        ("a/my_train.json", "b/my_val.json"),
        ("x/labels-train.json", "test/labels-test.json"),
    ],
)
def test_a_word_of_a_files_name_is_its_split(tmp_path, names):
    parts_of_coco(tmp_path, names)
    corpus = load(tmp_path)
    assert corpus.train.ids == ["images/0.jpg", "images/1.jpg"]
    assert corpus.test.ids == ["images/10.jpg", "images/11.jpg"]
    assert not said(corpus)


@each(
    ("names", "train", "bare"),
    [
        (("latest.json", "contest.json"), 4, ""),  # no words for splits
        (("my_test_project.json",), 2, ""),
        (("a_test.json", "b_test.json"), 4, ""),
        (("a_train.json", "more.json"), 4, ""),
        (("a_train.json", "a_test.json", "more.json"), 4, "more.json"),
        (("train_test_split.json", "val.json", "train.json"), 4, "train_test_split.json"),
    ],
)
def test_names_without_splits_are_merged_and_said_beside_splits(tmp_path, names, train, bare):
    parts_of_coco(tmp_path, names)
    corpus = load(tmp_path)
    assert len(corpus.train) == train
    problem = "1 files of annotations are of no split, and are training data"
    assert said(corpus) == ([f"{problem}: {bare}"] if bare else [])


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


@each("folder", ["", "a/", "/home/me/train/", "images/training/"])
def test_images_of_the_same_split_or_of_none_are_found_by_their_names(tmp_path, folder):
    write(tmp_path / "a.json", coco_json(2, folder=folder))
    noise(tmp_path / "images/train/0.jpg", 0)
    noise(tmp_path / "images/1.jpg", 1)
    corpus = load(tmp_path)
    assert len(corpus.train) == 2
    assert not said(corpus)


def test_splits_of_images_in_a_folder_elsewhere(tmp_path):
    write(tmp_path / "export/a.json", coco_json(2))
    for n, part in enumerate(("train", "test")):
        noise(tmp_path / f"photos/{part}/{n}.jpg", n)
    corpus = load(tmp_path / "export", images=str(tmp_path / "photos"))
    assert (len(corpus.train), len(corpus.test)) == (1, 1)


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


@each("value", ["60", 60.0])
def test_boxes_of_the_stored_image_are_turned_where_sizes_are_text(tmp_path, value):
    exif = Image.Exif()
    exif[0x0112] = 6
    noise(tmp_path / "0.jpg", 0, exif=exif)
    content = coco_json(1)
    content["images"][0] |= {"width": value, "height": type(value)(40)}
    write(tmp_path / "a.json", content)
    assert "and their boxes with them" in said(load(tmp_path))[0]


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


@each(
    "outline",
    [
        [[6, 4, 36, 4, 36, 24, 6, 24]],
        [[6, 4, 20, 4, 20, 24], [20, 4, 36, 24, 30, 20]],
        {"size": [40, 60], "counts": [6 * 40 + 4, *([20, 20] * 29), 20, 24 * 40 - 4 - 20]},
    ],
)
def test_boxes_from_segmentations(tmp_path, outline):
    content = coco_json(2, segmentation=outline)
    for n, a in enumerate(content["annotations"]):
        a.pop("bbox") if n else a.update(bbox=[])
        noise(tmp_path / f"{n}.jpg", n)
    if isinstance(outline, dict):
        pytest.importorskip("pycocotools")
        outline["counts"][-1] = 60 * 40 - sum(outline["counts"][:-1])
    write(tmp_path / "a.json", content)
    is_box(load(tmp_path), "cell", "debris")


@each("given", ["polygon", "area"])
@each(
    ("bbox", "words"),
    [
        ([6, 4, 36, 24], "4 of 4 boxes fit their polygons or areas as x0, y0, x1, y1: COCO's bbox"),
        ([21, 14, 30, 20], "as the centre's x and y, width, height: COCO's bbox"),
        ([6, 4, 30, 20], ""),
        ([7, 4, 29, 19], ""),
    ],
)
def test_boxes_of_another_form_are_told_by_polygons_and_areas(tmp_path, bbox, words, given):
    """cocodataset.org/#format-data: bbox is [x, y, width, height], and area is the object's."""
    if given == "area" and "centre" in words:
        pytest.skip("boxes of both forms have the same area")
    more = {"area": 600} if given == "area" else {"segmentation": [[6, 4, 36, 4, 36, 24, 6, 24]]}
    write(tmp_path / "a.json", coco_json(4, bbox=bbox, **more))
    for n in range(4):
        noise(tmp_path / f"{n}.jpg", n)
    if words:
        with pytest.raises(DataError, match=re.escape(words)):
            load(tmp_path)
        return
    assert not said(load(tmp_path))


@each(
    ("more", "note"),
    [
        ({"area": 0}, None),
        ({"area": 1}, None),
        ({"area": 377.5}, None),  # of the object, whose outline is not there
        ({"area": 377.5, "segmentation": []}, None),
        (
            {"segmentation": [[40, 30, 50, 30, 50, 38, 40, 38]]},
            "4 of 4 boxes are not around their polygons: check them",
        ),
    ],
)
def test_boxes_that_are_not_around_their_polygons_are_said(tmp_path, more, note):
    write(tmp_path / "a.json", coco_json(4, **more))
    for n in range(4):
        noise(tmp_path / f"{n}.jpg", n)
    assert said(load(tmp_path)) == ([note] if note else [])


@each("few", [1, 3, 7])
def test_few_boxes_outside_of_the_image_show_corners_too(tmp_path, few):
    """Of 20 boxes as two corners, those near the upper left edge would be valid as corner and size."""
    content = coco_json(20)
    for n, box in enumerate(content["annotations"]):
        box["bbox"] = [5, 4, 50, 30] if n >= few else [20, 10, 58, 38]
    write(tmp_path / "a.json", content)
    for n in range(20):
        noise(tmp_path / f"{n}.jpg", n)
    words = "four numbers were x0, y0, x1, y1" if few > 2 else "1 boxes cannot be used"
    with pytest.raises(DataError, match=words):
        load(tmp_path)


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


def test_boxes_without_any_outline_are_refused_or_dropped_by_name(tmp_path, capsys):
    content = coco_json(3)
    del content["annotations"][1]["bbox"]
    write(tmp_path / "a.json", content)
    for n in range(3):
        noise(tmp_path / f"{n}.jpg", n)
    with pytest.raises(DataError, match=r"a\.json, annotation 1 has bbox=None and no segmentation"):
        load(tmp_path)
    assert [len(rows) for rows in found(load(tmp_path, boxes="drop").train).values()] == [1, 0, 1]
    assert "annotation 1 has bbox=None" in capsys.readouterr().err


def test_categories_of_one_name(tmp_path):
    path = tmp_path / "a.json"
    write(path, coco_json(4, categories=(("cell", 3), ("cell", 7))))
    with pytest.raises(
        DataError, match=r"categories 3 and 7 are both named 'cell', with 2 and 2 annot"
    ):
        coco.parse(path)
    write(path, coco_json(1, categories=(("cell", 3), ("cell", 7))))
    content = coco.parse(path)
    assert content.classes == ("cell",)
    assert content.notes == ("1 unused categories have the name of another: cell (id 7)",)
    write(path, coco_json(2, categories=(("b", 90), ("a", 4))))
    assert coco.parse(path).classes == ("a", "b")


def test_images_that_are_named_and_not_there(tmp_path):
    write(tmp_path / "a.json", coco_json(3))
    for n in range(2):
        noise(tmp_path / f"{n}.jpg", n)
    assert "1 images are named but missing: 2.jpg" in said(load(tmp_path))
    usual = {"root": str(tmp_path), "train": "a.json", "test": None, "size": 16, "workers": 0}
    with pytest.raises(DataError, match=r"2\.jpg \(image 2\)\ndataset\.missing=drop"):
        Coco(**usual).load()
    dropped = Coco(**usual, missing="drop").load()
    assert len(dropped.train) == 2
    assert said(dropped) == ["1 images are named but missing: 2.jpg"]
    with pytest.raises(ConfigError, match="refuse or drop"):
        Coco(missing="skip")


# Pascal VOC


def voc_xml(name, label="cell", more=""):
    """As LabelImg (github.com/HumanSignal/labelImg) writes it, with the path of the annotator's machine."""
    return (
        f"<annotation><folder>x</folder><filename>{name}.jpg</filename><path>/home/me/{name}.jpg</path>"
        "<source><database>Unknown</database></source><size><width>60</width><height>40</height><depth>3</depth></size>"
        f"<segmented>0</segmented><object><name>{label}</name><pose>Unspecified</pose><truncated>0</truncated>"
        "<difficult>0</difficult><bndbox><xmin>7</xmin><ymin>5</ymin><xmax>36</xmax><ymax>24</ymax></bndbox></object>"
        f"{more}</annotation>"
    )


LAYOUTS = {
    "LabelImg, side by side": ("{part}/{name}.jpg", "{part}/{name}.xml"),
    "LabelImg, folders of their own": ("images/{part}/{name}.jpg", "annotations/{part}/{name}.xml"),
    "CVAT": ("JPEGImages/{name}.jpg", "Annotations/{name}.xml"),  # and ImageSets/Main
}


@each("kind", [Boxes, VocDetection])
@each("layout", LAYOUTS)
def test_voc_as_tools_write_it(tmp_path, layout, kind):
    """LabelImg and Roboflow ('Pascal VOC') write the XML beside its image; docs.cvat.ai, format VOC, as in VOC."""
    image, xml = LAYOUTS[layout]
    for k, part in enumerate(("train", "valid")):
        names = [f"{k}{n}" for n in range(3)]
        for n, name in enumerate(names):
            noise(tmp_path / image.format(part=part, name=name), 10 * k + n)
            write(tmp_path / xml.format(part=part, name=name), voc_xml(name, "ab"[n % 2]))
        if layout == "CVAT":
            write(tmp_path / f"ImageSets/Main/{('train', 'val')[k]}.txt", "\n".join(names))
    corpus = kind(root=str(tmp_path), size=[40, 60], workers=0).load()
    is_box(corpus, "a", "b")
    assert (len(corpus.train), len(corpus.test)) == (3, 3)
    assert not said(corpus)


def test_images_and_annotations_without_the_other(tmp_path):
    for n in range(3):
        noise(tmp_path / f"{n}.jpg", n)
        write(tmp_path / f"{n + 1}.xml", voc_xml(str(n + 1)))
    corpus = load(tmp_path)
    assert corpus.train.ids == ["1.jpg", "2.jpg"]
    assert said(corpus) == [
        "1 annotations have no image of their name and are left out: 3.xml",
        "1 images have no XML and are left out: 0.jpg",
    ]
    write(tmp_path / "2.xml", "<annotation><obj")
    with pytest.raises(DataError, match=r"2\.xml: no XML"):
        load(tmp_path)


@each("kind", [Boxes, VocDetection])
@each("listed", ["{n}", "{n}.jpg", "{n}.xml", "JPEGImages/{n}.jpg", "{n} 1", "{n}  -1"])
def test_vocs_lists_in_any_form(tmp_path, listed, kind):
    for k, part in enumerate(("train", "val")):
        for n in range(2):
            noise(tmp_path / f"JPEGImages/{k}{n}.jpg", 10 * k + n)
            write(tmp_path / f"Annotations/{k}{n}.xml", voc_xml(f"{k}{n}"))
        rows = "\n".join(listed.format(n=f"{k}{n}") for n in range(2))
        write(tmp_path / f"ImageSets/Main/{part}.txt", rows)
    corpus = kind(root=str(tmp_path), size=16, workers=0).load()
    assert (len(corpus.train), len(corpus.test)) == (2, 2)
    assert not said(corpus)
    for file in (tmp_path / "ImageSets/Main").iterdir():
        file.rename(tmp_path / "ImageSets" / file.name)
    corpus = kind(root=str(tmp_path), size=16, workers=0).load()
    assert (len(corpus.train), len(corpus.test)) == (2, 2)
    assert not said(corpus)
    if kind is Boxes:
        write(tmp_path / "ImageSets/train.txt", "x\ny")
        write(tmp_path / "ImageSets/val.txt", "z")
        (note,) = said(load(tmp_path))
        assert note == "3 names in ImageSets are of no annotated image, and give no split: x, y, z"


def voc_set(root, lists, count=8, name="{}"):
    """VOC's folders with this many images; lists by their place in ImageSets."""
    for n in map(name.format, range(count)):
        noise(root / f"JPEGImages/{n}.jpg", sum(map(ord, n)))
        noise(root / f"SegmentationClass/{n}.png", 100)
        write(root / f"Annotations/{n}.xml", voc_xml(n))
    for place, names in lists.items():
        write(root / f"ImageSets/{place}.txt", "".join(f"{n}\n" for n in names))


@each(
    ("lists", "tested", "learnt", "left"),
    [
        ({"Main/train": "012", "Main/val": "34"}, "34", "012", "567"),
        ({"train": "012", "val": "34"}, "34", "012", "567"),
        # host.robots.ox.ac.uk/pascal/VOC/voc2007: trainval and test, and lists of each class
        ({"Main/trainval": "01234", "Main/test": "56"}, "56", "01234", "7"),
        (
            {"Main/train": "012", "Main/val": "34", "Main/trainval": "01234"}
            | {"Main/cell_trainval": "01234", "Main/cell_train": "012"},
            "34",
            "012",
            "567",
        ),
        # the lists for masks and layouts hold splits of their own
        (
            {"Main/train": "012", "Main/val": "34", "Segmentation/train": "35", "Layout/val": "0"},
            "34",
            "012",
            "567",
        ),
        ({"Segmentation/train": "012", "Segmentation/val": "34"}, "34", "012", "567"),
    ],
)
def test_vocs_images_that_no_list_names_are_left_out(tmp_path, lists, tested, learnt, left):
    voc_set(tmp_path, lists)
    corpus = load(tmp_path)
    assert [Path(name).stem for name in corpus.train.ids] == [*learnt]
    assert [Path(name).stem for name in corpus.test.ids] == [*tested]
    names = ", ".join(f"{n}.jpg" for n in left)
    assert said(corpus) == [
        f"{len(left)} images are in no list of ImageSets and are left out: {names}"
    ]


def test_vocs_lists_without_one_of_training_images_leave_none_out(tmp_path):
    """docs.cvat.ai, format VOC: a list default.txt of all images."""
    voc_set(tmp_path, {"Main/default": "01234567"})
    corpus = load(tmp_path)
    assert len(corpus.train) == 8
    write(tmp_path / "ImageSets/Main/test.txt", "6\n7\n")
    corpus = load(tmp_path)
    assert [Path(name).stem for name in corpus.test.ids] == ["6", "7"]
    assert not said(corpus)


def test_a_voc_image_in_two_lists_is_refused(tmp_path):
    voc_set(tmp_path, {"Main/train": "0123", "Main/val": "34"})
    with pytest.raises(DataError, match=r"val\.txt: 3 is in train\.txt, too; remove one"):
        load(tmp_path)
    write(tmp_path / "ImageSets/Main/test.txt", "5\n")  # then val is learnt from, too
    assert len(load(tmp_path).train) == 5


@each("name", ["a b {}", "a.b{}", "m\u00fc {}"])
def test_vocs_lists_name_images_of_any_name(tmp_path, name):
    """Also with the mark of bytes that Windows' editor writes."""
    voc_set(tmp_path, {}, 4, name)
    for part, rows in (("train", (0, 1)), ("val", (2, 3))):
        text = "\r\n".join(map(name.format, rows))
        path = tmp_path / f"ImageSets/Main/{part}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8-sig")
    for corpus in (load(tmp_path), VocDetection(root=str(tmp_path), size=16, workers=0).load()):
        assert (len(corpus.train), len(corpus.test)) == (2, 2)
        assert not said(corpus)


def test_vocs_own_reader_says_what_no_list_names(tmp_path):
    voc_set(tmp_path, {"Main/train": "012", "Main/val": "34", "Main/test": "5"})
    corpus = VocDetection(root=str(tmp_path), size=16, workers=0).load()
    assert corpus.train.ids == ["0", "1", "2"]
    assert said(corpus) == [
        "2 annotated images are in no list of ImageSets/Main and are left out: 6, 7"
    ]
    with pytest.raises(DataError, match=r"extra\.txt: No such file.*; there: test, train, val"):
        VocDetection(root=str(tmp_path), train="extra").load()


def test_voc_without_lists_leaves_its_test_part_out_where_folds_are_asked_for(tmp_path):
    for k, part in enumerate(("train", "test")):
        noise(tmp_path / part / "a.jpg", k)
        write(tmp_path / part / "a.xml", voc_xml("a"))
    corpus = VocDetection(root=str(tmp_path), test=None, size=16, workers=0).load()
    assert corpus.train.ids == ["train/a.jpg"]
    assert said(corpus) == ["1 images of the test part are left out: dataset.test=null"]


# YOLO


YOLO = {
    "Roboflow": (
        "{part}/images/{n}.jpg",
        "{part}/labels/{n}.txt",
        "train: ../train/images\nval: ../valid/images\n",
    ),
    "Ultralytics": (
        "images/{part}/{n}.jpg",
        "labels/{part}/{n}.txt",
        "path: .\ntrain: images/train\nval: images/valid\n",
    ),
    "no paths": ("{part}/images/{n}.jpg", "{part}/labels/{n}.txt", ""),
    "beside": ("{part}/{n}.jpg", "{part}/{n}.txt", "train: [train]\nval: valid\n"),
    "lists": (
        "images/{part}/{n}.jpg",
        "labels/{part}/{n}.txt",
        "train: train.txt\nval: valid.txt\n",
    ),
}
NAMES = {"list": "names: ['b', 'a']\nnc: 2\n", "numbers": "names:\n  0: b\n  1: a\n"}


@each("names", NAMES)
@each("layout", YOLO)
def test_yolo(tmp_path, layout, names):
    """docs.ultralytics.com/datasets/detect; roboflow.com/formats/yolo: a path in data.yaml begins with ../"""
    image, text, paths = YOLO[layout]
    for k, part in enumerate(("train", "valid")):
        for n in range(4):
            noise(tmp_path / image.format(part=part, n=f"{k}{n}"), 10 * k + n)
            write(tmp_path / text.format(part=part, n=f"{k}{n}"), f"{n % 2} {NORMAL}\n")
        write(tmp_path / f"{part}.txt", "".join(f"./images/{part}/{k}{n}.jpg\n" for n in range(4)))
    write(tmp_path / "data.yaml", paths + NAMES[names])
    corpus = load(tmp_path)
    is_box(corpus, "b", "a")
    assert (len(corpus.train), len(corpus.test)) == (4, 4)
    assert {rows[0][0] for rows in found(corpus.train).values()} == {1, 2}


def test_yolo_of_cvat_and_labelimg(tmp_path):
    """docs.cvat.ai, format YOLO 1.1: obj.names, obj_train_data/. LabelImg: classes.txt beside images and texts."""
    for top, names in (("cvat/obj_train_data", "cvat/obj.names"), ("img", "img/classes.txt")):
        for n in range(2):
            noise(tmp_path / top / f"{n}.jpg", n)
            write(tmp_path / top / f"{n}.txt", f"{n} {NORMAL}")
        write(tmp_path / names, "cell\ndebris\n")
    write(
        tmp_path / "cvat/obj.data", "classes = 2\ntrain = data/train.txt\nnames = data/obj.names\n"
    )
    write(tmp_path / "cvat/train.txt", "data/obj_train_data/0.jpg\ndata/obj_train_data/1.jpg\n")
    for top in ("cvat", "img"):
        corpus = load(tmp_path / top)
        is_box(corpus, "cell", "debris")
        assert not said(corpus)


def yolo(root, text, meta="names: [b, a]\n"):
    for n in range(3):
        noise(root / f"images/{n}.jpg", n)
        write(root / f"labels/{n}.txt", f"0 {NORMAL}")
    write(root / "labels/1.txt", text)
    write(root / "data.yaml", meta)
    return root


@each(
    ("text", "meta"),
    [
        ("1 0.1 0.1 0.6 0.1 0.6 0.6 0.1 0.6", ""),
        ("1 0.35 0.1 0.6 0.35 0.35 0.6 0.1 0.35\n\n", ""),
        (f"1 {NORMAL} 0.2 0.2 2 0.3 0.3 1 0.5 0.5 0", "kpt_shape: [3, 3]\n"),
    ],
)
def test_polygons_turned_boxes_and_poses_become_boxes(tmp_path, text, meta):
    is_box(load(yolo(tmp_path, text, f"{meta}names: [b, a]\n")), "b", "a")


@each("text", ["", None])
def test_images_without_objects(tmp_path, text):
    """An empty text, or none, is an image without objects; none is said."""
    yolo(tmp_path, text or "")
    if text is None:
        (tmp_path / "labels/1.txt").unlink()
    corpus = load(tmp_path)
    assert corpus.report["train"]["without boxes"] == 1
    assert bool(said(corpus)) == (text is None)


@each(
    ("text", "meta", "words"),
    [
        (f"2 {NORMAL}", "", r"1\.txt, line 1: class 2 is none of the 2 in .*data\.yaml \(0 to 1\)"),
        (f"0 {NORMAL}\n0 6 4 36 24", "", r"1\.txt, line 2: .* are no shares of the image's sides"),
        ("0 0.1 0.1 0.2", "", r"line 1: 3 numbers after the class; valid are 4"),
        ("0 a b c d", "", r"line 1: 'a' is no number"),
        (NORMAL, "names: {0: a, 2: b}", r"names has the numbers \[0, 2\], and not 0 to 1"),
        (NORMAL, "names: [a, a]", r"two classes are named 'a'"),
        (
            NORMAL,
            "names: [a]\ntrain: elsewhere/images",
            r"train is elsewhere/images, which is neither",
        ),
    ],
)
def test_what_is_wrong_in_yolos_files_is_named(tmp_path, text, meta, words):
    with pytest.raises(DataError, match=words):
        load(yolo(tmp_path, text, meta or "names: [b, a]\n"))


@each("suffix", ["jpg", "png", "tif", "webp"])
@each("orientation", [5, 6, 7, 8])
def test_yolos_boxes_are_of_the_upright_image(tmp_path, orientation, suffix):
    """Also of a TIFF, which Pillow opens with its upright size."""
    yolo(tmp_path, f"0 {NORMAL}")
    (tmp_path / "images/1.jpg").unlink()
    exif = Image.Exif()
    exif[0x0112] = orientation
    noise(tmp_path / f"images/1.{suffix}", 5, (40, 60), exif=exif)
    corpus = load(tmp_path)
    is_box(corpus, "b", "a")
    assert "turned upright" in said(corpus)[0]


def darknet(root, lists, folder="data", listed="data/{n}.jpg"):
    """pjreddie.com/darknet/yolo: texts beside the images, and lists of images."""
    for k, name in enumerate(lists):
        names = [f"{k}{n}" for n in range(3 - k)]
        for name_ in names:
            noise(root / folder / f"{name_}.jpg", int(name_) + 1)
            write(root / folder / f"{name_}.txt", f"0 {NORMAL}")
        write(root / name, "".join(f"{listed.format(n=n)}\n" for n in names))
    write(root / "obj.names", "cell\n")


@each(
    ("lists", "data"),
    [
        (("train.txt", "test.txt"), None),
        (("lists/train.txt", "lists/val.txt"), None),
        (("Train.txt", "Validation.txt"), "train = data/Train.txt\nvalid = data/Validation.txt\n"),
        (("train.txt", "test.txt"), "train = data/train.txt\nvalid=data/test.txt\nbackup = x/\n"),
        (("a.txt", "b.txt"), "train  = a.txt\nvalid  = /content/darknet/b.txt\n"),
    ],
)
@each(
    "listed", ["data/{n}.jpg", "data/obj/{n}.jpg", "/content/obj/{n}.jpg", "build\\data\\{n}.jpg"]
)
def test_darknets_lists_are_the_splits(tmp_path, lists, data, listed):
    """docs.cvat.ai, format YOLO 1.1: obj.data names the lists. github.com/AlexeyAB/darknet: lists alone."""
    darknet(tmp_path, lists, listed=listed)
    if data:
        write(tmp_path / "obj.data", f"classes = 1\n{data}names = data/obj.names\n")
    corpus = load(tmp_path)
    assert (len(corpus.train), len(corpus.test)) == (3, 2)
    assert not said(corpus)


def test_what_darknets_lists_leave_out_is_said(tmp_path):
    darknet(tmp_path, ("train.txt", "test.txt"))
    noise(tmp_path / "data/99.jpg", 99)
    write(tmp_path / "train.txt", "data/00.jpg\ndata/01.jpg\ndata/elsewhere.jpg\n")
    corpus = load(tmp_path)
    assert len(corpus.train) == 2
    assert said(corpus) == [
        "1 images are named but missing: data/elsewhere.jpg",
        "2 images are in none of the listed splits and are left out: 02.jpg, 99.jpg",
    ]


def test_a_text_of_boxes_is_no_list(tmp_path):
    for k, name in enumerate(("train", "test")):
        noise(tmp_path / f"{name}.jpg", k)
        write(tmp_path / f"{name}.txt", f"0 {NORMAL}")
    write(tmp_path / "classes.txt", "cell\n")
    corpus = load(tmp_path)
    assert len(corpus.train) == 2
    assert not said(corpus)


def roboflow(root, meta):
    for k, part in enumerate(("train", "valid")):
        for n in range(2):
            noise(root / f"{part}/images/{k}{n}.jpg", 10 * k + n)
            write(root / f"{part}/labels/{k}{n}.txt", f"0 {NORMAL}")
    write(root / "data.yaml", f"{meta}\nnc: 1\nnames: [cell]\n")


@each(
    ("train", "val", "test"),
    [
        ("../train/images", "../valid/images", "../test/images"),
        ("train/images", "valid/images", "test/images"),
        ("/content/x/train/images", "/content/x/valid/images", "/content/x/test/images"),
    ],
)
def test_splits_of_data_yaml_that_are_not_there(tmp_path, train, val, test):
    """Roboflow lists all three, and writes those with images; none is taken for another."""
    (tmp_path / "images").mkdir()  # an end of the paths, which could be any split's
    roboflow(tmp_path, f"train: {train}\nval: {val}\ntest: {test}")
    corpus = load(tmp_path)
    assert (len(corpus.train), len(corpus.test)) == (2, 2)
    problem = "1 paths of data.yaml are not there and are left out"
    assert said(corpus) == [f"{problem}: test ({test})"]
    roboflow(tmp_path, f"train: elsewhere/images\nval: {val}")
    with pytest.raises(DataError, match="train is elsewhere/images, which is neither"):
        load(tmp_path)


@each(
    "meta",
    [
        "train: /content/foo/train/images\nval: /content/foo/valid/images",
        "train: C:\\data\\foo\\train\\images\nval: C:\\data\\foo\\valid\\images",
        "path: /content/test/foo\ntrain: train/images\nval: valid/images\ntest:",
        "path: ~\ntrain: [/content/a/train/images]\nval: ../valid/images\ntest: null",
    ],
)
def test_paths_in_data_yaml_of_another_machine(tmp_path, meta):
    roboflow(tmp_path, meta)
    corpus = load(tmp_path)
    assert (len(corpus.train), len(corpus.test)) == (2, 2)
    assert not said(corpus)


@each(
    ("names", "classes"),
    [
        ("[no, yes]", ("no", "yes")),
        ("{0: on, 1: off}", ("on", "off")),
        ("[010, 1.10]", ("010", "1.10")),
        ("[12:30, 2024-01-01]", ("12:30", "2024-01-01")),
        ("\n  - 1e3\n  - 0x1F", ("1e3", "0x1F")),
        ("['no', \"yes\"]", ("no", "yes")),
        ("{'0': a, 1: b c}", ("a", "b c")),
    ],
)
def test_names_in_data_yaml_are_read_as_written(tmp_path, names, classes):
    corpus = load(yolo(tmp_path, f"1 {NORMAL}", f"names: {names}\nnc: 2\n"))
    assert corpus.classes == classes
    assert not said(corpus)


@each("meta", ["names: !!python/object/apply:os.getcwd []", "names: [!!int a]", "names: [a\n"])
def test_a_yaml_that_is_none_is_refused(tmp_path, meta):
    with pytest.raises(DataError, match="no file lists the classes"):
        load(yolo(tmp_path, f"1 {NORMAL}", meta))


@each(
    ("text", "classes", "notes"),
    [
        ("cell\ndebris\n\n", ("cell", "debris"), 0),
        ("0 cell\n1 debris\n", ("cell", "debris"), 0),
        ("0: cell\n1: debris", ("cell", "debris"), 0),
        ("1,debris\n0,cell", ("cell", "debris"), 0),
        ("1 door\n2 doors\n", ("1 door", "2 doors"), None),
        ("1 door\n2 door\n", ("1 door", "2 door"), 0),
        ("3-wheeler\n4x4\n", ("3-wheeler", "4x4"), 0),
        ("cell, round\ncell, flat\n", ("cell, round", "cell, flat"), 0),
        ("#\n$\n", ("#", "$"), 0),
        ("# classes\ncell\ndebris\n", ("cell", "debris"), 1),
        ("cell,debris\n", None, 0),
        ("['cell', 'debris']\n", None, 0),
        ("cell;debris", None, 0),
        ("1 cell\n2 debris\n", None, 0),
    ],
)
def test_lists_of_classes(tmp_path, text, classes, notes):
    """What may be meant otherwise is refused; data.yaml takes any name."""
    yolo(tmp_path, f"0 {NORMAL}")
    (tmp_path / "data.yaml").unlink()
    write(tmp_path / "classes.txt", text)
    if classes is None or notes is None:
        with pytest.raises(
            DataError, match=r"classes\.txt: its .*Write the names alone, one a line"
        ):
            load(tmp_path)
        write(tmp_path / "data.yaml", f"names: {json.dumps(text.splitlines())}")
        assert load(tmp_path).classes == tuple(text.splitlines())
        return
    corpus = load(tmp_path)
    assert corpus.classes == classes
    assert len(said(corpus)) == notes


@each(
    ("file", "text", "refused"),
    [
        ("classes.txt", "a\nb\n", True),
        ("labels/classes.txt", "b\nc\na\n", True),
        ("obj.names", "0 a\n1 b\n", True),
        ("classes.txt", "b\na\n", False),
        ("labels/classes.txt", "b\na\nunused\n", False),
        ("classes.txt", "# b and a\nb\na\n", False),
        ("classes.txt", "b,a\n", False),
    ],
)
def test_a_list_of_classes_beside_data_yaml(tmp_path, file, text, refused):
    yolo(tmp_path, f"1 {NORMAL}")
    write(tmp_path / file, text)
    if refused:
        with pytest.raises(DataError, match=r"class [01] is .*, and in .*data\.yaml '.'; keep"):
            load(tmp_path)
        return
    corpus = load(tmp_path)
    assert corpus.classes == ("b", "a")
    assert not said(corpus)


def tables(root, rows):
    """A text of one line for each of these rows of numbers."""
    for n, row in enumerate(rows):
        noise(root / f"images/{n}.jpg", n)
        write(root / f"labels/{n}.txt", f"0 {row}\n")
    write(root / "data.yaml", "names: [cell]\n")


@each(
    "more",
    [
        ["0.9", "0.8", "0.75"],  # a confidence
        ["0.9 1", "0.8 1", "0.75 0"],  # and a track's number
        ["0.9 1", "0.8 7", "0.75 12"],
        ["0.3 0.3 2 0.4 0.4 1", "0.3 0.2 1 0 0 0", "0.2 0.3 2 0.5 0.2 2"],  # keypoints
        ["0.9 0.9 2 0.4 0.4 1", "0.3 0.2 1 0 0 0", "", "0.2 0.3 2 0.7 0.2 2"],  # outside of the box
        ["0.9 0.9 2 0.4 0.4 1 0.1 0.9 2 0 0.8 2", "0.3 0.2 1 0 0 0 0 0 0 0.7 0.7 1"],
    ],
)
def test_further_columns_of_boxes_are_refused(tmp_path, more):
    tables(tmp_path, [f"{NORMAL} {columns}" for columns in more])
    with pytest.raises(DataError, match=r"\.txt, line 1: .*delete further columns .* kpt_shape"):
        load(tmp_path)


@each(
    "more",
    [
        ["0.3 0.3 0.4 0.4", "0.3 0.2 0 0", "0.2 0.3 0.5 0.25", "0.2 0.2 0.3 0.4"],
        ["0.3 0.3 0.4 0.4 0.5 0.2", "0.3 0.2 0 0 0.2 0.3", *["0.2 0.3 0.5 0.2 0.3 0.4"] * 2],
        ["0.3 0.3 0.9 0.4 0.4 0.8", "0.3 0.2 0.9 0 0 0.1", *["0.2 0.3 0.7 0.5 0.2 0.6"] * 2],
    ],
)
def test_keypoints_that_look_like_polygons_are_doubtful(tmp_path, more):
    tables(tmp_path, [f"{NORMAL} {columns}" for columns in more])
    (note,) = said(load(tmp_path))
    assert "are read as polygons of" in note
    assert "kpt_shape" in note
    columns = len(more[0].split())
    write(tmp_path / "data.yaml", f"names: [cell]\nkpt_shape: [{columns // 2}, 2]\n")
    corpus = load(tmp_path)
    is_box(corpus, "cell")
    assert not said(corpus)
    write(tmp_path / "data.yaml", "names: [cell]\nkpt_shape: [17, 3]\n")
    with pytest.raises(DataError, match=rf"line 1: {4 + columns} numbers .* 55 with the keypoints"):
        load(tmp_path)


def pose(rng, points, size, columns):
    """A person's box and keypoints, some of which lie outside of the box."""
    width, height = rng.uniform(*size, 2)
    centre = rng.uniform(0, 1, 2) * (1 - np.array([width, height])) + np.array([width, height]) / 2
    at = centre + rng.normal(0, 0.35, (points, 2)) * [width, height]
    kept = [*at.clip(0, 1).T, *[rng.uniform(0, 1, points)] * (columns - 2)]
    numbers = [*centre, width, height, *np.stack(kept, 1).ravel()]
    return " ".join(f"{v:.6f}" for v in numbers)


@each("boxes_alone", [False, True])
@each("columns", [2, 3])  # the third is a confidence, as predictions have it
@each("size", [(0.05, 0.3), (0.3, 0.7)])
@each("points", [4, 6, 18])
def test_keypoints_outside_of_their_boxes_are_doubtful(
    tmp_path, points, size, columns, boxes_alone
):
    """docs.ultralytics.com/datasets/pose: the class, the box, and x, y or x, y, visibility of each."""
    rng = np.random.default_rng(points)
    rows = [pose(rng, points, size, columns) for _ in range(12)]
    tables(tmp_path, [*rows, *[NORMAL] * (4 * boxes_alone)])
    (note,) = said(load(tmp_path))
    assert re.match(rf"12 lines have {4 + points * columns} numbers .*read as polygons of", note)
    assert "kpt_shape" in note
    write(tmp_path / "data.yaml", "names: [cell]\nflip_idx: [0]\n")
    corpus = load(tmp_path)
    assert not said(corpus)
    first = [*map(float, rows[0].split())]
    left = (first[0] - first[2] / 2) * SIZE[0]
    assert found(corpus.train)["images/0.jpg"][0][1] == pytest.approx(left, abs=0.01)


def outlines(kind, rng):
    """A polygon's corners, as shares of the sides, in the middle of the image or anywhere."""
    centre, size = rng.uniform(0.2, 0.8, 2), rng.uniform(0.05, 0.2, 2)
    if kind == "in the middle":
        centre = rng.uniform(0.4, 0.6, 2)
    count = {"triangles": 3, "quads": 4, "hexagons": 6, "in the middle": 6}.get(kind)
    count = count or rng.integers(3, 30)
    angle = np.sort(rng.uniform(0, 2 * np.pi, count))
    if kind == "turned boxes":
        turn = rng.uniform(0, np.pi)
        angle = np.array([turn, turn + 1, turn + np.pi, turn + np.pi + 1])
    corners = np.stack([np.cos(angle), np.sin(angle)], 1)
    if kind == "boxes":
        corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]])
    return " ".join(f"{v:.6f}" for v in (centre + corners * size).ravel())


@each(
    "kind",
    ["triangles", "quads", "boxes", "turned boxes", "hexagons", "in the middle", "outlines"],
)
@each("seed", range(3))
def test_polygons_of_any_kind_are_read_without_a_word(tmp_path, kind, seed):
    rng = np.random.default_rng(seed)
    tables(tmp_path, [outlines(kind, rng) for _ in range(12)])
    assert not said(load(tmp_path))


# CVAT, Label Studio, VIA, LabelMe


def cvat(root):
    """docs.cvat.ai/docs/other/xml_format: annotations.xml, images/."""
    shapes = [
        '<box label="cell" occluded="0" xtl="6.0" ytl="4.0" xbr="36.0" ybr="24.0" z_order="0"/>',
        '<box label="debris" xtl="11" ytl="-1" xbr="31" ybr="29" rotation="90.0"/>',
        '<polygon label="cell" points="6.0,4.0;36.0,4.0;36.0,24.0;6.0,24.0"/>',
        '<mask label="cell" rle="600" left="6" top="4" width="30" height="20"/><polyline label="cell" points="1,1;2,2"/>',
        '<ellipse label="cell" cx="21" cy="14" rx="15" ry="10"/><tag label="cell"/>',
    ]
    images = "".join(
        f'<image id="{n}" name="{n}.jpg" width="60" height="40">{shape}</image>'
        for n, shape in enumerate(shapes)
    )
    labels = "".join(f"<label><name>{c}</name></label>" for c in ("debris", "cell"))
    meta = f"<meta><task><labels>{labels}</labels></task></meta>"
    write(
        root / "annotations.xml",
        f'<?xml version="1.0" encoding="utf-8"?><annotations>{meta}{images}</annotations>',
    )
    return (
        [root / f"images/{n}.jpg" for n in range(len(shapes))],
        ("debris", "cell"),
        ["polyline", "tag"],
    )


def label_studio(root):
    """labelstud.io/guide/task_format: percentages; uploads have a prefix, local files a query."""

    def task(n, image, results, **more):
        results = [
            {"original_width": 60, "original_height": 40, "type": k, "value": v} for k, v in results
        ]
        return {"id": n, "data": {"image": image}, "annotations": [{"result": results, **more}]}

    rect = {"x": 10, "y": 10, "width": 50, "height": 50, "rotation": 0, "rectanglelabels": ["cell"]}
    aside = {
        "x": 60,
        "y": 10,
        "width": 100 / 3,
        "height": 75,
        "rotation": 90,
        "rectanglelabels": ["debris"],
    }
    polygon = {"points": [[10, 10], [60, 10], [60, 60]], "polygonlabels": ["cell"]}
    oval = {
        "x": 35,
        "y": 35,
        "radiusX": 25,
        "radiusY": 25,
        "rotation": 0,
        "ellipselabels": ["cell"],
    }
    point = {"x": 10, "y": 10, "width": 1, "keypointlabels": ["cell"]}
    write(
        root / "project-1.json",
        [
            task(0, "/data/upload/1/1a2b3c4d-0.jpg", [("rectanglelabels", rect)]),
            task(1, "/data/local-files/?d=photos%2F1.jpg", [("rectanglelabels", aside)]),
            task(2, "s3://bucket/2.jpg", [("polygonlabels", polygon), ("keypointlabels", point)]),
            task(3, "3.jpg", [("ellipselabels", oval)]),
            task(4, "4.jpg", [], was_cancelled=True),
            {
                "id": 5,
                "data": {"image": "5.jpg"},
                "annotations": [],
                "predictions": [{"result": []}],
            },
        ],
    )
    paths = [root / f"photos/{n}.jpg" for n in range(4)]
    return paths, ("cell", "debris"), ["keypointlabels", "2 tasks are not annotated"]


def label_studio_min(root):
    """labelstud.io/guide/export, JSON-MIN: the shapes under the name of their control."""
    rect = {
        "x": 10,
        "y": 10,
        "width": 50,
        "height": 50,
        "rotation": 0,
        "original_width": 60,
        "original_height": 40,
    }
    tasks = [
        {
            "image": f"/data/upload/{n}.jpg",
            "id": n,
            "label": [rect | {"rectanglelabels": ["ba"[n]]}],
            "annotator": 1,
        }
        for n in range(2)
    ]
    write(root / "min.json", tasks)
    return [root / f"{n}.jpg" for n in range(2)], ("a", "b"), []


@each("degrees", [90, 180, 270])
def test_shapes_on_images_that_label_studio_turned_are_said(tmp_path, degrees):
    """labelstud.io/guide/export: image_rotation of a result."""
    paths, _, _ = label_studio(tmp_path)
    for n, path in enumerate(paths):
        noise(path, n)
    tasks = json.loads((tmp_path / "project-1.json").read_text())
    assert not any("turned" in note for note in said(load(tmp_path)))
    tasks[0]["annotations"][0]["result"][0]["image_rotation"] = degrees
    write(tmp_path / "project-1.json", tasks)
    (note,) = [note for note in said(load(tmp_path)) if "turned in Label Studio" in note]
    assert note.startswith("1 shapes were drawn on an image")


def via_regions(n):
    shapes = [
        {"name": "rect", "x": 6, "y": 4, "width": 30, "height": 20},
        {"name": "polygon", "all_points_x": [6, 36, 20], "all_points_y": [4, 10, 24]},
        {"name": "ellipse", "cx": 21, "cy": 14, "rx": 15, "ry": 10, "theta": 0},
    ]
    kinds = ["cell", {"debris": True, "cell": False}, "cell"]
    return [{"shape_attributes": shapes[n], "region_attributes": {"type": kinds[n]}}]


def via(root, project=True):
    """robots.ox.ac.uk/~vgg/software/via, version 2: a project, or the annotations alone."""
    extra = {
        "shape_attributes": {"name": "point", "cx": 1, "cy": 1},
        "region_attributes": {"type": "cell"},
    }
    images = {
        f"{n}.jpg{n}": {
            "filename": f"{n}.jpg",
            "size": n,
            "regions": via_regions(n),
            "file_attributes": {},
        }
        for n in range(3)
    }
    images["0.jpg0"]["regions"].append(extra)
    content = {"_via_settings": {}, "_via_img_metadata": images, "_via_attributes": {}}
    write(root / "via.json", content if project else images)
    return [root / f"{n}.jpg" for n in range(3)], ("cell", "debris"), ["kind point"]


def via_table(root):
    """The same as VIA's CSV, whose cells hold JSON."""
    lines = [
        "filename,file_size,file_attributes,region_count,region_id,region_shape_attributes,region_attributes"
    ]
    for n in range(3):
        (region,) = via_regions(n)
        cells = ['"' + json.dumps(region[k]).replace('"', '""') + '"' for k in region]
        lines.append(f'{n}.jpg,{n},"{{}}",1,0,{cells[0]},{cells[1]}')
    write(root / "via_export.csv", "\n".join(lines))
    return [root / f"{n}.jpg" for n in range(3)], ("cell", "debris"), []


def labelme(root):
    """github.com/wkentaro/labelme: a JSON for each image; a rectangle's two points in any order."""
    shapes = [
        ("rectangle", [[36, 24], [6, 4]]),
        ("polygon", [[6, 4], [36, 4], [30, 24]]),
        ("rectangle", [[6, 24], [36, 4]]),
    ]
    for n, (kind, points) in enumerate(shapes):
        shape = {
            "label": "ab"[n % 2],
            "points": points,
            "group_id": None,
            "shape_type": kind,
            "flags": {},
        }
        line = {"label": "a", "points": [[1, 1], [2, 2]], "shape_type": "line"}
        content = {
            "version": "5.4.1", "flags": {}, "shapes": [shape, line], "imagePath": f"..\\photos\\{n}.jpg",
            "imageData": None, "imageHeight": 40, "imageWidth": 60,
        }  # fmt: skip
        write(root / f"labels/{n}.json", content)
    return [root / f"photos/{n}.jpg" for n in range(3)], ("a", "b"), ["kind line"]


@each(
    "export",
    [cvat, label_studio, label_studio_min, via, lambda r: via(r, False), via_table, labelme],
)
def test_tools_own_formats(tmp_path, export, capsys):
    paths, classes, words = export(tmp_path)
    for n, path in enumerate(paths):
        noise(path, n)
    corpus = load(tmp_path)
    is_box(corpus, *classes)
    assert len(corpus.train) == len(paths)
    assert "read as " in capsys.readouterr().err
    for word in words:
        assert any(word in line for line in said(corpus)), (word, said(corpus))
    assert len(said(corpus)) == len(words)


def test_a_table_of_via_whose_encoding_is_guessed_is_said(tmp_path):
    paths, *_ = via_table(tmp_path)
    for n, path in enumerate(paths):
        noise(path, n)
    text = (tmp_path / "via_export.csv").read_text().replace("cell", "клетка")
    (tmp_path / "via_export.csv").write_bytes(text.encode("cp1251"))
    (note,) = said(Boxes(root=str(tmp_path), size=[16, 16], workers=0).load())
    assert "is read as Windows-1252" in note


def test_vias_attributes(tmp_path):
    paths, *_ = via(tmp_path)
    for n, path in enumerate(paths):
        noise(path, n)
    content = json.loads((tmp_path / "via.json").read_text())
    regions = [r for i in content["_via_img_metadata"].values() for r in i["regions"]]
    for region in regions:
        region["region_attributes"]["colour"] = "red"
    write(tmp_path / "via.json", content)
    with pytest.raises(
        ConfigError, match=r"dataset\.attribute=None: .* is the class: colour, type"
    ):
        load(tmp_path)
    assert load(tmp_path, attribute="colour").classes == ("red",)
    with pytest.raises(ConfigError, match="must be an attribute of the regions: colour, type"):
        load(tmp_path, attribute="size")
    for region in regions:
        region["region_attributes"] = {}
    write(tmp_path / "via.json", content)
    corpus = load(tmp_path)
    assert corpus.classes == ("object",)
    assert said(corpus)[0] == "no region has an attribute: all are of one class, object"


def test_a_cvat_video_is_refused_with_the_way_out(tmp_path):
    noise(tmp_path / "a.jpg", 0)
    write(tmp_path / "annotations.xml", "<annotations><track id='0' label='cell'/></annotations>")
    with pytest.raises(DataError, match="export it from CVAT as 'CVAT for images"):
        load(tmp_path)


# Damage


JUNK = [
    None,
    -1,
    1e400,
    "",
    "x",
    [],
    {},
    [1],
    [[1, 2], 3],
    {"a": 1},
    True,
    10**30,
    [None],
    "../../etc/passwd",
    "/dev/zero",
]


def of_coco(root):
    write(root / "a.json", coco_json(3, segmentation=[[6, 4, 36, 4, 36, 24]]))
    return [root / f"{n}.jpg" for n in range(3)], (), []


def of_voc(root):
    for n in range(3):
        write(root / f"{n}.xml", voc_xml(str(n)))
    return [root / f"{n}.jpg" for n in range(3)], (), []


def of_yolo(root):
    yolo(root, f"1 {NORMAL}")
    return [], (), []


def places(value, path=()):
    """The path of everything in a JSON value."""
    yield path
    items = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    for key, below in items:
        yield from places(below, (*path, key))


def damage(file, rng):
    """One value of a JSON replaced or removed, or some bytes of a text."""
    if file.suffix == ".json":
        content = json.loads(file.read_text())
        *path, last = rng.choice([p for p in places(content) if p])
        at = content
        for key in path:
            at = at[key]
        if rng.random() < 0.3:
            del at[last]
        else:
            at[last] = rng.choice(JUNK)
        write(file, json.dumps(content))
        return
    content = bytearray(file.read_bytes())
    at = rng.randrange(len(content))
    content[at : at + rng.randint(0, 20)] = rng.choice(
        [b"", b"<", b"&x;", b"-9e9", b"nan ", b"\xff", b"\n", b'"', b"{"]
    )
    file.write_bytes(content)


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


@each("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero")])
@each("kind", ["coco", "voc", "yolo", "yolo's polygons", "coco's polygons"])
def test_what_is_no_file_is_refused_and_not_waited_for(tmp_path, kind, make):
    """A pipe or device that is named like an image."""
    triangle = "0 " + " ".join(str(v / s) for v, s in zip(TRIANGLE, SIZE * 3, strict=True))
    if kind.startswith("yolo"):
        yolo(tmp_path, triangle)
        for n in range(3):
            write(tmp_path / f"labels/{n}.txt", triangle if "polygons" in kind else f"0 {NORMAL}")
    elif kind == "voc":
        for n in range(3):
            noise(tmp_path / f"images/{n}.jpg", n)
            write(tmp_path / f"{n}.xml", voc_xml(str(n)))
    else:
        write(tmp_path / "a.json", coco_json(3, segmentation=[TRIANGLE]))
        for n in range(3):
            noise(tmp_path / f"images/{n}.jpg", n)
    (tmp_path / "images/1.jpg").unlink()
    make(tmp_path / "images/1.jpg")
    read = drawn if "polygons" in kind else load
    with pytest.raises(DataError, match=r"1\.jpg: is a pipe, socket or device, and no file"):
        read(tmp_path)


def test_the_real_sets_are_read_without_a_word(shared_data):
    blood = shared_data / "bccd" / "VOCdevkit"
    corpus = load(blood, size=16, boxes="drop", format="voc")
    assert corpus.classes == ("Platelets", "RBC", "WBC")
    assert not said(corpus)
    assert (len(corpus.train), len(corpus.test)) == (292, 72)
    few = load(Path(shared_data / "coco_mini"), size=16, boxes="drop")
    assert (len(few.train), len(few.test)) == (26, 25)
    assert not said(few)


# Polygons as masks


TRIANGLE = [10, 10, 50, 10, 50, 34]  # x, y; of every fixture


def coco_polygons(root, **annotation):
    """cocodataset.org/#format-data: segmentation is a list of polygons."""
    content = {
        "images": [{"id": n, "file_name": f"{n}.jpg", "width": 60, "height": 40} for n in range(2)],
        "categories": [{"id": 7, "name": "cell"}],
        "annotations": [
            {
                "id": n, "image_id": n, "category_id": 7, "bbox": [10, 10, 40, 24],
                "segmentation": [TRIANGLE], "iscrowd": 0, **annotation,
            }
            for n in range(2)
        ],
    }  # fmt: skip
    write(root / "instances.json", content)
    return [root / f"{n}.jpg" for n in range(2)]


def cvat_polygons(root):
    points = ";".join(f"{x},{y}" for x, y in zip(TRIANGLE[::2], TRIANGLE[1::2], strict=True))
    images = "".join(
        f'<image id="{n}" name="{n}.jpg" width="60" height="40">'
        f'<polygon label="cell" points="{points}"/></image>'
        for n in range(2)
    )
    write(root / "annotations.xml", f"<annotations>{images}</annotations>")
    return [root / f"images/{n}.jpg" for n in range(2)]


def label_studio_polygons(root):
    points = [[x / 0.6, y / 0.4] for x, y in zip(TRIANGLE[::2], TRIANGLE[1::2], strict=True)]
    result = {
        "original_width": 60, "original_height": 40, "type": "polygonlabels",
        "value": {"points": points, "closed": True, "polygonlabels": ["cell"]},
    }  # fmt: skip
    tasks = [
        {"id": n, "data": {"image": f"/data/upload/1/1a2b3c4d-{n}.jpg"}, "annotations": [{"result": [result]}]}
        for n in range(2)
    ]  # fmt: skip
    write(root / "project.json", tasks)
    return [root / f"{n}.jpg" for n in range(2)]


def via_polygons(root):
    shape = {"name": "polygon", "all_points_x": TRIANGLE[::2], "all_points_y": TRIANGLE[1::2]}
    region = {"shape_attributes": shape, "region_attributes": {"type": "cell"}}
    images = {
        f"{n}.jpg{n}": {
            "filename": f"{n}.jpg",
            "size": n,
            "regions": [region],
            "file_attributes": {},
        }
        for n in range(2)
    }
    write(root / "via.json", {"_via_settings": {}, "_via_img_metadata": images})
    return [root / f"{n}.jpg" for n in range(2)]


def labelme_polygons(root):
    points = [[x, y] for x, y in zip(TRIANGLE[::2], TRIANGLE[1::2], strict=True)]
    for n in range(2):
        shape = {"label": "cell", "points": points, "shape_type": "polygon", "flags": {}}
        content = {
            "version": "5.4.1", "shapes": [shape], "imagePath": f"{n}.jpg", "imageData": None,
            "imageHeight": 40, "imageWidth": 60,
        }  # fmt: skip
        write(root / f"{n}.json", content)
    return [root / f"{n}.jpg" for n in range(2)]


POLYGONS = [coco_polygons, cvat_polygons, label_studio_polygons, via_polygons, labelme_polygons]


def drawn(root, **options):
    return Polygons(**{"root": str(root), "size": [40, 60], "workers": 0, **options}).load()


@each("export", POLYGONS)
def test_polygons_become_masks(tmp_path, export):
    for n, path in enumerate(export(tmp_path)):
        noise(path, n)
    corpus = drawn(tmp_path)
    assert corpus.classes == ("background", "cell")
    for mask in corpus.train.target("mask"):
        assert set(mask.unique().tolist()) == {0, 1}
        assert mask[12, 40] == 1, "inside"
        assert mask[30, 15] == mask[5, 30] == mask[38, 55] == 0
        # half of 40 x 24 pixels, with the pixels of its edge
        assert int(mask.sum()) == pytest.approx(480, abs=70)
    assert not said(corpus)


def test_boxes_and_circles_are_filled_and_later_shapes_lie_above(tmp_path):
    shapes = [
        {"label": "b", "points": [[5, 5], [35, 35]], "shape_type": "rectangle"},
        {"label": "a", "points": [[20, 20], [26, 20]], "shape_type": "circle"},
    ]
    content = {"shapes": shapes, "imagePath": "0.jpg", "imageHeight": 40, "imageWidth": 60}
    write(tmp_path / "0.json", content)
    noise(tmp_path / "0.jpg", 0)
    corpus = drawn(tmp_path)
    assert corpus.classes == ("background", "a", "b")
    (mask,) = corpus.train.target("mask")
    assert (mask[20, 20], mask[10, 10], mask[20, 50]) == (1, 2, 0)
    assert int((mask == 1).sum()) == pytest.approx(3.14 * 36, abs=25)
    given = drawn(tmp_path, classes=["b", "a"], memory=0.0)
    assert given.train.target("mask")[0][10, 10] == 1, "the masks are drawn for each batch"


@each("orders", [(0, 1), (1, 0), (-1, 5), (10, 9), ("", "")])
def test_cvats_layers_are_drawn_from_the_lowest_up(tmp_path, orders):
    """docs.cvat.ai/docs/other/xml_format: z_order; shapes of one layer lie in the file's order."""
    outline = {"a": "5,5;35,5;35,35;5,35", "b": "10,10;20,10;20,20;10,20"}
    shapes = "".join(
        f'<polygon label="{label}" points="{outline[label]}" {f"""z_order="{z}" """ if z != "" else ""}/>'
        for label, z in zip("ab", orders, strict=True)
    )
    image = f'<image id="0" name="0.jpg" width="60" height="40">{shapes}</image>'
    write(tmp_path / "annotations.xml", f"<annotations>{image}</annotations>")
    noise(tmp_path / "images/0.jpg", 0)
    (mask,) = drawn(tmp_path).train.target("mask")
    assert mask[30, 30] == 1
    assert mask[15, 15] == (1 if orders[0] != "" and orders[0] > orders[1] else 2)


@each("suffix", ["jpg", "png", "tif"])
@each("orientation", [5, 6, 7, 8])
def test_polygons_of_the_upright_image(tmp_path, orientation, suffix):
    exif = Image.Exif()
    exif[0x0112] = orientation
    for n, path in enumerate(coco_polygons(tmp_path)):
        noise(path.with_suffix(f".{suffix}"), n, (40, 60), exif=exif)
    text = (tmp_path / "instances.json").read_text().replace(".jpg", f".{suffix}")
    write(tmp_path / "instances.json", text)
    corpus = drawn(tmp_path)
    assert all(mask[12, 40] == 1 for mask in corpus.train.target("mask"))
    assert len(said(corpus)) == 1


@each(
    ("annotation", "words"),
    [
        ({"segmentation": []}, "2 shapes of COCO have no polygon"),
        ({"segmentation": {"counts": [0, 2400], "size": [40, 60]}}, "have no polygon"),
    ],
)
def test_shapes_without_a_polygon_are_refused(tmp_path, annotation, words):
    for n, path in enumerate(coco_polygons(tmp_path, **annotation)):
        noise(path, n)
    with pytest.raises(DataError, match=words):
        drawn(tmp_path)


def test_crowds_are_without_annotation(tmp_path):
    paths = coco_polygons(tmp_path)
    for n, path in enumerate(paths):
        noise(path, n)
    content = json.loads((tmp_path / "instances.json").read_text())
    content["annotations"][0]["iscrowd"] = 1
    write(tmp_path / "instances.json", content)
    masks = drawn(tmp_path).train.target("mask")
    assert (masks[0][12, 40], masks[1][12, 40]) == (255, 1)


def test_polygons_of_another_frame_are_refused(tmp_path):
    for n, path in enumerate(coco_polygons(tmp_path)):
        noise(path, n, size=(40, 60))
    with pytest.raises(
        DataError, match="is of 60 x 40 pixels, and its image as it is shown 40 x 60"
    ):
        drawn(tmp_path)


# Classes of whole images


def choice(n, *labels, **more):
    value = {"choices": list(labels)}
    result = {"from_name": "kind", "to_name": "image", "type": "choices", "value": value}
    annotations = [{"result": [result] if labels else [], **more}]
    return {
        "id": n,
        "data": {"image": f"/data/upload/1/1a2b3c4d-{n}.jpg"},
        "annotations": annotations,
    }


def studio_choices(root):
    """labelstud.io/guide/export: a task for each image, its choices in the result."""
    tasks = [choice(n, "cat" if n % 2 else "dog") for n in range(6)]
    tasks += [choice(6), choice(7, "cat", was_cancelled=True)]
    write(root / "project.json", tasks)
    return root / "project.json", [root / f"{n}.jpg" for n in range(8)]


def studio_min_choices(root):
    """JSON-MIN: the choice under the name of its control."""
    tasks = [
        {
            "image": f"/data/upload/1/{n}.jpg",
            "id": n,
            "choice": "cat" if n % 2 else "dog",
            "annotator": 1,
        }
        for n in range(6)
    ]
    tasks += [{"image": f"{n}.jpg", "id": n, "annotator": 1} for n in (6, 7)]
    write(root / "min.json", tasks)
    return root / "min.json", [root / f"{n}.jpg" for n in range(8)]


def cvat_tags(root):
    """docs.cvat.ai/docs/other/xml_format: a tag is of the whole image."""
    tag = '<tag label="{}" source="manual"></tag>'
    images = "".join(
        f'<image id="{n}" name="{n}.jpg" width="60" height="40">'
        f"{tag.format('cat' if n % 2 else 'dog') if n < 6 else ''}</image>"
        for n in range(8)
    )
    write(root / "annotations.xml", f"<annotations><version>1.1</version>{images}</annotations>")
    return root / "annotations.xml", [root / f"images/{n}.jpg" for n in range(8)]


def fiftyone_labels(root):
    """docs.voxel51.com/user_guide/export_datasets.html: numbers of the listed classes, null where
    an image is unlabelled; images are named without their suffixes."""
    labels = {f"{n % 2}/{n}": n % 2 for n in range(6)} | {"0/6": None, "1/7": None}
    write(root / "labels.json", {"classes": ["dog", "cat"], "labels": labels})
    return root / "labels.json", [root / f"data/{n % 2}/{n}.jpg" for n in range(8)]


def fiftyone_manifest(root):
    """Without copies of the images: data.json has their paths. Here with confidences, and with
    classes as texts."""
    labels = {f"{n}": {"label": "cat" if n % 2 else "dog", "confidence": 0.9} for n in range(6)}
    write(root / "labels.json", {"labels": labels | {"6": None, "7": {"label": None}}})
    paths = [root / f"elsewhere/{n}.jpg" for n in range(8)]
    write(root / "data.json", {path.name: str(path) for path in paths})
    return root / "labels.json", paths


@each(
    "export",
    [studio_choices, studio_min_choices, cvat_tags, fiftyone_labels, fiftyone_manifest],
)
def test_choices_and_tags_are_classes_of_images(tmp_path, export):
    file, paths = export(tmp_path)
    for n, path in enumerate(paths):
        noise(path, n)
    corpus = ImageFolder(labels=str(file), size=16, workers=0).load()
    assert corpus.classes == ("cat", "dog")
    labels = dict(zip(corpus.train.ids, corpus.train.y.tolist(), strict=True))
    assert labels == {
        p.relative_to(tmp_path).as_posix(): 1 - n % 2 for n, p in enumerate(paths[:6])
    }
    assert len(corpus.extra) == 2, "images without a class are pretrained on"
    assert not said(corpus)


@each(
    ("tasks", "words"),
    [
        ([choice(0, "cat", "dog")], "0.jpg has the classes cat, dog; an image has one class"),
        (
            [choice(0), choice(1)],
            "no image with a class; Label Studio's JSON with choices, FiftyOne's",
        ),
        ([choice(0, "cat"), choice(0, "cat")], "is annotated twice"),
        ({"shapes": []}, "no export of Label Studio or FiftyOne"),
        ({"classes": ["cat"], "labels": {"0": 1}}, "0 has the class 1; 1 are listed"),
        ({"labels": {"0": ["cat", "dog"]}}, "0.jpg has the classes cat, dog"),
        ([choice(0, "cat"), choice(1, "dog"), choice(9, "cat")], None),
    ],
)
def test_doubtful_choices_are_refused_or_said(tmp_path, tasks, words):
    write(tmp_path / "project.json", tasks)
    noise(tmp_path / "0.jpg", 0)
    noise(tmp_path / "1.jpg", 1)
    dataset = ImageFolder(labels=str(tmp_path / "project.json"), size=16, workers=0)
    if words is None:
        assert "1 images are named but missing: /data/upload/1/1a2b3c4d-9.jpg" in said(
            dataset.load()
        )
        return
    with pytest.raises(DataError, match=words):
        dataset.load()


def annotations(*labels, **first):
    """Label Studio's task with an annotation for each label."""
    results = [{"result": [{"type": "choices", "value": {"choices": [c]}}]} for c in labels]
    return [results[0] | first, *results[1:]]


@each(
    ("given", "words"),
    [
        (annotations("cat", "dog"), "1 tasks have annotations that disagree, of which the first"),
        (annotations("cat", "dog", "dog"), "is taken: /data/upload/1/1a2b3c4d-0.jpg"),
        ([*annotations("cat"), {"result": []}], "annotations that disagree"),
        (annotations("cat", "dog", ground_truth=True), ""),
        (annotations("cat", "cat"), ""),
        ([*annotations("cat"), *annotations("dog", was_cancelled=True)], ""),
    ],
)
def test_annotators_who_disagree_are_said(tmp_path, given, words):
    tasks = [choice(n, "cat" if n % 2 else "dog") for n in range(4)]
    tasks[0]["annotations"] = given
    write(tmp_path / "project.json", tasks)
    for n in range(4):
        noise(tmp_path / f"{n}.jpg", n)
    corpus = ImageFolder(labels=str(tmp_path / "project.json"), size=16, workers=0).load()
    assert corpus.classes[corpus.train.y[0]] == "cat"
    assert [words in note for note in said(corpus)] == [True] * bool(words)


@each(
    "asked",
    [
        lambda n: [("kind", "ab"[n % 2]), ("quality", "good")],
        lambda n: [("kind", "ab"[n % 2])] if n % 2 else [("quality", "good")],
        lambda n: [("kind", "ab"[n % 2]), *[("quality", "bad")] * (n == 1)],
    ],
)
def test_answers_to_several_questions_are_refused(tmp_path, asked):
    """labelstud.io/guide/task_format: from_name is the control of a result."""
    tasks = []
    for n in range(4):
        noise(tmp_path / f"{n}.jpg", n)
        results = [
            {"type": "choices", "from_name": control, "value": {"choices": [choice]}}
            for control, choice in asked(n)
        ]
        tasks.append({"data": {"image": f"{n}.jpg"}, "annotations": [{"result": results}]})
    write(tmp_path / "a.json", tasks)
    with pytest.raises(DataError, match="answers to several questions about an image"):
        ImageFolder(root=str(tmp_path), labels=str(tmp_path / "a.json"), size=16).load()


@each(
    "region",
    [
        {"x": 1, "y": 1, "width": 5, "height": 5},
        {"points": [[1, 1], [2, 2], [3, 1]]},
        {"format": "rle", "rle": [1, 2]},
    ],
)
def test_choices_of_regions_are_said(tmp_path, region):
    """labelstud.io/tags/choices, perRegion: the result repeats the region's position."""
    tasks = []
    for n in range(4):
        noise(tmp_path / f"{n}.jpg", n)
        value = {**region, "choices": ["ab"[n % 2]]}
        results = [{"type": "choices", "from_name": "kind", "value": value}]
        tasks.append({"data": {"image": f"{n}.jpg"}, "annotations": [{"result": results}]})
    write(tmp_path / "a.json", tasks)
    corpus = ImageFolder(root=str(tmp_path), labels=str(tmp_path / "a.json"), size=16).load()
    (note,) = said(corpus)
    assert note.startswith("4 tasks have choices of a region, which are taken for the image's")


@each("control", ["animal", "label", "Species"])
def test_the_control_of_a_choice_has_any_name(tmp_path, control):
    tasks = [
        {"image": f"{n}.jpg", "id": n, control: "cat" if n % 2 else "dog", "annotator": "me",
         "created_at": "2024", "lead_time": 1.5}
        for n in range(4)
    ]  # fmt: skip
    write(tmp_path / "min.json", tasks)
    for n in range(4):
        noise(tmp_path / f"{n}.jpg", n)
    dataset = ImageFolder(labels=str(tmp_path / "min.json"), size=16, workers=0)
    assert dataset.load().classes == ("cat", "dog")
    chosen = [task | {control: {"choices": [task[control]]}} for task in tasks]
    write(tmp_path / "min.json", chosen)
    assert dataset.load().classes == ("cat", "dog")
    write(tmp_path / "min.json", [task | {"quality": "good"} for task in tasks])
    with pytest.raises(DataError, match=rf"{control} and quality may be the class of an image"):
        dataset.load()
