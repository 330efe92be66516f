"""The contract of a learning-rate schedule."""

from dataclasses import dataclass


@dataclass
class Schedule:
    """The factor of the learning rate as a pure function of progress, so that a checkpoint holds no state of it."""

    def __call__(self, progress: float) -> float:
        """The factor, 0 or more, at `progress`: the share of the steps that are done, from 0 to below 1."""
        raise NotImplementedError
