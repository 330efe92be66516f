"""CVAT's XML, "CVAT for images 1.1" (docs.cvat.ai/docs/other/xml_format)."""

from pathlib import Path
from xml.etree.ElementTree import Element

from sft_exp.data.exports.annotated import Annotated, Export, LeftOut, Settings, Tree, xml
from sft_exp.data.exports.geometry import Shape, box, number, oval, polygon
from sft_exp.data.readers import findings
from sft_exp.data.readers.boxed import Box
from sft_exp.errors import DataError

NAME = "CVAT for images"
LAYOUT = "annotations.xml with <image> and <box>, and images/"
OTHER = ("polyline", "points", "cuboid", "skeleton", "tag")  # shapes without a box


def files(tree: Tree) -> list[Path]:
    return [p for p in tree.ending(".xml") if tree.tag(p) == "annotations"]


def read(tree: Tree, sources: list[Path], settings: Settings) -> Export:
    images, left = [], LeftOut()
    classes: dict[str, None] = {}
    for file in sources:
        top = xml(file)
        if top.find("track") is not None:
            raise DataError(
                f"{file}: tracks of a video; export it from CVAT as 'CVAT for images 1.1'"
            )
        names = [e.text or "" for e in top.iterfind("meta//labels/label/name")]
        classes |= dict.fromkeys(map(findings.class_name, names))
        for image in top.iterfind("image"):
            name = image.get("name", "")
            if (path := tree.find(name, file)) is None:
                left.add("images are named and not there", name)
                continue
            boxes = []
            for n, shape in enumerate(image, start=1):
                where = f"image {name}, {shape.tag} {n}"
                if shape.tag in OTHER:
                    left.add(f"annotations of the kind {shape.tag} are left out", name)
                elif found := shape_of(shape, f"{file}, {where}"):
                    label = findings.class_name(shape.get("label", ""))
                    boxes.append(Box(label, found.at, False, where, found.outlines))
                else:
                    left.add(f"annotations of the unknown kind {shape.tag} are left out", name)
            sides = image.get("width", ""), image.get("height", "")
            size = (int(sides[0]), int(sides[1])) if all(s.isdecimal() for s in sides) else None
            split = findings.split_named(image.get("subset", "")) or tree.split(path)
            images.append(Annotated(path, boxes, file, size, split))
    return Export(images, tuple(classes), left.notes)


def shape_of(shape: Element, where: str) -> Shape | None:
    """The shape of an annotation, or None for an unknown one."""

    def value(key: str, default: object = None) -> float:
        return number(shape.get(key, default), f"{where}, {key}")

    if shape.tag == "box":
        x0, y0, x1, y1 = (value(key) for key in ("xtl", "ytl", "xbr", "ybr"))
        return box((x0, y0, x1, y1), value("rotation", 0), ((x0 + x1) / 2, (y0 + y1) / 2))
    if shape.tag == "polygon":
        return polygon(shape.get("points", "").replace(";", ",").split(","), where)
    if shape.tag == "ellipse":
        x, y, rx, ry = (value(key) for key in ("cx", "cy", "rx", "ry"))
        return oval(x, y, rx, ry, value("rotation", 0))
    if shape.tag == "mask":
        left, top = value("left"), value("top")
        return Shape((left, top, left + value("width"), top + value("height")))
    return None
