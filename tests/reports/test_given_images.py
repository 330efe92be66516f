"""The picture of the network's inputs and targets."""

import warnings
from io import BytesIO

import torch
from PIL import Image

from sft_exp.reports import drawing, inputs

X_B1HW = torch.full((2, 1, 24, 24), 0.5)


def test_a_mask_is_laid_over_its_image():
    mask_BHW = torch.zeros(2, 24, 24, dtype=torch.long)
    mask_BHW[0, :12] = 1
    shown = inputs.marked({"x": X_B1HW, "mask": mask_BHW, "y": torch.tensor([-1, -1])})
    assert not torch.equal(shown[0, :, :12], X_B1HW[0].expand(3, -1, -1)[:, :12])
    assert torch.equal(shown[1], X_B1HW[1].expand(3, -1, -1))


def test_boxes_are_drawn_where_they_are():
    boxes = torch.tensor([[[4.0, 6.0, 14.0, 16.0]], [[0.0, 0.0, 0.0, 0.0]]])
    labels = torch.tensor([[1], [0]])
    batch = {"x": X_B1HW, "boxes": boxes, "labels": labels, "y": torch.tensor([-1, -1])}
    shown = inputs.marked(batch)
    changed = (shown[0] - 0.5).abs().amax(0) > 0.05
    rows, columns = changed.nonzero().unbind(1)
    assert (rows.min(), columns.min()) == (6, 4)
    assert abs(int(rows.max()) - 16) <= 1
    assert not ((shown[1] - 0.5).abs() > 0.05).any()


def test_titles_are_classes_or_numbers():
    batch = {"x": X_B1HW, "y": torch.tensor([1, -1])}
    assert inputs.named(batch, ("cat", "dog")) == ["dog", ""]
    batch["target"] = torch.tensor([[0.25, 3.0], [1.0, 2.0]])
    assert inputs.named(batch, ()) == ["0.25, 3", "1, 2"]


def test_class_names_in_any_script_give_no_warning():
    from matplotlib import rc_context

    with warnings.catch_warnings(), rc_context(drawing.style()):
        warnings.simplefilter("error")
        figure, axes = drawing.new_figure(1.4)  # the smallest of a report
        axes.set_title("猫 한국어 हिन्दी ไทย $x_")
        assert Image.open(BytesIO(drawing.png(figure))).width > 100
