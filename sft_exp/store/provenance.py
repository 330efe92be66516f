"""What the weights in a folder of the store were trained on, read from the folders that they came from."""

import json
from pathlib import Path
from typing import Any


def origin(file: Path) -> list[str]:
    """The trainings behind a file of weights, earliest first; [] for a file that is in no folder of the store."""
    folder = file.parent
    request = read(folder / "request.json")
    if not request or "dataset" not in request:
        return []
    steps = list(read(folder / "transfer.json").get("origin", []))
    if start := request.get("start"):
        steps = origin(folder.parent / start / file.name)
    return [*steps, *from_file(folder), *filter(None, [trained(folder)])]


def trained(folder: Path) -> str:
    """The training that filled a folder: its method, its data set, and the size of the images where they were resized; "" for
    weights that were taken as they are."""
    request = read(folder / "request.json")
    if not request:
        return ""
    manifest = read(folder.parent / Path(request.get("data", "")).name / "manifest.json")
    method = (request.get("method") or request["task"])["is"].rpartition(".")[2]
    if method == "Checkpoint":
        return ""
    images = sum(len(ids) for ids in manifest.get("ids", {}).values())
    text = f"{method} on {manifest.get('name')}: {images:,} images"
    own = manifest.get("image", [])
    seen = request.get("image", own)
    if own != seen:
        text += f" of {size(own)}, resized to {size(seen)}"
    return f"{text} (SHA-256 {manifest.get('sha256')})"


def from_file(folder: Path) -> list[str]:
    """The file of weights that a pretraining started from, if it did."""
    transfer = read(folder / "transfer.json")
    if not transfer:
        return []
    prepared = f"; {transfer['images']}" if transfer.get("images") else ""
    return [f"weights from {transfer['file']} (SHA-256 {transfer.get('sha256')}){prepared}"]


def size(image: list[int]) -> str:
    return "x".join(map(str, image))


def read(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text()) if file.is_file() else {}
