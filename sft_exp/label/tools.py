"""Files for other labelling tools, and the answers that they export.

label_studio.json   tasks of Label Studio with the model's classes as predictions to confirm; the
                    images are embedded (labelstud.io/guide/predictions)
label_studio.xml    its labelling interface
fiftyone/           a FiftyOneImageClassificationDataset with the model's classes: the images in
                    data/, numbered by rank, and labels.json
"""

import base64
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

from sft_exp.data.exports import choices, fiftyone, label_studio
from sft_exp.data.exports.annotated import Omissions
from sft_exp.data.readers import findings
from sft_exp.errors import DataError
from sft_exp.label.sheet import Sheet
from sft_exp.store import atomic_io

Guess = tuple[str, float | None]  # a class and its probability, which an SVM does not have


def write(
    folder: Path, sheet: Sheet, pictures: Sequence[str], guesses: Sequence[Guess], model: str
) -> None:
    """Write the files; `pictures` are the chosen images as data URIs."""
    tasks = [
        task(name, picture, guess, model)
        for name, picture, guess in zip(sheet.chosen, pictures, guesses, strict=True)
    ]
    atomic_io.write_json(folder / "label_studio.json", tasks)
    atomic_io.write(folder / "label_studio.xml", interface(sheet.classes))
    targets = {}
    for rank, (picture, (label, p)) in enumerate(zip(pictures, guesses, strict=True), start=1):
        head, _, content = picture.partition(",")
        suffix = head.removeprefix("data:image/").partition(";")[0].replace("jpeg", "jpg")
        file = folder / "fiftyone" / "data" / f"{number(rank)}.{suffix}"
        atomic_io.write(file, base64.b64decode(content))
        target = {"label": sheet.classes.index(label)}
        targets[number(rank)] = target if p is None else {**target, "confidence": p}
    labels = {"classes": sheet.classes, "labels": targets}
    atomic_io.write_json(folder / "fiftyone" / "labels.json", labels)


def number(rank: int) -> str:
    """The name of a chosen image in FiftyOne, which knows images by names without suffixes."""
    return f"{rank:05}"


def task(name: str, picture: str, guess: Guess, model: str) -> dict[str, Any]:
    """A task of Label Studio with one prediction."""
    label, p = guess
    value = {"choices": [label]}
    result = {"from_name": "choice", "to_name": "image", "type": "choices", "value": value}
    prediction: dict[str, Any] = {"model_version": model, "result": [result]}
    if p is not None:
        prediction["score"] = p
    return {"data": {"image": picture, "file": name}, "predictions": [prediction]}


def interface(classes: Sequence[str]) -> str:
    """Label Studio's labelling interface: the image above its classes."""
    shown = "".join(f"    <Choice value={quoteattr(name)}/>\n" for name in classes)
    return (
        '<View>\n  <Image name="image" value="$image"/>\n'
        '  <Choices name="choice" toName="image" choice="single-radio" showInline="true">\n'
        f"{shown}  </Choices>\n</View>\n"
    )


def answers(file: Path, sheet: Sheet) -> dict[str, str]:
    """Image -> class of the sheet's images in an export of Label Studio or FiftyOne.

    Raises:
        DataError: the file is no such export, or has a class that the sheet does not have.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise DataError(f"answers={file}: {error.strerror}") from error
    except ValueError as error:
        raise DataError(f"answers={file}: no JSON ({error})") from error
    known, found = set(sheet.chosen), {}
    for name, labels in exported(content, file, sheet):
        if name not in known or not labels:
            continue
        if len(set(labels)) > 1 or labels[0] not in sheet.classes:
            wrong = ", ".join(sorted(set(labels)))
            raise DataError(
                f"{file}: {name} is labelled {wrong}; valid: one of {', '.join(sheet.classes)}"
            )
        found[name] = labels[0]
    if not found:
        raise DataError(f"{file}: labels none of the images in {len(known)} chosen ones")
    return found


def exported(content: Any, file: Path, sheet: Sheet) -> Iterator[tuple[str, list[str]]]:
    """(image, its classes) of an export."""
    if fiftyone.is_labels(content):
        ranks = {number(rank): name for rank, name in enumerate(sheet.chosen, start=1)}
        for name, labels in fiftyone.labelled(content, file):
            yield ranks.get(Path(name).name, name), labels
    elif label_studio.is_tasks(content):
        omissions = Omissions()
        for one in content:
            name = str(one.get("data", one).get("file", ""))
            yield name, choices.of_task(one, name, omissions)
        findings.print_warnings(file.name, omissions.notes)
    else:
        raise DataError(
            f"{file}: no export of {label_studio.NAME} (JSON, JSON-MIN) or {fiftyone.NAME} (labels.json)"
        )
