"""Pascal VOC's annotations (Everingham et al., IJCV 2010): an XML file for each image.

It is beside the image (LabelImg, Roboflow) or in a separate folder (VOC, CVAT).
"""

from pathlib import Path, PurePosixPath

from sft_exp.data.exports.annotated import AnnotatedImage, Export, Omissions, Settings, Tree, xml
from sft_exp.data.exports.geometry import flag, stated_size
from sft_exp.data.readers import findings
from sft_exp.data.readers.boxed import Box, ImageWithBoxes
from sft_exp.data.readers.files import File, is_image, names_in
from sft_exp.errors import DataError

NAME = "Pascal VOC"
LAYOUT = "an XML for each image, beside it or in Annotations/, with <object> and <bndbox>"
CORNERS = ("xmin", "ymin", "xmax", "ymax")


def files(tree: Tree) -> list[Path]:
    """The XML files of annotations, and empty ones, which `read` reports as errors."""
    tags = {p: tree.tag(p) for p in tree.ending(".xml")}
    if "annotation" not in tags.values():
        return []
    return [p for p, tag in tags.items() if tag in ("annotation", None)]


def read(tree: Tree, sources: list[Path], settings: Settings) -> Export:
    lists = {
        name: split
        for file in tree.ending(".txt")
        if "ImageSets" in (file.parent.name, file.parent.parent.name)
        and (split := findings.split_named(file.stem))
        for name in listed(file)
    }
    images, omissions, used = [], Omissions(), set()
    for file in sources:
        named = (xml(file).findtext("filename") or "").strip()
        path = tree.named(file.stem, file) or (tree.find(named, file) if named else None)
        if path is None:
            omissions.add("annotations have no image of their name and are left out", file.name)
            continue
        about = image_with_boxes(file, path, settings.first)
        split = lists.get(file.stem) or tree.split(path)
        images.append(AnnotatedImage(path, about.boxes, file, about.size, split))
        used.add(path)
    if lists and not lists.keys() & {image.source.stem for image in images}:
        for name in lists:
            omissions.add("names in ImageSets are of no annotated image, and give no split", name)
    # in VOC's layout these folders hold PNGs named like the images
    masks = ("SegmentationClass", "SegmentationObject")
    for path in tree.pictures:
        if path not in used and path.parent.name not in masks:
            omissions.add("images have no XML and are left out", path.name)
    return Export(images, (), omissions.notes)


def listed(file: Path, hint: str = "") -> list[str]:
    """The names in a list of ImageSets, without the folder and suffix that some programs write.

    DataError with the hint if the file cannot be read.
    """
    paths = (PurePosixPath(name.replace("\\", "/")) for name in names_in(file, hint))
    return [path.stem if is_image(path.name) else path.name.removesuffix(".xml") for path in paths]


def image_with_boxes(file: Path, image: Path, first: int) -> ImageWithBoxes:
    """An image's boxes. DataError names the file and the fault.

    `first` is the number of the first pixel: with 1, a box includes the pixels of its maximum; with
    0, it ends before them.
    """
    tree = xml(file, "; an image without boxes has one without objects")
    boxes = []
    for n, element in enumerate(tree.iter("object"), start=1):
        label = findings.class_name(element.findtext("name", "").strip())
        texts = [element.findtext(f"bndbox/{c}", "") for c in CORNERS]
        try:
            x0, y0, x1, y1 = map(float, texts)
        except ValueError as error:
            problem = f"has bndbox {', '.join(texts)}, and not four numbers"
            raise DataError(f"{file}: object {n} ({label}) {problem}") from error
        if not label:
            raise DataError(f"{file}: object {n} has no name")
        difficult = flag(element.findtext("difficult", "0"))
        boxes.append(Box(label, (x0 - first, y0 - first, x1, y1), difficult, f"object {n}"))
    size = stated_size(tree.findtext("size/width"), tree.findtext("size/height"))
    return ImageWithBoxes(File(image.stem, image), boxes, size, str(file))
