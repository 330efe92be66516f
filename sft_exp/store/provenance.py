"""The history of weights in the store: the trainings behind them and the data sets of these."""

import json
from pathlib import Path
from typing import Any


def origin(file: Path) -> list[str]:
    """Sentences on the trainings behind a file of weights, earliest first; [] for a file outside of a
    store."""
    folder = file.parent
    request = read_json(folder / "request.json")
    if not request or "dataset" not in request:
        return []
    steps = list(read_json(folder / "transfer.json").get("origin", []))
    if start := request.get("start"):
        steps = origin(folder.parent / start / file.name)
    return [*steps, *from_file(folder), *filter(None, [training_of(folder)])]


def training_of(folder: Path) -> str:
    """A sentence on the training of a store folder: its method, data set, and size of the images.

    It is "" for a folder whose weights were not trained further.
    """
    request = read_json(folder / "request.json")
    if not request:
        return ""
    manifest = read_json(folder.parent / Path(request.get("data", "")).name / "manifest.json")
    method = (request.get("method") or request["task"])["is"].rpartition(".")[2]
    if method == "Checkpoint":
        return ""
    images = sum(len(ids) for ids in manifest.get("ids", {}).values())
    text = f"{method} on {manifest.get('name')}: {images:,} images"
    original = manifest.get("image", [])
    resized = request.get("image", original)
    if original != resized:
        text += f" of {size_text(original)}, resized to {size_text(resized)}"
    return f"{text} (SHA-256 {manifest.get('sha256')})"


def from_file(folder: Path) -> list[str]:
    """A sentence on the file of weights that a pretraining started from; [] if there was none."""
    transfer = read_json(folder / "transfer.json")
    if not transfer:
        return []
    prepared = f"; {transfer['images']}" if transfer.get("images") else ""
    return [f"weights from {transfer['file']} (SHA-256 {transfer.get('sha256')}){prepared}"]


def size_text(image: list[int]) -> str:
    """The shape of images as text: `3x32x32`."""
    return "x".join(map(str, image))


def read_json(file: Path) -> dict[str, Any]:
    """The content of a JSON file; {} if there is none."""
    return json.loads(file.read_text()) if file.is_file() else {}
