"""The jobs of a study that lists them, crossed with whatever else its command ranges over."""

from collections.abc import Sequence


def listed(given: Sequence[Sequence[str]], jobs: Sequence[Sequence[str]]) -> list[list[str]]:
    """The overrides of every combination with every job of the list, which has the last word on its keys."""
    return [
        [*(o for o in one if key(o) not in map(key, job)), *job] for one in given for job in jobs
    ]


def key(override: str) -> str:
    return override.partition("=")[0].lstrip("+")
