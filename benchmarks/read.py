"""What a sweep has left, for the tables that are made of it."""

import json
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from typing import Any

from sft_exp.verdict import Comparison, Setting, judge

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
    """(difference, low, high) in points, of the same seed and draw, and the verdict's word, without an archive. One of so
    many sentences that hold together (Bonferroni)."""
    seeds = sorted(scores)
    comparison = Comparison([scores[s] for s in seeds], [base[s] for s in seeds])
    found = judge({"": comparison}, Setting(alpha=0.05 / sentences)).verdicts[""]
    return 100 * found.difference, 100 * found.low, 100 * found.high, found.word
