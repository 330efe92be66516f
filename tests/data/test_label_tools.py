"""The own formats of CVAT, Label Studio, VIA and LabelMe."""

import json

import pytest
from tool_exports import (
    cvat,
    is_box,
    label_studio,
    label_studio_min,
    labelme,
    load,
    noise,
    said,
    via,
    via_table,
    write,
)

from sft_exp.datasets.boxes import Boxes
from sft_exp.errors import ConfigError, DataError

each = pytest.mark.parametrize


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
