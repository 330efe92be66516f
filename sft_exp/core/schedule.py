"""The base class of learning-rate schedules."""

from dataclasses import dataclass


@dataclass
class Schedule:
    """The factor of the learning rate as a pure, stateless function of progress."""

    def __call__(self, progress: float) -> float:
        """The factor, 0 or more, at `progress`, the share of completed steps in [0, 1)."""
        raise NotImplementedError
