"""Writers of predictions other than classes: masks as PNGs with overlays, numbers, boxes.

A writer is created for a model, an output folder and a stream, and called with each image's path
and content.
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
PALETTE = (  # of indexed PNGs: black for class 0, then Okabe and Ito's colours
    0, 0, 0,  230, 159, 0,  86, 180, 233,  0, 158, 115,
    240, 228, 66,  0, 114, 178,  213, 94, 0,  204, 121, 167,
)  # fmt: skip


def writer(
    model: Model, folder: Path, out: TextIO, scale: float | None, like: Path | None = None
) -> Write:
    """The writer for the model's task. DataError if there is none.

    `scale` resizes images before masks are predicted in windows of the model's size; None = until
    the shorter side is the model's. `like` is a COCO json whose ids are used for boxes.
    """
    if model.task.predicts == "boxes":
        return BoxFiles(model, folder, out, like)
    make_writer = WRITERS.get(model.task.predicts)
    if make_writer is None:
        raise DataError(f"predictions of {type(model.task).__name__} cannot be written to files")
    return make_writer(model, folder, out, scale)


def numbers(model: Model, folder: Path, out: TextIO, scale: float | None) -> Write:
    """A row `file,<number>,...` for each image."""
    rows = tables.Writer(out)
    rows.writerow(["file", *model.task.of(model.spec).classes])

    def write(path: Path, content: bytes) -> None:
        (predicted_K,) = model.predict(decoded(model, content))
        rows.writerow([path, *(f"{value:.6g}" for value in predicted_K.tolist())])

    return write


def masks(model: Model, folder: Path, out: TextIO, scale: float | None) -> Write:
    """<name>.png, whose pixels are classes, and <name>-overlay.png, both of the image's size.

    A row for each image has the share of its pixels by class.
    """
    classes, rows = model.task.of(model.spec).classes, tables.Writer(out)
    stems = set[str]()
    rows.writerow(["file", "mask", *classes])

    def write(path: Path, content: bytes) -> None:
        x_CHW = whole(content, model.spec.image[0], model.spec.levels)
        mask_HW = segmented(model.predict, x_CHW, model.spec.image, scale)
        name = unique(path.stem, stems)
        save(folder / f"{name}.png", folder / f"{name}-overlay.png", mask_HW, x_CHW)
        share_Y = torch.bincount(mask_HW.flatten(), minlength=len(classes)) / mask_HW.numel()
        rows.writerow(
            [path, folder / f"{name}.png", *(f"{share:.4f}" for share in share_Y.tolist())]
        )

    return write


def several(model: Model, folder: Path, out: TextIO, scale: float | None) -> Write:
    """A row per image with each head's class, numbers, or file of a mask of the model's size."""
    heads: dict[str, Task] = model.task.heads  # type: ignore[attr-defined]
    rows, stems, columns = tables.Writer(out), set[str](), ["file"]
    for name, task in heads.items():
        if task.predicts == "numbers":
            columns += [f"{name}/{c}" for c in model.spec.of(name).classes]
        else:
            columns.append(name)
    rows.writerow(columns)

    def write(path: Path, content: bytes) -> None:
        x_BCHW = decoded(model, content)
        predictions: Any = model.predict(x_BCHW)
        cells, stem = list[str](), unique(path.stem, stems)
        for name, task in heads.items():
            (prediction,) = predictions[name]
            if task.predicts == "numbers":
                cells += [f"{value:.6g}" for value in prediction.tolist()]
            elif task.predicts == "pixels":
                file = folder / f"{stem}-{name}.png"
                save(file, folder / f"{stem}-{name}-overlay.png", prediction.argmax(0), x_BCHW[0])
                cells.append(str(file))
            else:
                cells.append(model.spec.of(name).classes[int(prediction.argmax())])
        rows.writerow([path, *cells])

    return write


WRITERS: dict[str, Callable[[Model, Path, TextIO, float | None], Write]] = {
    "numbers": numbers,
    "pixels": masks,
    "several": several,
}


def decoded(model: Model, content: bytes) -> Tensor:
    """The image as the model's input: [1, C, H, W] in [0, 1]."""
    return decode(content, model.spec.image, model.spec.fit, model.spec.levels)[None].float() / 255


def segmented(
    predict: Callable[[Tensor], Tensor],
    x_CHW: Tensor,
    image: tuple[int, int, int],
    scale: float | None,
) -> Tensor:
    """Classes of all pixels of an image of any size, int64 [H, W]."""
    _, height, width = image
    factor = scale or max(height / x_CHW.shape[1], width / x_CHW.shape[2])
    size = [max(1, round(side * factor)) for side in x_CHW.shape[1:]]
    resized = x_CHW
    if factor != 1:
        resized = F.interpolate(x_CHW[None], size, mode="bilinear", antialias=True)[0]
    logits_YHW = tiled(predict, resized.clamp(0, 1), (height, width))
    logits_BYHW = F.interpolate(
        logits_YHW[None], x_CHW.shape[1:], mode="bilinear", align_corners=False
    )
    return logits_BYHW[0].argmax(0)


def save(mask: Path, overlay: Path, mask_HW: Tensor, x_CHW: Tensor) -> None:
    """Write a mask, and its image with the classes in half-transparent colours."""
    from PIL import Image

    picture = Image.fromarray(mask_HW.to(torch.uint8).numpy())
    # with a palette, pixel values are classes and viewers show colours
    picture.putpalette([*PALETTE, *([128] * (768 - len(PALETTE)))])
    atomic_io.write(mask, png(picture))
    colours_HW3 = np.asarray(picture.convert("RGB"), dtype=np.float32)
    image_HW3 = x_CHW.expand(3, -1, -1).movedim(0, -1).mul(255).numpy()
    mixed = np.where(mask_HW.numpy()[..., None] > 0, 0.5 * image_HW3 + 0.5 * colours_HW3, image_HW3)
    atomic_io.write(overlay, png(Image.fromarray(mixed.round().astype(np.uint8))))
