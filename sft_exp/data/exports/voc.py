"""Pascal VOC's annotations (Everingham et al., IJCV 2010): an XML file for each image.

It is beside the image (LabelImg, Roboflow) or in a separate folder (VOC, CVAT).
"""

from pathlib import Path

from sft_exp.data.exports.annotated import AnnotatedImage, Export, Omissions, Settings, Tree, xml
from sft_exp.data.exports.geometry import flag, stated_size
from sft_exp.data.readers import findings, voc
from sft_exp.data.readers.boxed import Box, ImageWithBoxes
from sft_exp.data.readers.files import File
from sft_exp.errors import DataError

NAME = "Pascal VOC"
LAYOUT = "an XML for each image, beside it or in Annotations/, with <object> and <bndbox>"
CORNERS = ("xmin", "ymin", "xmax", "ymax")
# in VOC's layout these folders hold PNGs named like the images
MASKS = ("SegmentationClass", "SegmentationObject")


def files(tree: Tree) -> list[Path]:
    """The XML files of annotations, and empty ones, which `read` reports as errors."""
    tags = {p: tree.tag(p) for p in tree.ending(".xml")}
    if "annotation" not in tags.values():
        return []
    return [p for p, tag in tags.items() if tag in ("annotation", None)]


def read(tree: Tree, sources: list[Path], settings: Settings) -> Export:
    lists = listed_splits(tree)
    images, omissions, used = [], Omissions(), set()
    # the lists are those of these images, and not of others
    apply = "train" in lists.values() and bool(lists.keys() & {file.stem for file in sources})
    for file in sources:
        named = (xml(file).findtext("filename") or "").strip()
        path = tree.named(file.stem, file, MASKS) or (tree.find(named, file) if named else None)
        if path is None:
            omissions.add("annotations have no image of their name and are left out", file.name)
            continue
        about = image_with_boxes(file, path, settings.first)
        split = lists.get(file.stem) or tree.split(path)
        used.add(path)
        if apply and not split:
            omissions.add("images are in no list of ImageSets and are left out", path.name)
            continue
        images.append(AnnotatedImage(path, about.boxes, file, about.size, split))
    if lists and not lists.keys() & {image.source.stem for image in images}:
        for name in lists:
            omissions.add("names in ImageSets are of no annotated image, and give no split", name)
    for path in tree.pictures:
        if path not in used and path.parent.name not in MASKS:
            omissions.add("images have no XML and are left out", path.name)
    return Export(images, (), omissions.notes)


def listed_splits(tree: Tree) -> dict[str, str]:
    """Name of an image -> split, by the lists of ImageSets.

    Those in Main count, or else those directly in ImageSets, or else in another folder of it, since
    the lists for masks and for layouts hold other splits of the same images. Lists of all images
    of a split count before those of a class (cat_train), and these before trainval.

    Raises:
        DataError: an image is in the list of the test images and in another one.
    """
    folders: dict[Path, dict[str, list[Path]]] = {}  # ImageSets -> a folder of it -> lists
    for file in tree.ending(".txt"):
        if voc.LISTS in (file.parent.name, file.parent.parent.name):
            direct = file.parent.name == voc.LISTS
            top, kind = (file.parent, "") if direct else (file.parent.parent, file.parent.name)
            if findings.split_word(file.stem):
                folders.setdefault(top, {}).setdefault(kind, []).append(file)
    splits: dict[str, str] = {}
    for kinds in folders.values():
        best = next((k for k in ("Main", "", "Segmentation") if k in kinds), min(kinds))
        whole = [p for p in kinds[best] if findings.split_named(p.stem)]
        held_out = {findings.split_named(p.stem) for p in whole}
        tested = "test" if "test" in held_out else "val"
        of: dict[str, Path] = {}
        for file in sorted(kinds[best], key=lambda p: (p not in whole, "trainval" in p.stem)):
            split = str(findings.split_word(file.stem))
            for name in voc.names_in(file):
                other = splits.setdefault(name, split)
                first = of.setdefault(name, file)
                if file in whole and other != split and tested in (other, split):
                    raise DataError(f"{file}: {name} is in {first.name}, too; remove one of them")
    return splits


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
