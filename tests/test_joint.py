"""The joint-embedding methods: each loss on fixed numbers against its authors' formula, and what each method must keep."""

from itertools import product
from math import exp, log

import pytest
import torch
from torch.nn.functional import cosine_similarity

from sft_exp.core import stream
from sft_exp.losses import nt_xent

A_BZ, B_BZ = torch.randn(2, 6, 4, generator=stream("a, b"))


def close(a, b):
    assert float(a) == pytest.approx(float(b), rel=1e-5, abs=1e-6)


# SimCLR


@pytest.mark.parametrize("temperature", [0.1, 0.5, 2.0])
def test_nt_xent_is_equation_1(temperature):
    """l(i, j) = -log(exp(s_ij / t) / sum_{k != i} exp(s_ik / t)), averaged over both members of every pair."""
    z, n = torch.cat([A_BZ, B_BZ]), len(A_BZ)

    def s(i, k):
        return exp(float(cosine_similarity(z[i], z[k], dim=0)) / temperature)

    def l_of(i, j):
        return -log(s(i, j) / sum(s(i, k) for k in range(2 * n) if k != i))

    close(nt_xent(A_BZ, B_BZ, temperature), sum(l_of(k, k + n) + l_of(k + n, k) for k in range(n)) / (2 * n))


def test_nt_xent_of_equal_views_of_orthogonal_images():
    """Every partner at cosine 1, everyone else at 0: -log(e^(1/t) / (e^(1/t) + 2 (B - 1)))."""
    z_BZ = torch.eye(5)
    close(nt_xent(z_BZ, 3 * z_BZ, 0.5), -log(exp(2) / (exp(2) + 8)))


def test_nt_xent_knows_neither_length_nor_order():
    turn = torch.randperm(6, generator=stream("order"))
    for a, b in product((A_BZ, 7 * A_BZ), (B_BZ, 0.1 * B_BZ)):
        close(nt_xent(a, b, 0.5), nt_xent(A_BZ, B_BZ, 0.5))
        close(nt_xent(b[turn], a[turn], 0.5), nt_xent(A_BZ, B_BZ, 0.5))


def test_nt_xent_is_lightlys():
    NTXentLoss = pytest.importorskip("lightly.loss", reason="lightly, an independent check, is not installed").NTXentLoss
    close(nt_xent(A_BZ, B_BZ, 0.5), NTXentLoss(0.5)(A_BZ, B_BZ))
