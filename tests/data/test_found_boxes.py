"""Boxes as people and programs leave them: read as they are meant, refused with the way out, or warned of."""

import json

import pytest
from found_inputs import ROOT, noise, warnings, write
from pictures import save

from sft_exp.datasets.boxes import Boxes
from sft_exp.datasets.polygons import Polygons
from sft_exp.errors import DataError

each = pytest.mark.parametrize
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
