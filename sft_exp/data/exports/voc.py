"""Pascal VOC's annotations (Everingham et al., IJCV 2010), an XML for each image: beside it, as LabelImg and Roboflow write
them, or in folders of their own, as in VOC and CVAT's exports."""

from pathlib import Path

from sft_exp.data.exports.annotated import Annotated, Export, LeftOut, Settings, Tree, xml
from sft_exp.data.readers import findings
from sft_exp.data.readers.boxed import Box, Marked
from sft_exp.data.readers.files import File, names_in
from sft_exp.errors import DataError

NAME = "Pascal VOC"
LAYOUT = "an XML for each image, beside it or in Annotations/, with <object> and <bndbox>"
CORNERS = ("xmin", "ymin", "xmax", "ymax")


def files(tree: Tree) -> list[Path]:
    """The XMLs of annotations, and empty ones beside them, which are named when they are read."""
    tags = {p: tree.tag(p) for p in tree.ending(".xml")}
    there = "annotation" in tags.values()
    return [p for p, tag in tags.items() if there and tag in ("annotation", None)]


def read(tree: Tree, found: list[Path], settings: Settings) -> Export:
    lists = {
        name: split
        for file in tree.ending(".txt")
        if file.parent.parent.name == "ImageSets" and (split := findings.split_named(file.stem))
        for name in names_in(file, "")
    }
    images, left, used = [], LeftOut(), set()
    for file in found:
        named = (xml(file).findtext("filename") or "").strip()
        path = tree.named(file.stem, file) or (tree.find(named, file) if named else None)
        if path is None:
            left.add("annotations have no image of their name and are left out", file.name)
            continue
        about = marked(file, path, settings.first)
        split = lists.get(file.stem) or tree.split(path)
        images.append(Annotated(path, about.boxes, file, about.size, split))
        used.add(path)
    # of VOC's layout, PNGs named like the images
    masks = ("SegmentationClass", "SegmentationObject")
    for path in tree.pictures:
        if path not in used and path.parent.name not in masks:
            left.add("images have no XML and are left out", path.name)
    return Export(images, (), left.notes)


def marked(file: Path, image: Path, first: int) -> Marked:
    """An image's boxes. `first` is the number of the first pixel: 1, and a box includes its last ones; or 0, and it ends
    before them. DataError names the file and what is wrong in it."""
    tree = xml(file, "; an image without boxes has one without objects")
    boxes = []
    for n, thing in enumerate(tree.iter("object"), start=1):
        label = findings.class_name(thing.findtext("name", "").strip())
        given = [thing.findtext(f"bndbox/{c}", "") for c in CORNERS]
        try:
            x0, y0, x1, y1 = map(float, given)
        except ValueError as error:
            raise DataError(
                f"{file}: object {n} ({label}) has bndbox {', '.join(given)}, and not four numbers"
            ) from error
        if not label:
            raise DataError(f"{file}: object {n} has no name")
        difficult = thing.findtext("difficult", "0").strip() == "1"
        boxes.append(Box(label, (x0 - first, y0 - first, x1, y1), difficult, f"object {n}"))
    sides = [tree.findtext(f"size/{side}", "") for side in ("width", "height")]
    stated = all(s.isdecimal() and int(s) for s in sides)
    size = (int(sides[0]), int(sides[1])) if stated else None
    return Marked(File(image.stem, image), boxes, size, str(file))
