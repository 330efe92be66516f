"""Forecasts from a few label counts."""

import numpy as np
import pytest

from sft_exp.label.learning_curve import forecast

COUNTS = (20, 40, 80, 160)


def curve(seed, a=0.1, b=1.5, c=0.5, spread=0.3, draws=10):
    """A power law's accuracies: draws lie around it by `spread` / count."""
    rng = np.random.default_rng(seed)
    made = {
        n: 1 - a - b * n**-c + spread / n**0.75 * rng.standard_normal(draws)
        for n in (*COUNTS, 240, 320)
    }
    return {n: list(v) for n, v in made.items()}


def test_intervals_hold_what_they_promise_on_power_laws():
    inside = []
    for seed in range(40):
        rng = np.random.default_rng(1000 + seed)
        scores = curve(
            seed,
            a=rng.uniform(0, 0.4),
            b=rng.uniform(0.5, 2),
            c=rng.uniform(0.2, 0.8),
            spread=rng.uniform(0.1, 0.6),
        )
        for n in (240, 320):
            found = forecast({k: scores[k] for k in COUNTS}, n)
            inside += [found.low <= s <= found.high for s in scores[n]]
    assert 0.90 <= np.mean(inside) <= 0.99


def test_nearer_counts_and_quieter_draws_are_surer():
    def width(n, spread):
        found = forecast({k: v for k, v in curve(0, spread=spread).items() if k in COUNTS}, n)
        assert found.low < found.mean < found.high
        return found.high - found.low

    assert width(200, 0.1) < width(200, 0.5)
    assert width(200, 0.1) < width(1600, 0.1)


def test_accuracies_stay_accuracies():
    for level in (0.995, 0.005):
        found = forecast({n: [level - 0.004, level, level + 0.004] for n in (10, 20)}, 4000)
        assert 0 <= found.low <= found.high <= 1


@pytest.mark.parametrize("draws", [3, 10])
def test_the_same_curve_has_the_same_forecast(draws):
    scores = {k: v for k, v in curve(1, draws=draws).items() if k in COUNTS}
    assert forecast(scores, 210) == forecast(dict(reversed(scores.items())), 210)
