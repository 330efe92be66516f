"""Half cosines between given points: constant, cosine, warm-up and one-cycle schedules are options of it.

Cosine annealing: Loshchilov & Hutter, arXiv:1608.03983, equation 5; one cycle: Smith & Topin, arXiv:1708.07120.
"""

from bisect import bisect_right
from dataclasses import dataclass, field
from math import cos, inf, pi

from sft_exp.core.schedule import Schedule
from sft_exp.errors import require


@dataclass
class PiecewiseCosine(Schedule):
    # [progress from 0 to 1, factor], joined by half cosines
    points: list[list[float]] = field(default_factory=lambda: [[0.0, 1.0]])

    def __post_init__(self):
        at = [p[0] for p in self.points if len(p) == 2 and all(0 <= v < inf for v in p)]
        ok = len(at) == len(self.points) > 0 and at == sorted(at) and at[0] == 0
        require(
            ok,
            "points",
            self.points,
            "pairs [progress, factor], progress rising from 0, factors 0 or more",
        )

    def __call__(self, progress: float) -> float:
        """Factor at `progress` in [0, 1]; the last point's factor holds to the end."""
        n = bisect_right([p[0] for p in self.points], progress)
        (a, low), (b, high) = self.points[n - 1], self.points[min(n, len(self.points) - 1)]
        return (
            high if a == b else high + (low - high) * (1 + cos(pi * (progress - a) / (b - a))) / 2
        )
