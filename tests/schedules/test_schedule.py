"""The learning rate's factor is a pure function of progress."""

from itertools import pairwise
from math import cos, pi

import pytest

from sft_exp.config.help_text import options
from sft_exp.errors import ConfigError
from sft_exp.schedules.piecewise_cosine import PiecewiseCosine

AT = [i / 100 for i in range(101)]


def test_constant_is_one_throughout():
    assert {PiecewiseCosine()(p) for p in AT} == {1.0}


def test_cosine_is_half_a_cosine():
    cosine = PiecewiseCosine([[0.0, 1.0], [1.0, 0.0]])
    assert [cosine(p) for p in AT] == pytest.approx([(1 + cos(pi * p)) / 2 for p in AT])


def test_it_passes_through_its_points_and_never_beyond_them():
    points = [[0.0, 0.1], [0.2, 1.0], [0.6, 0.5], [1.0, 0.0]]
    schedule = PiecewiseCosine(points)
    assert [schedule(p) for p, _ in points] == pytest.approx([f for _, f in points])
    assert schedule(0.1) == pytest.approx(0.55)
    assert schedule(0.4) == pytest.approx(0.75)
    for (a, low), (b, high) in pairwise(points):
        between = [schedule(a + (b - a) * i / 50) for i in range(51)]
        assert between == sorted(between, reverse=high < low)


def test_the_last_factor_holds_to_the_end():
    assert PiecewiseCosine([[0.0, 1.0], [0.5, 0.2]])(0.8) == 0.2


def test_two_points_at_one_place_are_a_jump():
    step = PiecewiseCosine([[0.0, 1.0], [0.5, 1.0], [0.5, 0.1], [1.0, 0.1]])
    assert [step(p) for p in (0.0, 0.49, 0.5, 0.51, 1.0)] == pytest.approx([1, 1, 0.1, 0.1, 0.1])


@pytest.mark.parametrize(
    "points",
    [
        [],
        [[0.5, 1.0]],
        [[0.0, 1.0], [0.7, 1.0], [0.3, 0.5]],
        [[0.0, -1.0]],
        [[0.0]],
        [[0.0, float("nan")]],
        [[0.0, float("inf")]],
        [[0.0, 1.0], [float("nan"), 1.0]],
    ],
)
def test_impossible_points_are_refused(points):
    with pytest.raises(ConfigError, match=r"points=.*rising from 0"):
        PiecewiseCosine(points)


@pytest.mark.parametrize("name", options("schedule"))
def test_every_schedule_ends_where_a_training_may_end(experiment, name):
    """Factors are between 0 and 1, and the first step's is not 0: a training of one step must do something."""
    schedule = experiment(f"schedule={name}", f"pretrain_schedule={name}").schedule
    factors = [schedule(p) for p in AT]
    assert 0 <= min(factors) <= max(factors) <= 1
    assert factors[0] > 0
    assert max(factors) == pytest.approx(1)
