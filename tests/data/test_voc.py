"""Pascal VOC's files of annotations, as LabelImg, Roboflow and CVAT write them."""

from pathlib import Path

import pytest
from tool_exports import is_box, load, noise, said, voc_xml, write

from sft_exp.datasets.boxes import Boxes
from sft_exp.datasets.voc_detection import VocDetection
from sft_exp.errors import DataError

each = pytest.mark.parametrize
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
