"""CVAT's XML, "CVAT for images 1.1" (docs.cvat.ai/docs/other/xml_format)."""

from pathlib import Path
from xml.etree.ElementTree import Element

from sft_exp.data.exports.annotated import AnnotatedImage, Export, Omissions, Settings, Tree, xml
from sft_exp.data.exports.geometry import Shape, box, ellipse, number, polygon, stated_size
from sft_exp.data.readers import findings
from sft_exp.data.readers.boxed import Box
from sft_exp.errors import DataError

NAME = "CVAT for images"
LAYOUT = "annotations.xml with <image> and <box>, and images/"
WITHOUT_BOX = ("polyline", "points", "cuboid", "skeleton", "tag")  # kinds of annotation


def files(tree: Tree) -> list[Path]:
    return [p for p in tree.ending(".xml") if tree.tag(p) == "annotations"]


def read(tree: Tree, sources: list[Path], settings: Settings) -> Export:
    images, omissions = [], Omissions()
    classes: dict[str, None] = {}
    for file in sources:
        top = xml(file)
        if top.find("track") is not None:
            raise DataError(
                f"{file}: tracks of a video; export it from CVAT as 'CVAT for images 1.1'"
            )
        labels = top.iterfind("meta//labels/label/name")
        names = [element.text or "" for element in labels]
        classes |= dict.fromkeys(map(findings.class_name, names))
        for image in top.iterfind("image"):
            name = image.get("name", "")
            if (path := tree.find(name, file)) is None:
                omissions.add("images are named but missing", name)
                continue
            boxes = boxes_of(image, file, omissions)
            size = stated_size(image.get("width"), image.get("height"))
            split = findings.split_named(image.get("subset", "")) or tree.split(path)
            images.append(AnnotatedImage(path, boxes, file, size, split))
    return Export(images, tuple(classes), omissions.notes)


def boxes_of(image: Element, file: Path, omissions: Omissions) -> list[Box]:
    """The boxes of an <image>, in pixels, from the lowest layer (z_order) to the highest.

    Annotations without a box are added to `omissions`.
    """
    name, boxes = image.get("name", ""), list[tuple[float, Box]]()
    for n, element in enumerate(image, start=1):
        where = f"image {name}, {element.tag} {n}"
        if element.tag in WITHOUT_BOX:
            omissions.add(f"annotations of the kind {element.tag} are left out", name)
            continue
        shape = shape_of(element, f"{file}, {where}")
        if shape is None:
            omissions.add(f"annotations of the unknown kind {element.tag} are left out", name)
            continue
        label = findings.class_name(element.get("label", ""))
        layer = number(element.get("z_order", 0), f"{file}, {where}, z_order")
        boxes.append((layer, Box(label, shape.corners, False, where, shape.outlines)))
    return [drawn for _, drawn in sorted(boxes, key=lambda pair: pair[0])]


def shape_of(element: Element, where: str) -> Shape | None:
    """The shape of an annotation, in pixels; None for an unknown kind.

    Raises:
        DataError: a coordinate is missing or no number.
    """

    def value(key: str, default: object = None) -> float:
        return number(element.get(key, default), f"{where}, {key}")

    if element.tag == "box":
        x0, y0, x1, y1 = (value(key) for key in ("xtl", "ytl", "xbr", "ybr"))
        return box((x0, y0, x1, y1), value("rotation", 0), ((x0 + x1) / 2, (y0 + y1) / 2))
    if element.tag == "polygon":
        return polygon(element.get("points", "").replace(";", ",").split(","), where)
    if element.tag == "ellipse":
        x, y, rx, ry = (value(key) for key in ("cx", "cy", "rx", "ry"))
        return ellipse(x, y, rx, ry, value("rotation", 0))
    if element.tag == "mask":
        left, top = value("left"), value("top")
        return Shape((left, top, left + value("width"), top + value("height")))
    return None
