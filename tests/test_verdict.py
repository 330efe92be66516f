"""Did it help? The words follow from the interval, and the interval holds as often as it says."""

from math import sqrt
from statistics import fmean, variance

import numpy as np
import pytest
from scipy.stats import t, ttest_rel

from sft_exp.verdict import interval, judge

A = [0.81, 0.79, 0.84, 0.80, 0.83]
B = [0.78, 0.78, 0.79, 0.79, 0.77]


def word(differences, ratio=0.0):
    return judge([0.5 + d for d in differences], [0.5] * len(differences), ratio, "").word


def test_the_interval_is_scipys_paired_t():
    mean, low, high = interval([a - b for a, b in zip(A, B, strict=True)])
    theirs = ttest_rel(A, B).confidence_interval(0.95)
    assert (low, high) == pytest.approx((theirs.low, theirs.high))
    assert mean == pytest.approx(fmean(A) - fmean(B))


def test_folds_of_one_data_set_widen_it_by_nadeau_and_bengio():
    """Equation 5: s^2 (1/n + n_test/n_train), here 1/5 + 1/4 instead of 1/5."""
    differences = [a - b for a, b in zip(A, B, strict=True)]
    mean, low, high = interval(differences, ratio=0.25)
    half = t.ppf(0.975, 4) * sqrt(variance(differences) * (1 / 5 + 1 / 4))
    assert (low, high) == pytest.approx((mean - half, mean + half))
    _, narrow, _ = interval(differences)
    assert (mean - low) / (mean - narrow) == pytest.approx(1.5)


@pytest.mark.parametrize("n", [5, 10])
def test_the_interval_covers_the_truth_as_often_as_it_says(n):
    """95 % of 2,000 experiments whose true difference is known; the sampling error of this share is half a point."""
    samples = np.random.default_rng(n).normal(0.01, 0.02, (2000, n))
    covered = [low <= 0.01 <= high for _, low, high in map(interval, samples.tolist())]
    assert 0.94 <= fmean(covered) <= 0.97


@pytest.mark.parametrize("n", [5, 10])
def test_pretraining_that_does_nothing_is_rarely_said_to_do_something(n):
    samples = np.random.default_rng(n).normal(0.0, 0.02, (2000, n)).tolist()
    words = [word(s) for s in samples]
    assert words.count("helped") / 2000 < 0.035
    assert words.count("hurt") / 2000 < 0.035


def test_a_fold_shared_by_both_arms_cancels():
    """Differences are paired: what makes a draw easy for both arms says nothing about pretraining."""
    easy = [0.1, 0.2, 0.3, 0.4, 0.5]
    gain = [0.02, 0.021, 0.019, 0.02, 0.022]
    verdict = judge([e + g for e, g in zip(easy, gain, strict=True)], easy, 0.0, "")
    assert verdict.word == "helped"
    assert verdict.low > 0.018


def test_the_three_words():
    helped = judge(A, B, 0.0, "It covers 5 label draws.")
    assert helped.word == "helped"
    assert helped.low > 0
    assert helped.draws == 5
    assert helped.text.startswith("Pretraining helped: +3.2 points (95 % interval +")
    assert helped.text.endswith("It covers 5 label draws.")
    hurt = judge(B, A, 0.0, "")
    assert hurt.word == "hurt"
    assert (hurt.low, hurt.high) == pytest.approx((-helped.high, -helped.low))
    assert word([0.01, -0.01, 0.02, -0.03, 0.0]) == "cannot tell"


@pytest.mark.parametrize("differences", [[0.0, 0.0, 0.0], [0.25, 0.25], [-0.1, -0.1, -0.1]])
def test_the_same_difference_in_every_draw_proves_nothing(differences):
    """An interval of width 0 claims a certainty that a few draws cannot give; rounding must not hide that it is one."""
    assert word(differences) == "cannot tell"
    assert judge([0.9, 0.92], [0.88, 0.90], 0.0, "").word == "cannot tell"


def test_one_draw_has_no_interval():
    verdict = judge([0.9], [0.5], 0.0, "")
    assert (verdict.word, verdict.low, verdict.high) == ("cannot tell", None, None)
    assert "no interval" in verdict.text


def test_arms_of_different_length_are_not_compared():
    with pytest.raises(ValueError, match="shorter"):
        judge(A, B[:4], 0.0, "")
