"""How many times the labels does the same model from scratch need for this score?

(Newell & Deng, arXiv:2003.14323, section 3.) With L the logarithm of the labels, scratch's curve is
straight in L between the label counts that were run, and L* is where it reaches the pretrained
score. The worth of n labels is exp(L* - log n). Its interval is by the delta method over seeds and
draws:

    w_sd = L* + (p_sd - (1 - h) a_sd - h b_sd) / slope,    slope = (b - a) / (L_b - L_a),

where p are the pretrained scores, a and b those of scratch at the two label counts around L*, and h
is (L* - L_a) / (L_b - L_a). The derivatives of L* by the means of p, a and b are 1 / slope,
-(1 - h) / slope and -h / slope, so that the mean of w is L* and its spread that of L* to the first
order. Seeds and draws are crossed in w as they are in gains: all pretrainings share the label sets,
so an interval over seeds alone covers far too little.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import exp, inf, log

import numpy as np
from numpy.typing import ArrayLike

from sft_exp.errors import DataError
from sft_exp.verdict.evidence import Moments, weigh

LARGEST = 700.0  # logarithm that exp can take


@dataclass(frozen=True)
class Worth:
    times: float  # labels that scratch needs over labels used
    low: float  # of the interval; 0 where the curve gives no lower bound
    high: float  # infinite where the curve gives no upper bound
    # 1 or -1: the pretrained score lies above or below the whole curve, and `times` is only a bound
    beyond: int

    def __str__(self) -> str:
        """`2.3 (1.4 to 4.1) times the labels`."""
        if self.beyond:
            return f"{'more' if self.beyond > 0 else 'less'} than {self.times:.2g} times the labels"
        if self.high == inf:
            return f"{self.times:.2g} times the labels (the curve is too flat for an interval)"
        return f"{self.times:.2g} ({self.low:.2g} to {self.high:.2g}) times the labels"


def worth(
    pretrained: ArrayLike, scratch: Mapping[float, ArrayLike], labels: float, alpha: float = 0.05
) -> Worth:
    """The worth of scores [S, D] at a label count, with the interval of level 1 - alpha.

    Args:
        scratch: scores [S, D] by label count; with one draw [S, 1] where all labels are used.
        labels: the label count of the fine-tuning.
        alpha: 0.05 / k for a table of k worths whose intervals hold together.

    Raises:
        DataError: fewer than two label counts, or scores of other shapes.
    """
    p = np.asarray(pretrained, float)
    if len(scratch) < 2:
        raise DataError(
            f"worth of {labels:g} labels: needs scratch's scores at two label counts or more, not "
            f"{len(scratch)}"
        )
    counts = sorted(scratch)
    logs = np.log(counts)
    try:
        curve = np.stack([np.broadcast_to(np.asarray(scratch[n], float), p.shape) for n in counts])
    except ValueError as e:
        raise DataError(
            f"worth of {labels:g} labels: scratch's scores must have the seeds and draws of "
            f"{p.shape} ({e})"
        ) from e
    # more labels never count as worse than fewer
    means = np.maximum.accumulate(curve.mean((-2, -1)))
    score = float(p.mean())
    if score > means[-1] or score < means[0]:
        above = score > means[-1]
        end = counts[-1] if above else counts[0]
        return Worth(
            end / labels,
            end / labels if above else 0.0,
            inf if above else end / labels,
            1 if above else -1,
        )
    at = int(np.clip(np.searchsorted(means, score, "right") - 1, 0, len(counts) - 2))
    width = logs[at + 1] - logs[at]
    slope = (means[at + 1] - means[at]) / width
    if slope <= 0:
        return Worth(exp(logs[at] - log(labels)), 0.0, inf, 0)
    share = (score - means[at]) / (means[at + 1] - means[at])
    here = logs[at] + share * width - log(labels)
    w = (p - (1 - share) * curve[at] - share * curve[at + 1]) / slope
    half = float(weigh(Moments.of([w]), None).half(np.array([alpha]))[0]) if w.size > 1 else inf
    return Worth(
        exp(here), exp(here - half), exp(min(here + half, LARGEST)) if half < inf else inf, 0
    )
