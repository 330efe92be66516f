"""Predictions of tasks that give an image something else than one class, as files: masks as PNGs with overlays, numbers as CSV,
boxes as COCO json.

A writer is made for a model, an output folder and a stream, and called with each image's file and content.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sft_exp.core.task import Task
from sft_exp.data import tables
from sft_exp.data.decode import decode, whole
from sft_exp.data.readers.files import png, unique
from sft_exp.errors import DataError
from sft_exp.predict.found_boxes import BoxFiles
from sft_exp.predict.tiles import tiled
from sft_exp.stages.model import Model
from sft_exp.store import atomic_io

Write = Callable[[Path, bytes], None]
PALETTE = (
    0,
    0,
    0,
    230,
    159,
    0,
    86,
    180,
    233,
    0,
    158,
    115,
    240,
    228,
    66,
    0,
    114,
    178,
    213,
    94,
    0,
    204,
    121,
    167,
)


def writer(
    model: Model, folder: Path, out: TextIO, scale: float | None, like: Path | None = None
) -> Write:
    """What writes the predictions of the model's task. `scale`: of images before windows of the model's size are predicted;
    None = until the shorter side is the model's. `like`: a COCO json, whose ids boxes are written with."""
    if model.task.predicts == "boxes":
        return BoxFiles(model, folder, out, like)
    made = WRITERS.get(model.task.predicts)
    if made is None:
        raise DataError(
            f"predictions of {type(model.task).__name__} have no files to be written to"
        )
    return made(model, folder, out, scale)


def numbers(model: Model, folder: Path, out: TextIO, scale: float | None) -> Write:
    """A row `file,<number>,...` for each image."""
    rows = tables.Writer(out)
    rows.writerow(["file", *model.task.of(model.spec).classes])

    def write(path: Path, content: bytes) -> None:
        (told_K,) = model.predict(seen(model, content))
        rows.writerow([path, *(f"{value:.6g}" for value in told_K.tolist())])

    return write


def masks(model: Model, folder: Path, out: TextIO, scale: float | None) -> Write:
    """<name>.png, whose pixels are classes, and <name>-overlay.png, both of the image's size; and a row of each image with the
    share of its pixels that each class has."""
    classes, rows, taken = (
        model.task.of(model.spec).classes,
        tables.Writer(out),
        set[str](),
    )
    rows.writerow(["file", "mask", *classes])

    def write(path: Path, content: bytes) -> None:
        x_CHW = whole(content, model.spec.image[0], model.spec.levels)
        mask_HW = segmented(model.predict, x_CHW, model.spec.image, scale)
        name = unique(path.stem, taken)
        save(folder / f"{name}.png", folder / f"{name}-overlay.png", mask_HW, x_CHW)
        share_Y = torch.bincount(mask_HW.flatten(), minlength=len(classes)) / mask_HW.numel()
        rows.writerow(
            [path, folder / f"{name}.png", *(f"{share:.4f}" for share in share_Y.tolist())]
        )

    return write


def several(model: Model, folder: Path, out: TextIO, scale: float | None) -> Write:
    """A row of each image: the class or the numbers of each head; of a mask its file, made as the others see the image."""
    heads: dict[str, Task] = model.task.heads  # type: ignore[attr-defined]
    rows, taken, columns = tables.Writer(out), set[str](), ["file"]
    for name, task in heads.items():
        columns += (
            [f"{name}/{c}" for c in model.spec.of(name).classes]
            if task.predicts == "numbers"
            else [name]
        )
    rows.writerow(columns)

    def write(path: Path, content: bytes) -> None:
        x_BCHW = seen(model, content)
        told: Any = model.predict(x_BCHW)
        cells, stem = list[str](), unique(path.stem, taken)
        for name, task in heads.items():
            (found,) = told[name]
            if task.predicts == "numbers":
                cells += [f"{value:.6g}" for value in found.tolist()]
            elif task.predicts == "pixels":
                file = folder / f"{stem}-{name}.png"
                save(file, folder / f"{stem}-{name}-overlay.png", found.argmax(0), x_BCHW[0])
                cells.append(str(file))
            else:
                cells.append(model.spec.of(name).classes[int(found.argmax())])
        rows.writerow([path, *cells])

    return write


WRITERS: dict[str, Callable[[Model, Path, TextIO, float | None], Write]] = {
    "numbers": numbers,
    "pixels": masks,
    "several": several,
}


def seen(model: Model, content: bytes) -> Tensor:
    """The image as the model was trained to see it: [1, C, H, W]."""
    return decode(content, model.spec.image, levels=model.spec.levels)[None].float() / 255


def segmented(
    predict: Callable[[Tensor], Tensor],
    x_CHW: Tensor,
    image: tuple[int, int, int],
    scale: float | None,
) -> Tensor:
    """Classes of all pixels of an image of any size, int64 [H, W]."""
    _, high, wide = image
    share = scale or max(high / x_CHW.shape[1], wide / x_CHW.shape[2])
    size = [max(1, round(side * share)) for side in x_CHW.shape[1:]]
    resized = (
        F.interpolate(x_CHW[None], size, mode="bilinear", antialias=True)[0]
        if share != 1
        else x_CHW
    )
    logits_YHW = tiled(predict, resized.clamp(0, 1), (high, wide))
    return F.interpolate(logits_YHW[None], x_CHW.shape[1:], mode="bilinear", align_corners=False)[
        0
    ].argmax(0)


def save(mask: Path, overlay: Path, mask_HW: Tensor, x_CHW: Tensor) -> None:
    from PIL import Image

    picture = Image.fromarray(mask_HW.to(torch.uint8).numpy())
    # values stay classes; viewers show colours
    picture.putpalette([*PALETTE, *([128] * (768 - len(PALETTE)))])
    atomic_io.write(mask, png(picture))
    colours_HW3 = np.asarray(picture.convert("RGB"), dtype=np.float32)
    image_HW3 = x_CHW.expand(3, -1, -1).movedim(0, -1).mul(255).numpy()
    mixed = np.where(mask_HW.numpy()[..., None] > 0, 0.5 * image_HW3 + 0.5 * colours_HW3, image_HW3)
    atomic_io.write(overlay, png(Image.fromarray(mixed.round().astype(np.uint8))))
