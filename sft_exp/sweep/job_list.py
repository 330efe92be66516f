"""The jobs that a study lists, crossed with the other values that its command sweeps over."""

from collections.abc import Sequence


def listed(combinations: Sequence[Sequence[str]], jobs: Sequence[Sequence[str]]) -> list[list[str]]:
    """The overrides of every combination with every job.

    A job's overrides replace those of the same keys. Where a job chooses another option than the
    combination does, the keys of that option go with it: of `encoder=conv encoder.channels=[8,16]`
    the job `encoder=pixels` leaves nothing.
    """
    return [
        [*(override for override in combination if not replaced(override, combination, job)), *job]
        for combination in combinations
        for job in jobs
    ]


def replaced(override: str, combination: Sequence[str], job: Sequence[str]) -> bool:
    """Whether a job's overrides leave nothing of one of the combination's."""
    ours, theirs = ({key(o): value(o) for o in overrides} for overrides in (job, combination))
    group = key(override).partition(".")[0]
    return key(override) in ours or (
        group in ours and group in theirs and ours[group] != theirs[group]
    )


def key(override: str) -> str:
    return override.partition("=")[0].lstrip("+")


def value(override: str) -> str:
    return override.partition("=")[2]
