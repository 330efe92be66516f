"""Labels that contradict those of the neighbours."""

import torch

from sft_exp.core.rng import stream
from sft_exp.label.suspicious import agreement


def test_flipped_labels_come_first():
    rng = stream("suspicious")
    y_N = torch.arange(300) % 3
    f_ND = torch.nn.functional.normalize(
        torch.eye(3)[y_N] + 0.15 * torch.randn(300, 3, generator=rng)
    )
    flipped = torch.randperm(300, generator=rng)[:15]
    wrong_N = y_N.clone()
    wrong_N[flipped] = (y_N[flipped] + 1) % 3
    agreement_N, other_N = agreement(f_ND, wrong_N, 3)
    assert set(agreement_N.argsort()[:15].tolist()) == set(flipped.tolist())
    assert torch.equal(other_N[flipped], y_N[flipped])
    assert (agreement_N[flipped] < -0.5).all()
    assert agreement_N.abs().max() <= 1 + 1e-6


def test_an_image_is_not_asked_about_itself():
    """Four images in one place, one of them of another label: all others contradict it, and it them a little."""
    f_ND = torch.tensor([[1.0, 0.0]] * 4)
    agreement_N, other_N = agreement(f_ND, torch.tensor([0, 0, 0, 1]), 2)
    assert torch.allclose(agreement_N, torch.tensor([1 / 3, 1 / 3, 1 / 3, -1.0]), atol=1e-6)
    assert other_N.tolist() == [0, 0, 0, 0]
