"""Pascal VOC's files of annotations, as LabelImg, Roboflow and CVAT write them."""

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
@each("listed", ["{n}", "{n}.jpg", "{n}.xml", "JPEGImages/{n}.jpg", "{n} 1"])
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
    if kind is Boxes:
        for file in (tmp_path / "ImageSets/Main").iterdir():
            file.rename(tmp_path / "ImageSets" / file.name)
        corpus = load(tmp_path)
        assert (len(corpus.train), len(corpus.test)) == (2, 2)
        assert not said(corpus)
        write(tmp_path / "ImageSets/train.txt", "x\ny")
        write(tmp_path / "ImageSets/val.txt", "z")
        (note,) = said(load(tmp_path))
        assert note == "3 names in ImageSets are of no annotated image, and give no split: x, y, z"


def test_voc_without_lists_leaves_its_test_part_out_where_folds_are_asked_for(tmp_path):
    for k, part in enumerate(("train", "test")):
        noise(tmp_path / part / "a.jpg", k)
        write(tmp_path / part / "a.xml", voc_xml("a"))
    corpus = VocDetection(root=str(tmp_path), test=None, size=16, workers=0).load()
    assert corpus.train.ids == ["train/a.jpg"]
    assert said(corpus) == ["1 images of the test part are left out: dataset.test=null"]
