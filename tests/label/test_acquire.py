"""Strategies that choose images to label, on features whose clusters are known."""

import pytest
import torch

from sft_exp.core.rng import stream
from sft_exp.label import acquire, selection
from sft_exp.label.acquire import coreset, margin, random, typiclust

CENTRES = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0], [10.0, 10.0]])


@pytest.fixture(scope="module")
def clusters():
    """Four clouds of 40, 30, 20 and 10 images: (features, cloud of each)."""
    of_N = torch.tensor([0] * 40 + [1] * 30 + [2] * 20 + [3] * 10)
    return CENTRES[of_N] + torch.randn(100, 2, generator=stream("clouds")), of_N


def unknown(n=100):
    return torch.zeros(n, dtype=torch.bool)


def test_directions_forget_the_mean_and_the_lengths(clusters):
    f_ND, _ = clusters
    assert torch.allclose(acquire.directions(3 * f_ND + 7), acquire.directions(f_ND), atol=1e-5)
    assert torch.allclose(acquire.directions(f_ND).norm(dim=1), torch.ones(100))


def every(f_ND, known_N, n, seed):
    """Each strategy's choice."""
    return {
        "typiclust": typiclust(f_ND, known_N, n, seed),
        "coreset": coreset(f_ND, known_N, n, seed),
        "margin": margin(f_ND, known_N, n),
        "random": random(known_N, n, seed),
    }


def test_the_commands_strategies_are_these():
    assert set(selection.STRATEGIES) == set(every(torch.rand(9, 2), unknown(9), 1, 0))


@pytest.mark.parametrize("n", [1, 7, 95])
def test_choices_are_new_distinct_and_repeatable(clusters, n):
    f_ND, _ = clusters
    known_N = unknown().index_fill(0, torch.tensor([0, 41, 42, 99]), True)
    first, again = every(f_ND, known_N, n, 5), every(f_ND, known_N, n, 5)
    for name, rows in first.items():
        assert len(rows) == len(set(rows.tolist())) == n, name
        assert not known_N[rows].any(), name
        assert torch.equal(rows, again[name]), name


def test_typiclust_takes_the_middle_of_each_cluster_the_largest_first(clusters):
    f_ND, of_N = clusters
    rows = typiclust(f_ND, unknown(), 4, 0)
    assert of_N[rows].tolist() == [0, 1, 2, 3]
    away_N = (f_ND - CENTRES[of_N]).norm(dim=1)
    for row, cloud in zip(rows.tolist(), range(4), strict=True):
        assert away_N[row] < away_N[of_N == cloud].median()


def test_typiclust_leaves_clusters_that_have_a_label(clusters):
    f_ND, of_N = clusters
    known_N = unknown().index_fill(0, torch.tensor([3, 45]), True)  # clouds 0 and 1
    assert of_N[typiclust(f_ND, known_N, 2, 0)].tolist() == [2, 3]


def test_typiclust_asks_outliers_last(clusters):
    """A cluster of one far image is no type."""
    f_ND, _ = clusters
    far_ND = torch.cat([f_ND, torch.tensor([[500.0, 500.0]])])
    assert 100 not in typiclust(far_ND, unknown(101), 4, 0).tolist()


def test_more_labels_than_clusters_are_shared_out(clusters, monkeypatch):
    monkeypatch.setattr(acquire, "CLUSTERS", 4)
    f_ND, of_N = clusters
    assert torch.bincount(of_N[typiclust(f_ND, unknown(), 12, 0)]).tolist() == [3, 3, 3, 3]


def test_coreset_goes_where_nothing_is_known(clusters):
    """Each choice is the image farthest from those before it (arXiv:1708.00489, algorithm 1)."""
    f_ND, of_N = clusters
    known_N = unknown().index_fill(0, torch.tensor([0]), True)
    rows = coreset(f_ND, known_N, 3, 0).tolist()
    assert sorted(of_N[rows].tolist()) == [1, 2, 3]
    for k, row in enumerate(rows):
        away_N = torch.cdist(f_ND, f_ND[[0, *rows[:k]]]).min(1).values
        assert away_N[row] == away_N.max()


def test_margin_asks_where_two_classes_are_even():
    logits_NY = torch.tensor([[9.0, 0.0, 0.0], [3.0, 2.9, 0.0], [1.0, 0.5, 0.5], [2.0, 2.0, -9.0]])
    assert margin(logits_NY, unknown(4), 3).tolist() == [3, 1, 2]
    assert margin(logits_NY, torch.tensor([False, False, False, True]), 2).tolist() == [1, 2]
