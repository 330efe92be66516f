"""Alternate what is compared, so that noise and a machine's moods hit all alike; quote medians."""

import time
from collections.abc import Callable, Mapping
from statistics import median


def interleaved(parts: Mapping[str, Callable[..., object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each part in each round, after one warm-up round."""
    seconds: dict[str, list[float]] = {name: [] for name in parts}
    for n in range(rounds + 1):
        for name, part in parts.items():
            started = time.perf_counter()
            part()
            if n:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def report(seconds: dict[str, list[float]], ours: str, unit: str) -> None:
    """Median, least and most of each, and ours as a share of each other, paired round by round."""
    for name, values in seconds.items():
        ratio = median(a / b for a, b in zip(seconds[ours], values, strict=True))
        share = "" if name == ours else f"   {ours} / this = {ratio:.2f}"
        print(
            f"  {name:34} {median(values):8.3f} s {unit} ({min(values):.3f} to {max(values):.3f}){share}"
        )
