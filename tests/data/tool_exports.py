"""Exports as labelling tools write them in their published formats: each writes its files and returns
the paths of its images, its classes, and words of the warnings that its reader gives."""

import json

import numpy as np
import pytest
from PIL import Image

from sft_exp.datasets.boxes import Boxes

SIZE = (60, 40)
BOX = (6.0, 4.0, 36.0, 24.0)  # the box of every export: x 0.1 to 0.6, y 0.1 to 0.6 of the sides
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


def voc_xml(name, label="cell", more=""):
    """As LabelImg (github.com/HumanSignal/labelImg) writes it, with the path of the annotator's machine."""
    return (
        f"<annotation><folder>x</folder><filename>{name}.jpg</filename><path>/home/me/{name}.jpg</path>"
        "<source><database>Unknown</database></source><size><width>60</width><height>40</height><depth>3</depth></size>"
        f"<segmented>0</segmented><object><name>{label}</name><pose>Unspecified</pose><truncated>0</truncated>"
        "<difficult>0</difficult><bndbox><xmin>7</xmin><ymin>5</ymin><xmax>36</xmax><ymax>24</ymax></bndbox></object>"
        f"{more}</annotation>"
    )


def yolo(root, text, meta="names: [b, a]\n"):
    for n in range(3):
        noise(root / f"images/{n}.jpg", n)
        write(root / f"labels/{n}.txt", f"0 {NORMAL}")
    write(root / "labels/1.txt", text)
    write(root / "data.yaml", meta)
    return root


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
