"""A learning-rate schedule that joins given points by half cosines.

Constant, cosine, warm-up and one-cycle schedules are options of it. Cosine annealing: Loshchilov &
Hutter, arXiv:1608.03983, equation 5; one cycle: Smith & Topin, arXiv:1708.07120.
"""

from bisect import bisect_right
from dataclasses import dataclass, field
from math import cos, inf, pi

from sft_exp.core.schedule import Schedule
from sft_exp.errors import require


@dataclass
class PiecewiseCosine(Schedule):
    # pairs [progress from 0 to 1, factor of the learning rate]
    points: list[list[float]] = field(default_factory=lambda: [[0.0, 1.0]])

    def __post_init__(self):
        pairs = all(len(p) == 2 and all(0 <= v < inf for v in p) for p in self.points)
        progress = [p[0] for p in self.points] if pairs else []
        rises = bool(progress) and progress == sorted(progress) and progress[0] == 0
        valid = "pairs [progress, factor], with progress rising from 0 and factors of 0 or more"
        require(rises, "points", self.points, valid)

    def __call__(self, progress: float) -> float:
        """The factor at `progress` in [0, 1]; after the last point it stays constant."""
        n = bisect_right([p[0] for p in self.points], progress)
        (a, low), (b, high) = self.points[n - 1], self.points[min(n, len(self.points) - 1)]
        return (
            high if a == b else high + (low - high) * (1 + cos(pi * (progress - a) / (b - a))) / 2
        )
