"""Polygons of any format, drawn as masks."""

import json
import os

import pytest
from PIL import Image
from tool_exports import NORMAL, SIZE, coco_json, load, noise, said, voc_xml, write, yolo

from sft_exp.datasets.polygons import Polygons
from sft_exp.errors import DataError

each = pytest.mark.parametrize
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
