"""Classes of whole images in exports of labelling tools: Label Studio's choices (JSON and JSON-MIN,
labelstud.io/guide/export), CVAT's tags ("CVAT for images 1.1", docs.cvat.ai/docs/other/xml_format)
and FiftyOne's labels.json.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from sft_exp.data.exports import cvat, fiftyone, label_studio
from sft_exp.data.exports.annotated import Omissions, Tree, xml
from sft_exp.data.readers import findings
from sft_exp.errors import DataError

SUFFIXES = (".json", ".xml")
# keys of JSON-MIN that are no controls
STATED = (
    "id", "annotator", "annotation_id", "created_at", "updated_at", "lead_time", "image", "img",
    "photo", "file",
)  # fmt: skip
FORMATS = "Label Studio's JSON with choices, FiftyOne's labels.json, or CVAT's XML with tags"


class Labelled(NamedTuple):
    """An image and its class; "" where it has none."""

    path: Path
    label: str
    split: str | None = None  # train, val or test, as the export states it


def read(file: Path, root: Path) -> tuple[list[Labelled], tuple[str, ...]]:
    """The images of an export and notes on what is left out.

    Raises:
        DataError: the file is in none of these formats, or an image has several classes.
    """
    tree, omissions = Tree(root), Omissions()
    of = from_tags if file.suffix.lower() == ".xml" else from_json
    images: dict[Path, Labelled] = {}
    for name, labels, split in of(file, tree, omissions):
        if len(set(labels)) > 1:
            problem = f"has the classes {', '.join(sorted(set(labels)))}; an image has one class"
            raise DataError(f"{file}: {name} {problem}")
        if (path := tree.find(name, file)) is None:
            omissions.add("images are named but missing", name)
            continue
        if path in images:
            raise DataError(f"{file}: {name} is annotated twice; remove one of them")
        images[path] = Labelled(path, findings.class_name(labels[0]) if labels else "", split)
    if not any(image.label for image in images.values()):
        why = "".join(f"\n  {note}" for note in omissions.notes)
        raise DataError(f"{file}: no image with a class; {FORMATS} are read{why}")
    return list(images.values()), omissions.notes


def from_tags(
    file: Path, tree: Tree, omissions: Omissions
) -> Iterator[tuple[str, list[str], str | None]]:
    if tree.tag(file) != "annotations":
        raise DataError(f"{file}: no export of {cvat.NAME}; {FORMATS} are read")
    for image in xml(file).iterfind("image"):
        labels = [tag.get("label", "") for tag in image.iterfind("tag")]
        split = findings.split_named(image.get("subset", ""))
        yield image.get("name", ""), [label for label in labels if label], split


def from_json(
    file: Path, tree: Tree, omissions: Omissions
) -> Iterator[tuple[str, list[str], str | None]]:
    content = tree.json(file)
    if fiftyone.is_labels(content):
        paths = fiftyone.paths(file, tree)
        for name, labels in fiftyone.labelled(content, file):
            yield str(paths.get(name, name)), labels, None
        return
    if not label_studio.is_tasks(content):
        raise DataError(
            f"{file}: no export of {label_studio.NAME} or {fiftyone.NAME}; {FORMATS} are read"
        )
    control = control_of(content, file)
    refuse_several_controls(content, file)
    for n, task in enumerate(content, start=1):
        image = label_studio.image_of(task.get("data", task))
        if image is None:
            raise DataError(f"{file}: task {task.get('id', n)} names no image in its data")
        if any(is_of_region(result) for result in results_of(task)):
            omissions.add("tasks have choices of a region, which are taken for the image's", image)
        yield image, of_task(task, image, omissions, control), None


def results_of(task: dict[str, Any]) -> list[dict[str, Any]]:
    """The results with choices of all annotations of a task."""
    done = label_studio.finished(task) if "annotations" in task else []
    results = [result for each in done for result in label_studio.results_in(each) or []]
    return [r for r in results if isinstance(v := r.get("value"), dict) and texts(v)]


def is_of_region(result: dict[str, Any]) -> bool:
    """Whether a choice is of a box, polygon or brush (perRegion), whose position it repeats."""
    return bool({"x", "points", "rle"} & {*result["value"]})


def refuse_several_controls(tasks: list[dict[str, Any]], file: Path) -> None:
    """DataError if choices are answers to several questions, such as the kind and the quality."""
    names = {
        str(r["from_name"]): r for task in tasks for r in results_of(task) if r.get("from_name")
    }
    if len(names) > 1:
        raise DataError(
            f"{file}: {' and '.join(names)} are answers to several questions about an image, which has one class: "
            "delete those that are no class, or write a table of file,label"
        )


def control_of(tasks: list[dict[str, Any]], file: Path) -> str:
    """The key of the choice in JSON-MIN, which has the name of the control that asks for it.

    DataError if several keys hold texts that may be classes.
    """
    short = [task for task in tasks if "annotations" not in task]
    if any("choice" in task for task in short):
        return "choice"
    keys = dict.fromkeys(
        key
        for task in short
        for key, value in task.items()
        if texts(value) and key not in STATED and value != label_studio.image_of(task)
    )
    if len(keys) > 1:
        remedy = "call the control of the class choice, or export as JSON"
        raise DataError(f"{file}: {' and '.join(keys)} may be the class of an image: {remedy}")
    return next(iter(keys), "choice")


def of_task(
    task: dict[str, Any], name: str, omissions: Omissions, control: str = "choice"
) -> list[str]:
    """The classes that annotators chose in a task of Label Studio; predictions are none.

    Of annotations that disagree the ground truth is used, or else the first.
    """
    if "annotations" not in task:
        return texts(task.get(control))
    if not (done := label_studio.finished(task)):
        return []
    if len({frozenset(chosen_in(a)) for a in done}) > 1 and not any(
        a.get("ground_truth") for a in done
    ):
        omissions.add("tasks have annotations that disagree, of which the first is taken", name)
    return chosen_in(label_studio.best(done))


def chosen_in(annotation: dict[str, Any]) -> list[str]:
    values = [result.get("value") for result in label_studio.results_in(annotation) or []]
    return [label for value in values if isinstance(value, dict) for label in texts(value)]


def texts(choice: Any) -> list[str]:
    """The chosen classes: one text, a list of them, or JSON-MIN's {"choices": [...]}."""
    if isinstance(choice, dict):
        choice = choice.get("choices")
    values = choice if isinstance(choice, list) else [choice]
    return [value for value in values if isinstance(value, str) and value]
