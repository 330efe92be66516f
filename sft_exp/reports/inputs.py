"""The picture of the network's inputs: labelled images at the size it sees, with their targets."""

import torch

from sft_exp.core.types import LABEL_SET, Tensors
from sft_exp.data import splits
from sft_exp.jobs.stage_requests import Job
from sft_exp.reports.drawing import WIDTH, Picture, png
from sft_exp.store.results import Results
from sft_exp.tasks.segment import overlay

SHOWN, COLUMNS = 12, 6
LONGEST = 13  # characters of a title


def inputs(job: Job, result: Results) -> Picture:
    """What the network sees; it needs no results."""
    return seen(job)


def seen(job: Job) -> Picture:
    """Labelled images of the first draw, evenly spaced, read and resized as in training, before
    augmentation."""
    from matplotlib.figure import Figure

    images = splits.make(job.corpus, job.labels, 0).labelled
    some = torch.arange(len(images))[:: max(1, len(images) // SHOWN)][:SHOWN]
    (batch,) = images.batches([some], torch.device("cpu"))
    pictures_B3HW, titles = marked(batch), named(batch, job.corpus.classes)
    rows = -(-len(some) // COLUMNS)
    _, _, high, wide = pictures_B3HW.shape
    cell = WIDTH / COLUMNS
    figure = Figure((WIDTH, 0.5 + rows * (cell * high / wide + 0.2)))
    for axes in (grid := figure.subplots(rows, COLUMNS, squeeze=False).flatten()):
        axes.set_axis_off()
    for axes, picture_3HW, text in zip(grid, pictures_B3HW, titles, strict=False):
        axes.imshow(picture_3HW.permute(1, 2, 0).clamp(0, 1).numpy(), interpolation="nearest")
        axes.set_title(text[:LONGEST], loc="center", size=7.5, weight="normal", pad=3)
    figure.suptitle("Network inputs")
    caption = f"Labelled images of the first draw at {high}x{wide} pixels, with their targets, before augmentation."
    return Picture("inputs", "Images and targets", caption, png(figure), photographs=True)


def marked(batch: Tensors) -> torch.Tensor:
    """The images in colour, [B, 3, H, W] in [0, 1], with masks overlaid or boxes drawn."""
    x_B3HW = batch["x"].expand(-1, 3, -1, -1)
    if "mask" in batch:
        return overlay(x_B3HW, batch["mask"])
    if "boxes" in batch:
        pairs = zip(batch["boxes"], batch["labels"], strict=True)
        ones = [torch.cat([b, torch.ones(len(b), 1), n[:, None]], 1)[n > 0] for b, n in pairs]
        from sft_exp.models.heads import detectors  # late: imports torchvision

        return detectors.pictures(x_B3HW, ones)
    return x_B3HW


def listed(names: list[str]) -> str:
    """The classes of an image, or where these are too long for a title, the first and their number."""
    text = ", ".join(names) or "none"
    return text if len(text) <= LONGEST else f"{names[0][: LONGEST - 3]} +{len(names) - 1}"


def named(batch: Tensors, classes: tuple[str, ...]) -> list[str]:
    """A title for each image: its class, its classes or its regression targets; "" where it has none
    of these."""
    if LABEL_SET in batch:
        return [
            listed([c for c, n in zip(classes, row, strict=True) if n])
            for row in batch[LABEL_SET].tolist()
        ]
    numbers = [
        values for values in batch.values() if values.is_floating_point() and values.ndim == 2
    ]
    if numbers:
        rows = torch.cat(numbers, 1).tolist()
        return [", ".join(f"{value:.3g}" for value in row) for row in rows]
    if {"mask", "boxes"} & batch.keys():
        return [""] * len(batch["y"])
    return [classes[y] if 0 <= y < len(classes) else "" for y in batch["y"].tolist()]
