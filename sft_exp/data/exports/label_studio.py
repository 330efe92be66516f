"""Label Studio's JSON (labelstud.io/guide/export and /guide/task_format) and its short form,
JSON-MIN.

Positions are percentages of the image's sides; a rectangle rotates about its upper left corner.
"""

from pathlib import Path
from typing import Any

from sft_exp.data.exports.annotated import AnnotatedImage, Export, Omissions, Settings, Tree
from sft_exp.data.exports.geometry import (
    Shape,
    box,
    ellipse,
    flattened,
    number,
    polygon,
    stated_size,
)
from sft_exp.data.readers import findings
from sft_exp.data.readers.boxed import Box
from sft_exp.data.readers.files import is_image
from sft_exp.errors import DataError

NAME = "Label Studio"
LAYOUT = "a JSON list of tasks with data and annotations (JSON or JSON-MIN), and the images"


def files(tree: Tree) -> list[Path]:
    return [p for p in tree.ending(".json") if is_tasks(tree.json(p))]


def is_tasks(content: Any) -> bool:
    if not isinstance(content, list) or not content:
        return False
    full = all(isinstance(t, dict) and "data" in t and "annotations" in t for t in content)
    return full or all(isinstance(t, dict) and "annotator" in t and image_of(t) for t in content)


def image_of(data: Any) -> str | None:
    """The name of a task's image: the text under a usual key, else the first with an image's suffix.

    An embedded image (data:image/...) has no name.
    """
    if not isinstance(data, dict):
        return None
    data = {k: v for k, v in data.items() if not str(v).startswith("data:")}
    by_key = [data.get(key) for key in ("image", "img", "photo", "file")]
    by_suffix = [v for v in data.values() if isinstance(v, str) and is_image(v)]
    return next((v for v in [*by_key, *by_suffix] if isinstance(v, str)), None)


def read(tree: Tree, sources: list[Path], settings: Settings) -> Export:
    images, omissions = [], Omissions()
    for file in sources:
        for n, task in enumerate(tree.json(file), start=1):
            where = f"task {task.get('id', n)}"
            name = image_of(task.get("data", task))
            if name is None:
                raise DataError(f"{file}: {where} names no image in its data")
            results = results_of(task, name, omissions)
            if results is None:
                omissions.add("tasks are not annotated, or skipped, and are left out", name)
                continue
            path = tree.find(name, file)
            if path is None:
                omissions.add("images are named but missing", name)
                continue
            boxes, size = boxes_of(results, file, where, name, omissions)
            images.append(AnnotatedImage(path, boxes, file, size, tree.split(path)))
    return Export(images, (), omissions.notes)


def results_of(
    task: dict[str, Any], name: str, omissions: Omissions
) -> list[dict[str, Any]] | None:
    """The shapes of a task's annotation, or None without one.

    Of several annotations the ground truth is used, or else the first; skipped ones are ignored.
    """
    if "annotations" not in task:
        return results_of_min(task)
    done = finished(task)
    if not done:
        return None
    if len(done) > 1:
        reason = (
            "tasks have several annotations, of which the ground truth or else the first is taken"
        )
        omissions.add(reason, name)
    return results_in(best(done))


def finished(task: dict[str, Any]) -> list[dict[str, Any]]:
    """The annotations of a task that were not skipped."""
    annotations = task["annotations"] if isinstance(task["annotations"], list) else []
    return [a for a in annotations if isinstance(a, dict) and not a.get("was_cancelled")]


def best(annotations: list[dict[str, Any]]) -> dict[str, Any]:
    """The ground truth, or else the first annotation."""
    return next((a for a in annotations if a.get("ground_truth")), annotations[0])


def results_in(annotation: dict[str, Any]) -> list[dict[str, Any]] | None:
    results = annotation.get("result") or []
    return [r for r in results if isinstance(r, dict)] if isinstance(results, list) else None


def results_of_min(task: dict[str, Any]) -> list[dict[str, Any]] | None:
    """The shapes of a task in JSON-MIN, or None without any.

    JSON-MIN has a list of shapes, without their kind, for each control.
    """
    lists = [value for value in task.values() if isinstance(value, list)]
    lists = [shapes for shapes in lists if all(isinstance(shape, dict) for shape in shapes)]
    return [{"value": shape, **shape} for shapes in lists for shape in shapes] if lists else None


def boxes_of(
    results: list[dict[str, Any]], file: Path, task: str, name: str, omissions: Omissions
) -> tuple[list[Box], tuple[int, int] | None]:
    """(boxes in pixels, the image's width and height as the last shape states them).

    Raises:
        DataError: a shape has no label, or a coordinate is no number.
    """
    boxes, size = list[Box](), None
    for n, result in enumerate(results, start=1):
        where, value = f"{task}, result {n}", result.get("value")
        value = value if isinstance(value, dict) else {}
        kind = next((key for key in value if key.endswith("labels")), None)
        if kind is None:
            omissions.add(f"results of the kind {result.get('type', 'unknown')} are left out", name)
            continue
        sides = result.get("original_width"), result.get("original_height")
        shape = shape_of(value, sides, f"{file}, {where}")
        if shape is None:
            omissions.add(f"results of the kind {kind} are left out", name)
            continue
        size = stated_size(*sides)
        if result.get("image_rotation"):
            how = "were drawn on an image that was turned in Label Studio"
            reason = f"shapes {how}, and are read as of the stored image: check them"
            omissions.add(reason, name)
        if not isinstance(value[kind], list) or not value[kind]:
            raise DataError(f"{file}, {where}: a shape without a label")
        label = findings.class_name(str(value[kind][0]))
        if len(value[kind]) > 1:
            omissions.add("shapes have several labels, of which the first is taken", name)
        boxes.append(Box(label, shape.corners, False, where, shape.outlines))
    return boxes, size


def shape_of(value: dict[str, Any], sides: tuple[Any, Any], where: str) -> Shape | None:
    """The shape in pixels; None for those without a box (key points, brushes)."""
    if not ({"x", "points"} & {*value}) or "keypointlabels" in value or "brushlabels" in value:
        return None
    width, height = (number(s, f"{where}, original_width and original_height") for s in sides)

    def pixels(key: str, side: float) -> float:
        return number(value.get(key), f"{where}, {key}") * side / 100

    angle = number(value.get("rotation") or 0, f"{where}, rotation")
    if "points" in value:
        points = [number(v, where) for v in flattened(value["points"], where)]
        scaled = [v * (width, height)[n % 2] / 100 for n, v in enumerate(points)]
        return polygon(scaled, where)
    x, y = pixels("x", width), pixels("y", height)
    if "radiusX" in value:
        return ellipse(x, y, pixels("radiusX", width), pixels("radiusY", height), angle)
    return box((x, y, x + pixels("width", width), y + pixels("height", height)), angle, (x, y))
