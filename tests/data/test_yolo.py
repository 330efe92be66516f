"""YOLO's files of annotations, as Ultralytics, Roboflow, CVAT, LabelImg and Darknet write them."""

import json
import re

import numpy as np
import pytest
from PIL import Image
from tool_exports import NORMAL, SIZE, found, is_box, load, noise, said, write, yolo

from sft_exp.errors import DataError

each = pytest.mark.parametrize
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
