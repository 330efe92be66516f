"""COCO's files of annotations, as Roboflow, CVAT, Label Studio and converters write them."""

import re

import pytest
from PIL import Image
from tool_exports import coco_json, found, is_box, load, noise, said, write

from sft_exp.data.exports import coco
from sft_exp.datasets.coco import Coco
from sft_exp.errors import ConfigError, DataError

each = pytest.mark.parametrize


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
