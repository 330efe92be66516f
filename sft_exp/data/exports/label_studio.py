"""Label Studio's JSON (labelstud.io/guide/export and /guide/task_format) and its short form,
JSON-MIN.

Positions are percentages of the image's sides; a rectangle rotates about its upper left corner.
"""

from pathlib import Path
from typing import Any

from sft_exp.data.exports.annotated import Annotated, Export, LeftOut, Settings, Tree
from sft_exp.data.exports.geometry import Shape, box, flat, number, oval, polygon
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
    """The value that names the image: under the usual keys, or else the first with an image's
    suffix."""
    if not isinstance(data, dict):
        return None
    named = [v for k in ("image", "img", "photo") if isinstance(v := data.get(k), str)]
    other = [v for v in data.values() if isinstance(v, str) and is_image(v)]
    return next(iter([*named, *other]), None)


def read(tree: Tree, sources: list[Path], settings: Settings) -> Export:
    images, left = [], LeftOut()
    for file in sources:
        for n, task in enumerate(tree.json(file), start=1):
            where = f"task {task.get('id', n)}"
            name = image_of(task.get("data", task))
            if name is None:
                raise DataError(f"{file}: {where} names no image in its data")
            results = results_of(task, name, left)
            if results is None:
                left.add("tasks are not annotated, or skipped, and are left out", name)
                continue
            path = tree.find(name, file)
            if path is None:
                left.add("images are named and not there", name)
                continue
            boxes, size = boxes_of(results, file, where, name, left)
            images.append(Annotated(path, boxes, file, size, tree.split(path)))
    return Export(images, (), left.notes)


def results_of(task: dict[str, Any], name: str, left: LeftOut) -> list[dict[str, Any]] | None:
    """The shapes of a task's annotation, or None without one.

    Of several annotations the ground truth is used, or else the first; skipped ones are ignored.
    """
    # JSON-MIN has a list of shapes, without their kind, for each control
    if "annotations" not in task:
        lists = [v for v in task.values() if isinstance(v, list)]
        lists = [rows for rows in lists if all(isinstance(row, dict) for row in rows)]
        return [{"value": row, **row} for rows in lists for row in rows] if lists else None
    annotations = task["annotations"] if isinstance(task["annotations"], list) else []
    done = [a for a in annotations if isinstance(a, dict) and not a.get("was_cancelled")]
    if not done:
        return None
    if len(done) > 1:
        reason = (
            "tasks have several annotations, of which the ground truth or else the first is taken"
        )
        left.add(reason, name)
    best = next((a for a in done if a.get("ground_truth")), done[0])
    results = best.get("result") or []
    return [r for r in results if isinstance(r, dict)] if isinstance(results, list) else None


def boxes_of(
    results: list[dict[str, Any]], file: Path, task: str, name: str, left: LeftOut
) -> tuple[list[Box], tuple[int, int] | None]:
    """(boxes in pixels, the image's size)."""
    boxes, size = [], None
    for n, result in enumerate(results, start=1):
        where, value = f"{task}, result {n}", result.get("value")
        value = value if isinstance(value, dict) else {}
        kind = next((key for key in value if key.endswith("labels")), None)
        if kind is None:
            left.add(f"results of the kind {result.get('type', 'unknown')} are left out", name)
            continue
        sides = result.get("original_width"), result.get("original_height")
        shape = shape_of(value, sides, f"{file}, {where}")
        if shape is None:
            left.add(f"results of the kind {kind} are left out", name)
            continue
        size = sides
        if not isinstance(value[kind], list) or not value[kind]:
            raise DataError(f"{file}, {where}: a shape without a label")
        label = findings.class_name(str(value[kind][0]))
        if len(value[kind]) > 1:
            left.add("shapes have several labels, of which the first is taken", name)
        boxes.append(Box(label, shape.at, False, where, shape.outlines))
    return boxes, size  # type: ignore[return-value]


def shape_of(value: dict[str, Any], sides: tuple[Any, Any], where: str) -> Shape | None:
    """The shape in pixels; None for those without a box (key points, brushes)."""
    if not ({"x", "points"} & {*value}) or "keypointlabels" in value or "brushlabels" in value:
        return None
    wide, high = (number(s, f"{where}, original_width and original_height") for s in sides)

    def pixels(key: str, side: float) -> float:
        return number(value.get(key), f"{where}, {key}") * side / 100

    angle = number(value.get("rotation") or 0, f"{where}, rotation")
    if "points" in value:
        points = [number(v, where) for v in flat(value["points"], where)]
        return polygon([v * (wide, high)[n % 2] / 100 for n, v in enumerate(points)], where)
    x, y = pixels("x", wide), pixels("y", high)
    if "radiusX" in value:
        return oval(x, y, pixels("radiusX", wide), pixels("radiusY", high), angle)
    return box((x, y, x + pixels("width", wide), y + pixels("height", high)), angle, (x, y))
