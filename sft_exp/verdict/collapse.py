"""Which seeds collapsed, judged by scores: those far below the other seeds of the same arm."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sft_exp.verdict.archive import Prior
from sft_exp.verdict.design import REST, SEED, mean_squares

IMPOSSIBLE = 1e-3  # chance that any seed is called collapsed in an arm where none is


def trained(
    scores: ArrayLike, prior: Prior | None, tested: int | None = None, proportion: bool = True
) -> NDArray[np.bool_]:
    """Which seeds [..., S] of an arm's scores [..., S, D] trained; higher scores are better.

    The better half of the seeds, and at least two, count as trained. The others are compared with
    those, from the best to the worst, by a one-sided t test at IMPOSSIBLE / S: with n seeds that
    trained and their mean square MS, moderated by the prior and scaled up to the observed rest,
    seed s collapsed if

        mean_trained - mean_s > t sqrt(MS (1 + 1 / n) / D),

    and then so did all worse ones. The test starts at the better seeds because two collapsed seeds
    would hide each other. Three seeds are needed: of two that differ, either may have collapsed.
    """
    from scipy.special import stdtrit

    x = np.asarray(scores, float)
    seeds, draws = x.shape[-2:]
    suspects = (seeds - 1) // 2
    means = x.mean(-1)
    order = np.argsort(-means, -1)
    rank = np.argsort(order, -1)
    kept = rank < seeds - suspects
    open_ = np.ones(x.shape[:-2], bool)
    for k in range(seeds - suspects, seeds):
        n = kept.sum(-1)
        middle = np.where(kept, means, 0.0).sum(-1) / n
        squares, degrees = mean_squares(x, kept)
        square, f = squares[..., SEED], degrees[..., SEED]
        if prior is not None:
            # an arm varies as half of a gain between two arms that are alike
            expected = prior.expected(middle, middle, 1, draws, tested, proportion) / 2
            scale = np.maximum(squares[..., REST] / expected[..., REST], 1.0 if proportion else 0.0)
            borrowed = np.where(
                degrees[..., REST] > 0, prior.degrees, prior.degrees if proportion else 0.0
            )
            square = (borrowed * scale * expected[..., SEED] + f * square) / (borrowed + f)
            f = f + borrowed
        t = -stdtrit(f, IMPOSSIBLE / seeds)
        next_mean = np.take_along_axis(means, order[..., k : k + 1], -1)[..., 0]
        far = middle - next_mean > t * np.maximum(np.sqrt(square * (1 + 1 / n) / draws), 1e-12)
        open_ &= ~far
        kept |= (rank == k) & open_[..., None]
    return kept
