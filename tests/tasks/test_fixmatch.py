"""FixMatch's loss on fixed numbers, with and without distribution alignment."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sft_exp.core.types import Spec
from sft_exp.tasks.fixmatch import SHARE_MOMENTUM, FixMatch

LABELLED = torch.tensor([[2.0, 0.0], [0.0, 1.0], [0.5, 0.0]])
Y = torch.tensor([0, 1, 0])
WEAK = torch.tensor([[4.0, 0.0], [1.0, 0.0], [0.0, 0.4]])
STRONG = torch.tensor([[1.0, 0.0], [0.0, 3.0], [0.3, 0.1]])


class Itself(nn.Module):
    """An encoder whose features are its input."""

    width = 2

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def ready(**fields) -> tuple[FixMatch, nn.ModuleDict]:
    """The task with networks that give their input as logits, told of the labels 0, 1, 0."""
    task = FixMatch(standardise="none", head="random", **fields)
    nets = task.networks(Itself(), Spec((2,), ("a", "b")))
    with torch.no_grad():
        nets["head"].weight.copy_(torch.eye(2))
        nets["head"].bias.zero_()
    task.prepare(nets, {"pool": LABELLED, "f": LABELLED, "y": Y})
    return task, nets


def test_only_sure_guesses_count_and_all_share_the_mean():
    task, nets = ready(threshold=0.95, weight=2.0)
    # 4 - 0 in logits is 0.98; 1 - 0 is 0.73
    loss, shown = task.loss(nets, LABELLED, Y, WEAK, STRONG)
    guessed = F.cross_entropy(STRONG[:1], torch.tensor([0])) / 3
    torch.testing.assert_close(loss, F.cross_entropy(LABELLED, Y) + 2 * guessed)
    torch.testing.assert_close(shown["kept"], torch.tensor(1 / 3))


def test_alignment_divides_by_what_was_guessed_and_multiplies_by_what_is_known():
    task, nets = ready(threshold=0.6, align=True)
    torch.testing.assert_close(nets["known"].value, torch.tensor([2 / 3, 1 / 3]))
    before, _ = task.loss(nets, LABELLED, Y, WEAK, STRONG)
    same, _ = ready(threshold=0.6)[0].loss(nets, LABELLED, Y, WEAK, STRONG)
    assert torch.equal(before, same)  # nothing was guessed yet: nothing is corrected
    nets["guessed"].value.copy_(torch.tensor([0.9, 0.1]))  # the first class was guessed too often
    after, _ = task.loss(nets, LABELLED, Y, WEAK, STRONG)
    q = WEAK.softmax(1) * torch.tensor([2 / 3 / 0.9, 1 / 3 / 0.1])
    sure, guess = (q / q.sum(1, keepdim=True)).max(1)
    assert guess.tolist() == [0, 1, 1]  # the second image was taken for the first class
    kept = (sure >= 0.6).float()
    expected = (
        F.cross_entropy(LABELLED, Y)
        + (F.cross_entropy(STRONG, guess, reduction="none") * kept).mean()
    )
    torch.testing.assert_close(after, expected)


def test_the_share_of_guesses_is_a_running_mean():
    task, nets = ready(align=True)
    with torch.no_grad():
        task.on_step_end(nets, LABELLED, Y, WEAK, STRONG)
    mean = WEAK.softmax(1).mean(0)
    torch.testing.assert_close(
        nets["guessed"].value,
        SHARE_MOMENTUM * torch.tensor([2 / 3, 1 / 3]) + (1 - SHARE_MOMENTUM) * mean,
    )


@pytest.mark.parametrize("align", [False, True])
def test_no_gradient_passes_through_a_guess(align):
    task, nets = ready(threshold=0.0, align=align)
    weak = WEAK.clone().requires_grad_()
    task.loss(nets, LABELLED, Y, weak, STRONG)[0].backward()
    assert weak.grad is None or not weak.grad.any()
