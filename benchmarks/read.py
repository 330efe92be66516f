"""What a sweep has left, for the tables that are made of it."""

import json
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from typing import Any

from sft_exp.verdict import crossed

By = dict[int, list[float]]  # seed -> accuracy of each label draw


def results(*sweeps: Path) -> Iterator[dict[str, Any]]:
    """results.json of the jobs that are done, in the order of the sweep."""
    for sweep in sweeps:
        for file in sorted(sweep.glob("*/results.json"), key=lambda f: int(f.parent.name)):
            yield json.loads(file.read_text())


def mean(scores: By) -> float:
    """In %, over seeds and draws."""
    return 100 * fmean(a for draws in scores.values() for a in draws)


def against(scores: By, base: By, sentences: int) -> tuple[float, float, float, str]:
    """(difference, low, high) in points, of the same seed and draw, and the verdict's word. One of so many sentences that hold
    together (Bonferroni)."""
    differences = [
        [a - b for a, b in zip(draws, base[seed], strict=True)]
        for seed, draws in sorted(scores.items())
    ]
    middle, low, high = crossed.interval(
        differences, level=crossed.shared(crossed.LEVEL, sentences)
    )
    return 100 * middle, 100 * low, 100 * high, crossed.word_of(low, high, crossed.MARGIN)
