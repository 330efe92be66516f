"""The jobs that a study lists, crossed with the other values that its command sweeps over."""

from collections.abc import Sequence


def listed(combinations: Sequence[Sequence[str]], jobs: Sequence[Sequence[str]]) -> list[list[str]]:
    """The overrides of every combination with every job; a job's overrides replace those of the
    same keys."""
    return [
        [*(override for override in combination if key(override) not in map(key, job)), *job]
        for combination in combinations
        for job in jobs
    ]


def key(override: str) -> str:
    return override.partition("=")[0].lstrip("+")
