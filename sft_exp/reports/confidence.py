"""Pictures of a classifier's confidence: calibration, precision and recall, confident mistakes."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike

from sft_exp.data.images import Images
from sft_exp.reports.drawing import FAINT, INK, PALETTE, WIDTH, Picture, new_figure, png

BINS = 15  # of equal width, as in the calibration error of results.json
CURVES = len(PALETTE)  # classes whose curves are drawn, at most
COLUMNS = 6  # of the picture of mistakes
LONGEST = 14  # characters of a class's name above an image


def calibration(curves: Mapping[str, tuple[ArrayLike, ArrayLike]], title: str) -> Picture:
    """Reliability diagram (Guo et al., arXiv:1706.04599, section 2).

    Args:
        curves: label -> (confidence [N] of each prediction, whether it is correct [N]).
    """
    from sklearn.calibration import calibration_curve

    figure, axes = new_figure(3.6)
    axes.plot([0, 100], [0, 100], color=FAINT, linewidth=1, linestyle="--")
    for (label, (confidence, correct)), colour in zip(curves.items(), PALETTE, strict=False):
        # rounding may put a probability above 1
        confidence_N = np.clip(np.asarray(confidence, float), 0, 1)
        accuracy, mean = calibration_curve(np.asarray(correct, int), confidence_N, n_bins=BINS)
        counts, _ = np.histogram(confidence_N, BINS, (0, 1))
        share = counts[counts > 0] / len(confidence_N)
        x, y = 100 * mean, 100 * accuracy
        axes.plot(x, y, color=colour, linewidth=1.4, label=label or None)
        if len(share) == len(x):  # the dots' areas are the shares of the images
            axes.scatter(x, y, s=12 + 240 * share, color=colour, alpha=0.6, linewidths=0)
    axes.set(xlim=(0, 100), ylim=(0, 103))
    axes.grid()
    axes.set_xlabel("confidence: the largest probability (%)")
    axes.set_ylabel("accuracy (%)")
    axes.set_title(title)
    if any(curves):
        axes.legend()
    caption = (
        f"Test images in {BINS} bins by confidence; a dot is as large as its share of the images. "
        "On the dashed line confidence is right, below it is too high."
    )
    return Picture("calibration", "Calibration", caption, png(figure))


def precision_recall(curves: Mapping[str, tuple[ArrayLike, ArrayLike, float]]) -> Picture:
    """Precision-recall curves.

    Args:
        curves: class -> (whether an image is of the class [N], its probability [N], the average
            precision). Of many classes those with the lowest average precision are drawn.
    """
    from sklearn.metrics import precision_recall_curve

    figure, axes = new_figure(3.9)
    lowest = sorted(curves.items(), key=lambda item: item[1][2])[:CURVES]
    for (name, (own, p, average)), colour in zip(lowest, PALETTE, strict=False):
        precision, recall, _ = precision_recall_curve(own, p)
        label = f"{name[:14]}: {100 * average:.0f} %"
        axes.step(
            100 * recall, 100 * precision, where="post", color=colour, linewidth=1.4, label=label
        )
    axes.set(xlim=(0, 103), ylim=(0, 103))
    axes.grid()
    axes.set_xlabel("recall (%)")
    axes.set_ylabel("precision (%)")
    axes.set_title("Precision and recall of each class against the others")
    figure.legend(loc="outside right center", fontsize=8)
    which = f"The {CURVES} classes with the lowest" if len(curves) > CURVES else "Each class's"
    caption = f"{which} average precision is in the legend, which names the lowest first."
    return Picture("precision_recall", "Precision and recall", caption, png(figure))


def mistakes(
    images: Images, rows: Sequence[int], titles: Sequence[tuple[str, str, float]], wrong: int
) -> Picture:
    """The images of wrong predictions, the most confident first.

    Args:
        rows: positions of the images that are shown.
        titles: of each (true class, predicted class, its probability).
        wrong: how many predictions are wrong in all.
    """
    from matplotlib.figure import Figure

    lines = -(-len(rows) // COLUMNS)
    (batch,) = images.batches([torch.tensor(rows)], torch.device("cpu"))
    x_B3HW = batch["x"].cpu().expand(-1, 3, -1, -1)
    _, _, high, wide = x_B3HW.shape
    cell = WIDTH / COLUMNS
    figure = Figure((WIDTH, 0.5 + lines * (cell * high / wide + 0.45)))
    grid: Any = figure.subplots(lines, COLUMNS, squeeze=False).flatten()
    for axes in grid:
        axes.set_axis_off()
    for axes, x_3HW, (true, predicted, p) in zip(grid, x_B3HW, titles, strict=False):
        axes.imshow(x_3HW.permute(1, 2, 0).clamp(0, 1).numpy(), interpolation="nearest")
        text = f"true: {true[:LONGEST]}\npredicted: {predicted[:LONGEST]}\n{100 * p:.1f} %"
        axes.set_title(text, loc="center", size=6.5, weight="normal", pad=2, color=INK)
    figure.suptitle(f"The most confident of {wrong} mistakes")
    caption = (
        "Above each image its class, the predicted one, and the predicted one's probability: "
        "look here for wrong labels first."
    )
    return Picture("mistakes", "Most confident mistakes", caption, png(figure), photographs=True)
